"""utils/convert_weights.py: from any kind of file to any other, and back."""

from __future__ import annotations

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

import models
from utils import convert_weights
from utils.errors import FlagError, UserError
from utils.torchvision_compat import import_torchvision
from utils.weights.network import usual_input
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


@pytest.mark.parametrize(
    ("size", "ending", "warned"), [(32, "x.pth", True), (32, "x.safetensors", False), (224, "x.pth", False)]
)
def test_notes_that_a_form_cannot_hold_are_said(trained, run_script_here, tmp_path, capsys, size, ending, warned):
    notes = usual_input(NAME) | {"image_shape": [3, size, size]}
    save_weights(trained, tmp_path / "weights.safetensors", {"model": NAME, **notes})
    run_script_here(convert_weights, model=NAME, input=tmp_path, output=tmp_path / ending)
    warning = f"with {tmp_path / ending} give --image_shape 3 32 32 --resize_short_size 256 "
    assert (warning in capsys.readouterr().err) == warned


def test_conversion_does_not_overwrite(run_script_here, tmp_path):
    (tmp_path / "full" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="full exists already"):
        run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=tmp_path / "full")
    with pytest.raises(FlagError, match=r"cannot write .pdparams"):
        run_script_here(convert_weights, model=NAME, input=PUBLISHED, output=tmp_path / "x.pdparams")


def test_fluid_cannot_say_another_dropout(run_script_here, tmp_path):
    torch.save(import_torchvision().models.squeezenet1_1(weights=None).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match="downgrade_in_infer in PaddlePaddle"):
        run_script_here(convert_weights, model="SqueezeNet1_1", input=tmp_path / "x.pth", output=tmp_path / "fluid")
    assert not (tmp_path / "fluid").exists()


def test_fluid_has_no_names_for_class_tokens(run_script_here, tmp_path):
    name = "DeiT_tiny_patch16_224"
    torch.save(models.build(name).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"cls_token has no published name\): write \.pth or \.safetensors"):
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
