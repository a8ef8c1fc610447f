"""What a network's weights say about their input."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from paddle_files import PUBLISHED
from safetensors.torch import save_file

import models
from models.names import paddleclas_names
from utils import convert_weights
from utils.errors import FlagError
from utils.flags import parse
from utils.flags.inputs import UNNOTED
from utils.weights.matching import linear_weights
from utils.weights.network import noted_input, paddleclas_input, resolve_input, usual_input
from utils.weights.notes import read_input_notes
from utils.weights.write import write_weights

NAME = "EfficientNetB0"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Weights of one network in the vocabularies of PaddleClas, fluid and PyTorch."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = models.build(NAME, class_dim=10)
    state, transposed, names = model.state_dict(), linear_weights(model), paddleclas_names(model)
    content = {name: (state[key].t() if key in transposed else state[key]).numpy() for key, name in names.items()}
    (folder / "x.pdparams").write_bytes(pickle.dumps(content, protocol=2))
    write_weights(model, folder / "x.tar", NAME, 10)
    write_weights(model, folder / "x.pth", NAME, 10)
    return {kind: folder / f"x.{kind}" for kind in ("pdparams", "tar", "pth")}


def test_weights_of_paddleclas_bring_its_pixels(files, capsys):
    """EfficientNetB0 is evaluated with bicubic interpolation in fluid, and with bilinear in PaddleClas."""
    noted = {kind: noted_input(str(path), NAME) for kind, path in files.items()}
    assert noted == {"pdparams": usual_input(NAME) | {"interpolation": 1}, "tar": {}, "pth": {}}
    for kind, interpolation in (("pdparams", 1), ("tar", 2), ("pth", 2)):
        args = parse("infer", [f"--model={NAME}", f"--pretrained_model={files[kind]}"])
        resolve_input(args, noted[kind])
        assert args.interpolation == interpolation
        said = f"using the input that {files[kind]} was trained with: --interpolation 1\n"
        assert capsys.readouterr().out == (said if kind == "pdparams" else "")


def test_they_are_looked_at_only_where_it_matters(tmp_path):
    """A network with a single input always has that; an unreadable file is left to the function that loads it."""
    assert paddleclas_input("no such file", "ResNet50") == {}
    (tmp_path / "x.pdparams").write_bytes(b"no pickle")
    assert paddleclas_input(str(tmp_path / "x.pdparams"), NAME) == {}
    assert paddleclas_input(str(PUBLISHED), NAME) == {}
    with pytest.raises(FlagError, match="--model: unknown network"):
        paddleclas_input("x", "EfficientNetB9")


def test_a_conversion_keeps_them(files, tmp_path, monkeypatch):
    output = tmp_path / "x.safetensors"
    words = [f"--model={NAME}", "--class_dim=10", f"--input={files['pdparams']}", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", *words])
    convert_weights.main()
    assert read_input_notes(output) == usual_input(NAME) | {"interpolation": 1}


@pytest.mark.parametrize(("name", "order"), [("DeiT_tiny_patch16_224", "rgb"), ("MobileViT_XXS", "bgr")])
def test_notes_from_before_the_flags(tmp_path, name, order):
    """Old notes keep their old meaning: everything with OpenCV, in RGB, which MobileViT itself turned into BGR."""
    notes = {key: value for key, value in usual_input(name).items() if key not in UNNOTED}
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path, {key: json.dumps(value) for key, value in notes.items()})
    then = {key: value for key, value in UNNOTED.items() if key != "channel_order"}
    assert read_input_notes(path) == notes | then
    args = parse("infer", [f"--model={name}", f"--pretrained_model={path}"])
    resolve_input(args, noted_input(str(path), name))
    assert (args.resize_backend, args.channel_order) == ("cv2", order)


def test_images_have_three_channels():
    with pytest.raises(FlagError, match=r"must be 3, not 1, as all .*: give --image_shape 3 28 28"):
        resolve_input(parse("train", ["--image_shape", "1", "28", "28"]))
    with pytest.raises(FlagError, match=r"not 192, .*: give --image_shape 3 192 256"):
        resolve_input(parse("train", ["--image_shape", "192", "256", "3"]))  # the channels last
