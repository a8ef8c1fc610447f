"""utils/convert_weights.py: from any kind of file to any other, and back."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paddle_files import (
    NAME,
    PUBLISHED,
    assert_same,
    fresh,
    write_folder,
)
from safetensors import safe_open

import models
from models.names import paddleclas_names, published_names
from utils import convert_weights
from utils.errors import FlagError, UserError
from utils.formats.pickles import read_pickle
from utils.torchvision_compat import import_torchvision
from utils.weights import load_pretrained, read_input_notes
from utils.weights.network import usual_input
from utils.weights.notes import CLASS_NAMES, side_file
from utils.weights.write import save_weights


def test_round_trip_is_byte_identical(variables, run_script_here, tmp_path):
    write_folder(variables, tmp_path / "0")
    for number, ending in enumerate(("x.pth", "1", "x.safetensors", "x.tar", "2")):
        source = tmp_path / ("0", "x.pth", "1", "x.safetensors", "x.tar")[number]
        run_script_here(convert_weights, model=NAME, input=source, output=tmp_path / ending)
    for folder in ("1", "2"):
        assert {file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()} == variables


def test_converted_files_load_without_this_project(trained, run_script_here, tmp_path):
    run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=tmp_path / "x.pth")
    model = fresh()
    model.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True), strict=True)
    assert_same(model, trained)


NOTES = usual_input(NAME) | {"image_shape": [3, 32, 32], "resize_short_size": 40}


@pytest.mark.parametrize("ending", ["folder", "x.tar", "x.pdparams", "x.pth"])
def test_notes_go_to_other_forms_and_back(ending, trained, run_script_here, tmp_path, capsys):
    """--model and --class_dim are noted as well, and need not be given."""
    save_weights(trained, tmp_path / "0.safetensors", {"model": NAME, "class_dim": 1000, **NOTES, CLASS_NAMES: ["a"]})
    run_script_here(convert_weights, input=tmp_path / "0.safetensors", output=tmp_path / ending)
    assert (
        f"wrote {tmp_path / ending} and the training's notes {side_file(tmp_path / ending)}" in capsys.readouterr().out
    )
    assert read_input_notes(tmp_path / ending) == NOTES
    run_script_here(convert_weights, input=tmp_path / ending, output=tmp_path / "1.safetensors")
    with safe_open(tmp_path / "0.safetensors", "pt") as before, safe_open(tmp_path / "1.safetensors", "pt") as after:
        assert before.metadata() == after.metadata()
    model = fresh()
    assert load_pretrained(model, tmp_path / "1.safetensors").ignored == 0
    assert_same(model, trained)


def test_notes_of_an_older_file_do_not_stay(run_script_here, tmp_path):
    path = tmp_path / "x.safetensors"
    side_file(path).write_text('{"model": "ResNet50"}')
    run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=path)
    assert not side_file(path).exists()


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000, "\ud800"], ids=["list", "cut", "deep", "bytes"])
def test_notes_that_cannot_be_read(content, tmp_path, capsys):
    side_file(tmp_path / "x.pth").write_bytes(content.encode(errors="surrogatepass"))
    (tmp_path / "x.pth").touch()
    assert read_input_notes(tmp_path / "x.pth") == {}
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("names", [None, "PaddleClas", "fluid"])
def test_pdparams_in_either_vocabulary(names, trained, run_script_here, tmp_path):
    path = tmp_path / "x.pdparams"
    run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=path, **({"names": names} if names else {}))
    arrays, others = read_pickle(path.read_bytes())
    wanted = set(published_names(trained).values()) if names == "fluid" else set(paddleclas_names(trained).values())
    assert (set(arrays), others) == (wanted, 0)
    fc = arrays["fc7_weights" if names == "fluid" else "fc.weight"]
    assert torch.equal(torch.from_numpy(fc.copy()).t(), trained.fc.weight), "[in, out]"
    model = fresh()
    load_pretrained(model, path)
    assert_same(model, trained)
    with open(path, "rb") as file:  # what PaddlePaddle does
        assert set(pickle.load(file)) == wanted


def test_what_is_missing_or_superfluous(run_script_here, tmp_path):
    with pytest.raises(FlagError, match=r"--model is required: .* does not say which network it belongs to"):
        run_script_here(convert_weights, input=PUBLISHED, output=tmp_path / "x.pth")
    with pytest.raises(FlagError, match=r"--names needs --output=NAME.pdparams"):
        run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=tmp_path / "x.pth", names="fluid")


def test_conversion_does_not_overwrite(run_script_here, tmp_path):
    (tmp_path / "full" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="full exists already"):
        run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=tmp_path / "full")
    with pytest.raises(FlagError, match=r"cannot write .pdopt"):
        run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=tmp_path / "x.pdopt")


def test_fluid_cannot_say_another_dropout(run_script_here, tmp_path):
    torch.save(import_torchvision().models.squeezenet1_1(weights=None).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match="has dropout of the kind downgrade_in_infer"):
        run_script_here(convert_weights, model="SqueezeNet1_1", input=tmp_path / "x.pth", output=tmp_path / "fluid")
    assert not (tmp_path / "fluid").exists()


def test_fluid_has_no_names_for_class_tokens(run_script_here, tmp_path):
    name = "DeiT_tiny_patch16_224"
    torch.save(models.build(name).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"cls_token has no published name\): give \.pth or \.safetensors"):
        run_script_here(convert_weights, model=name, input=tmp_path / "x.pth", output=tmp_path / "fluid")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_converter_runs_as_a_script(tmp_path):
    root = Path(convert_weights.__file__).parent.parent
    command = [sys.executable, root / "utils" / "convert_weights.py", f"--model={NAME}", f"--input={tmp_path}"]
    done = subprocess.run([*command, "--output=x.pth"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"convert_weights.py: error: {tmp_path}: holds no fluid variables (0 files)\n"
    assert not list(tmp_path.iterdir())


def test_conversion_keeps_the_size(monkeypatch, tmp_path):
    source = models.build("DeiT_tiny_patch16_224", image_size=32, class_dim=7)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    words = [
        "--model=DeiT_tiny_patch16_224",
        "--class_dim=7",
        f"--input={tmp_path / 'weights.pth'}",
        f"--output={tmp_path / 'converted.pth'}",
    ]
    monkeypatch.setattr("sys.argv", ["convert_weights.py", *words])
    with pytest.raises(UserError, match="another image size: give the --image_shape"):
        convert_weights.main()
    monkeypatch.setattr("sys.argv", ["convert_weights.py", *words, "--image_shape=3,32,32"])
    convert_weights.main()
    converted = torch.load(tmp_path / "converted.pth", weights_only=True)
    assert torch.equal(converted["pos_embed"], source.pos_embed)
