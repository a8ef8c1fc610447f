"""int8 models: close to their network, even if the channels' ranges differ much."""

from __future__ import annotations

import os
import shutil
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.deploy import quantize as module
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Description
from utils.deploy.quantize import quantize
from utils.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = 32


def images(count: int) -> Tensor:
    """Patches of colour, which differ between images as photographs do."""
    random = torch.Generator().manual_seed(count)
    patches = torch.randn(count, 3, 4, 4, generator=random) + 2 * torch.randn(count, 3, 1, 1, generator=random)
    return F.interpolate(patches, (SIZE, SIZE), mode="bilinear")


class Separable(nn.Module):
    """Ordinary and depthwise convolutions with ReLUs between them.

    Args:
        spread: factor by which the channels' ranges differ at most; the next convolution undoes it, so the logits do
            not depend on it.
    """

    def __init__(self, spread: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 32, 3, padding=1),
                nn.Conv2d(32, 32, 3, padding=1, groups=32),
                nn.Conv2d(32, 48, 1),
                nn.Conv2d(48, 48, 3, padding=1, groups=48),
                nn.Conv2d(48, 32, 1),
            ]
        )
        self.fc = nn.Linear(32, 10)
        with torch.no_grad():
            for conv in self.convs:
                nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
                conv.bias.uniform_(-0.1, 0.1)
            for first, second in zip(self.convs, self.convs[1:], strict=False):
                scale = spread ** -torch.rand(first.out_channels)
                first.weight.mul_(scale[:, None, None, None])
                first.bias.mul_(scale)
                second.weight.div_(scale[None, :, None, None] if second.groups == 1 else scale[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network whose channels' ranges differ up to a hundredfold, and its folder."""
    model = Separable(100.0).eval()
    folder = tmp_path_factory.mktemp("separable")
    names = [str(number) for number in range(10)]
    description = Description("Separable", names, [3, SIZE, SIZE], SIZE, 1, [0.5] * 3, [0.25] * 3)
    save_inference(model, description, folder, "onnx")
    return model, folder


def error(model: nn.Module, model_file) -> float:
    """Typical difference of the logits, relative to their variation between images."""
    with torch.inference_mode():
        expected = model(images(64))
    found = load_exported(str(model_file), engine="onnxruntime")(images(64))
    return ((found - expected).square().mean().sqrt() / expected.std(0).square().mean().sqrt()).item()


def test_int8_is_close_and_evening_out_is_why(exported, tmp_path, monkeypatch):
    model, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    quantized = quantize(folder / "model.onnx", [images(32), images(33)])
    assert load_exported(str(quantized), engine="onnxruntime").description.precision == "int8"
    assert error(model, quantized) < 0.05

    monkeypatch.setattr(module, "equalize", lambda model, ranges: None)
    assert error(model, quantize(folder / "model.onnx", [images(32), images(33)])) > 0.3


def test_evening_out_does_not_change_the_answers(exported):
    model, folder = exported
    path = folder / "model.onnx"
    inputs = [images(8).numpy()]
    ranges = module.channel_ranges(path, load_exported(str(path), engine="onnxruntime").description, inputs)
    assert len(ranges) == 4
    proto = onnx.load(path)
    before = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    module.equalize(proto, ranges)
    assert not np.allclose(onnx.numpy_helper.to_array(proto.graph.initializer[0]), before)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model(images(8)).numpy()
    found = session.run(None, {"images": inputs[0]})[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_int8_in_openvino(exported, tmp_path):
    pytest.importorskip("openvino")
    model, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    quantized = quantize(folder / "model.onnx", [images(32)])
    network = load_exported(str(quantized))
    assert network.engine == "openvino"
    with torch.inference_mode():
        expected = model(images(64))
    assert (network(images(64)).argmax(1) == expected.argmax(1)).float().mean() > 0.9


def test_images_are_read_again_rather_than_kept(exported, tmp_path):
    _, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    alive, most, passes = weakref.WeakSet(), [], []

    class Batches:
        def __iter__(self):
            passes.append(None)
            for number in range(6):
                batch = images(4 + number)
                alive.add(batch)
                most.append(len(alive))
                yield batch

    quantize(folder / "model.onnx", Batches())
    assert len(passes) == 2 and max(most) <= 2


def test_a_new_export_leaves_no_int8_model_of_the_old_weights(exported, tmp_path):
    model, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    description = load_exported(str(folder / "model.onnx")).description
    quantize(folder / "model.onnx", [images(8)])
    assert sorted(os.listdir(folder)) == ["model.onnx", "model_int8.onnx"]
    save_inference(model, description, folder, "onnx")
    assert sorted(os.listdir(folder)) == ["model.onnx"]


def test_no_images(exported):
    _, folder = exported
    with pytest.raises(UserError, match="calibration_dir"):
        quantize(folder / "model.onnx", [])
    assert not [name for name in os.listdir(folder) if "int8" in name or name.startswith(".")]
