"""Which engine runs an ONNX model, and the description in the model's file; without either engine."""

from __future__ import annotations

import sys

import pytest
import torch
from caffe_files import field
from exports import describe

from utils import onnx_engines
from utils.errors import FlagError, UserError
from utils.exported import DESCRIPTION
from utils.onnx_engines import choose_engine, read_description

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("device", "dtype", "precision", "with_openvino", "without"),
    [
        (CPU, torch.float32, "float32", "onnxruntime", "onnxruntime"),
        (CPU, torch.float32, "int8", "openvino", "onnxruntime"),
        (CPU, torch.bfloat16, "float32", "openvino", None),
        (GPU, torch.float16, "float32", "onnxruntime", "onnxruntime"),
        (GPU, torch.float32, "int8", "onnxruntime", "onnxruntime"),
    ],
)
def test_the_faster_engine_is_chosen(monkeypatch, device, dtype, precision, with_openvino, without):
    monkeypatch.setattr(onnx_engines, "_is_installed", lambda name: True)
    assert choose_engine("auto", device, dtype, precision) == with_openvino
    monkeypatch.setattr(onnx_engines, "_is_installed", lambda name: False)
    if without:
        assert choose_engine("auto", device, dtype, precision) == without
    else:
        with pytest.raises(FlagError, match="no bfloat16 on a CPU: install openvino, or export"):
            choose_engine("auto", device, dtype, precision)


def test_engines_that_cannot_do_it():
    with pytest.raises(UserError, match="--engine=openvino"):
        choose_engine("openvino", GPU, torch.float32, "float32")
    with pytest.raises(FlagError, match="no float16 on a CPU"):
        choose_engine("onnxruntime", CPU, torch.float16, "float32")


def model_of(texts: dict[str, str]) -> bytes:
    """An ONNX model of nothing but a version and metadata."""
    entries = [field(1, key.encode()) + field(2, value.encode()) for key, value in texts.items()]
    return field(1, 8) + b"".join(field(14, entry) for entry in entries)


def test_the_description_is_in_the_metadata():
    wanted = describe("MobileNetV1_x0_25", 64)
    model = model_of({"author": "x", DESCRIPTION: wanted.to_json()})
    assert read_description(model, "model.onnx") == wanted


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of({"author": "x"}), "x.onnx has no description: it was not written by infer.py"),
        (model_of({})[2:] + field(14, field(1, b"key")), "neither a program of PyTorch nor an ONNX model"),
        (field(14, field(1, b"key") + field(2, b"value")), "neither a program of PyTorch nor an ONNX model"),
        (model_of({DESCRIPTION: "{}"})[:-1], "neither a program of PyTorch nor an ONNX model"),
        (b"", "neither a program of PyTorch nor an ONNX model"),
    ],
)
def test_models_of_others(model, message):
    with pytest.raises(UserError, match=message):
        read_description(model, "x.onnx")


def test_a_missing_engine_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed: pip install -r requirements-onnx\.txt"):
        onnx_engines._import("openvino")
