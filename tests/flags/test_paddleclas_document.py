"""Configurations as data: the lines of keys, overrides as PaddleClas has them, bounds, and what is said of bad ones."""

from __future__ import annotations

import pytest

from utils.errors import FlagError, FormatError
from utils.flags.paddleclas.document import arithmetic, literal, read_document
from utils.formats.yaml_data import read_yaml_lines

TEXT = """\
Global:
  epochs: 20
  seed: null
  rate: 1e-3   # a text in YAML 1.1
Arch: {name: ResNet18, strides: [2, [2, 1]]}
DataLoader:
  - ResizeImage:
      size: 224
      scale: 1e-3
  - Flip
"""


@pytest.fixture
def document(tmp_path):
    def read(*overrides: str, text: str = TEXT):
        (tmp_path / "a.yaml").write_text(text)
        return read_document(str(tmp_path / "a.yaml"), overrides)

    return read


def test_texts_that_are_literals_have_their_values_but_not_in_lists(document):
    content = document().content
    assert content["Global"] == {"epochs": 20, "seed": None, "rate": 0.001}
    assert content["DataLoader"][0]["ResizeImage"]["scale"] == "1e-3"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("Global", "epochs"), "line 2: Global.epochs"),
        (("Arch", "strides", 1, 0), "line 5: Arch.strides.1.0"),
        (("DataLoader", 0, "ResizeImage", "size"), "line 8: DataLoader.0.ResizeImage.size"),
        (("DataLoader", 0, "ResizeImage", "missing"), "line 7: DataLoader.0.ResizeImage.missing"),
        (("Loss",), ": Loss"),
    ],
)
def test_places(document, path, place):
    assert document().place(path).endswith(f"a.yaml {place}".replace(" :", ":"))


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("Global.epochs=30", ("Global", "epochs"), 30),
        ("Global.lr=1e-3", ("Global", "lr"), 0.001),
        ("Global.lr=0.1*4/8", ("Global", "lr"), 0.05),
        ("Global.use_gpu=True", ("Global", "use_gpu"), True),
        ("Global.use_gpu=false", ("Global", "use_gpu"), "false"),
        ("Global.pretrained_model=None", ("Global", "pretrained_model"), None),
        ("Global.pretrained_model=a=b/best_model", ("Global", "pretrained_model"), "a=b/best_model"),
        ("Arch.strides=[2, [2, 1], 1]", ("Arch", "strides"), [2, [2, 1], 1]),
        ("Arch.strides.1.0=4", ("Arch", "strides"), [2, [4, 1]]),
        ("DataLoader.0.ResizeImage.size=32", ("DataLoader", 0, "ResizeImage", "size"), 32),
        ("DataLoader.1=None", ("DataLoader", 1), None),
        ("New.deep.key=x", ("New", "deep", "key"), "x"),
        ("Global.seed.deep=1", ("Global", "seed"), {"deep": 1}),
    ],
)
def test_overrides(document, override, keys, value):
    found = document(override)
    here = found.content
    for key in keys:
        here = here[key]
    assert here == value and type(here) is type(value)
    changed = override.partition("=")[0].split(".")
    path = tuple(int(part) if part.isdecimal() else part for part in changed)
    assert found.place(path) == f"-o {override}: {'.'.join(changed)}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.epochs", "-o Global.epochs: give KEY=VALUE"),
        ("Global..epochs=1", "give KEY=VALUE"),
        ("=1", "give KEY=VALUE"),
        ("DataLoader.2=1", "DataLoader is a list of 2, and '2' is not an index in it: 0 ResizeImage"),
        ("DataLoader.Train.size=1", "'Train' is not an index in it"),
        ("Global.epochs.deep=1", "Global.epochs is 20, which has no part 'deep'"),
    ],
)
def test_bad_overrides(document, override, message):
    with pytest.raises(FlagError, match=r"^-o ") as raised:
        document(override)
    assert message in str(raised.value)


def test_an_override_never_runs_code(document, tmp_path):
    path = tmp_path / "made"
    content = document(f"Global.x=open({str(path)!r}, 'w')", "Global.y=__import__('os')").content
    assert content["Global"]["x"].startswith("open(") and content["Global"]["y"] == "__import__('os')"
    assert not path.exists()
    assert literal("(" * 500 + ")" * 500) == "(" * 500 + ")" * 500
    assert arithmetic("9**9**9") is None and arithmetic("1/0") is None and arithmetic("1.0/255.0") == 1 / 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "it must be a mapping"),
        ("1: 2\n", "it must be a mapping"),
        ("", "it must be a mapping"),
        ("a: [1\nb: 2\n", "it is not valid YAML: .* in line 2"),
        ("a: !!python/object:os.system x\n", "it is not valid YAML"),
        ("a: &x [*x]\n", "line 1 refers to a part that contains it"),
    ],
)
def test_no_configuration(document, text, message):
    with pytest.raises(FlagError, match=rf"^-c .*a\.yaml: .*{message}"):
        document(text=text)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(FlagError, match=r"^-c .*none\.yaml: no such file"):
        read_document(str(tmp_path / "none.yaml"), ())
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(FlagError, match=r"binary\.yaml: not a text file in UTF-8"):
        read_document(str(tmp_path / "binary.yaml"), ())


def test_aliases_are_read_and_merged_and_have_lines():
    data, lines = read_yaml_lines("a: &x {b: 1, c: [1, 2]}\nd: *x\ne:\n  <<: *x\n  b: 3\n")
    assert data == {"a": {"b": 1, "c": [1, 2]}, "d": {"b": 1, "c": [1, 2]}, "e": {"b": 3, "c": [1, 2]}}
    assert lines[("d",)] == 2 and lines[("d", "c")] == 1 and lines[("e", "b")] == 5


def test_aliases_are_bounded():
    text = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    for number in range(1, 9):
        text += f"b{number}: &b{number} [{', '.join([f'*b{number - 1}' if number > 1 else '*a'] * 9)}]\n"
    with pytest.raises(FormatError, match="repeat parts too often"):
        read_yaml_lines(text)
