"""Readable names of the classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.errors import UserError
from utils.reading.class_names import imagenet_names, imagenet_synsets, read_class_names, readable

REPOSITORY = Path(__file__).parents[2]


def test_readable_labels_are_those_of_imagenet():
    names = read_class_names(str(REPOSITORY / "utils/tools/readable_label.txt"), 1000)
    assert len(set(names)) == 1000
    some = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 207: "golden retriever", 281: "tabby, tabby cat"}
    some |= {134: "crane bird", 517: "crane", 638: "maillot", 639: "maillot, tank suit", 963: "pizza, pizza pie"}
    some |= {657: "missile", 744: "projectile, missile", 999: "toilet tissue, toilet paper, bathroom tissue"}
    assert {number: names[number] for number in some} == some


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1 red deer\n0 fox\n\n2 owl\n", ["fox", "red deer", "owl"]),
        ("2,owl\n1,red deer\n0,fox\n", ["fox", "red deer", "owl"]),
        ("0: fox\n1: red deer\n", ["fox", "red deer"]),
        ("0\tfox\r\n1\tred deer\r\n", ["fox", "red deer"]),
        ("fox\nred deer\nowl\n", ["fox", "red deer", "owl"]),
        # Numbers that are not 0 to n - 1, each once, are a part of the name.
        ("1 euro\n2 euro\n5 cent\n", ["1 euro", "2 euro", "5 cent"]),
        ("1 fox\n2 owl\n", ["1 fox", "2 owl"]),
        ("0 fox\n0 owl\n", ["0 fox", "0 owl"]),
        ("0 fox\nowl\n", ["0 fox", "owl"]),
        ("0\n90\n180\n", ["0", "90", "180"]),
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ["n01440764 tench, Tinca tinca", "n01443537 goldfish"]),
        # Numbers behind the names in the lines' order say nothing new.
        ("type 0\ntype 1\n", ["type 0", "type 1"]),
    ],
)
def test_files_of_names(text, names, tmp_path):
    path = tmp_path / "map.txt"
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_class_names(str(path), len(names)) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"background\nfox\nred deer\nowl\n",
            "names 4 classes, 1 more than .* first line is 'background', .* 'owl'",
        ),
        (b"id,name\n0,fox\n1,red deer\n2,owl\n", "names 4 classes, 1 more .* first line is 'id,name'"),
        (b"fox\nowl\n", "names 2 classes, but the network has 3"),
        (b"", "names 0 classes"),
        (b"fox 2\nowl 0\ndeer 1\n", "the numbers follow the names: write `0 cat`"),
        (b"0 f\xff\n", "not a text file in UTF-8"),
        (b"\n" * ((16 << 20) + 1), "it is larger than 16 MB"),
        (b"a\n" * 1_000_001, "it has more than 1000000 lines"),
    ],
)
def test_files_that_are_refused(text, message, tmp_path):
    path = tmp_path / "map.txt"
    path.write_bytes(text)
    with pytest.raises(UserError, match=f"^--class_map_path {path}[: ].*{message}"):
        read_class_names(str(path), 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '["fox", "owl"]'),
        ("a.json", '{\n\t"1": "owl",\n\t"0": "fox"\n}\n'),
        ("a.json", '{"owl": 1, "fox": 0}'),
        ("a.json", '{"0": ["n02119789", "fox"], "1": ["n01621127", "owl"]}'),
        ("data.yaml", "path: data\nnc: 2\nnames:\n  0: fox\n  1: owl\n"),
        ("data.yml", "names: [fox, owl]\n"),
    ],
)
def test_names_in_json_and_yaml(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_class_names(str(tmp_path / name), 2) == ["fox", "owl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{1: fox, 2: owl}", "its numbers must be 0 to 1, each once"),
        ("[fox, no]", "False is not text: put names in quotes"),
        ("fox", "it contains neither a list of names"),
        ("[fox", "it is not valid YAML"),
        ("[a, b, c]", "names 3 classes, 1 more than the network's 2"),
    ],
)
def test_data_that_are_no_names(text, message, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_names(str(tmp_path / "x.yaml"), 2)


def test_imagenet_by_the_numbers_of_its_folders():
    assert imagenet_synsets()[:2] == ("n01440764", "n01443537")
    assert list(imagenet_synsets()) == sorted(set(imagenet_synsets())) and len(imagenet_synsets()) == 1000
    assert readable(imagenet_synsets()) == imagenet_names()
    assert readable(["n01440764", "n01443537"]) == ["n01440764", "n01443537"]
