"""Options of networks that PaddleClas's configurations name: strides, last layers, dropout and dropped paths."""

from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn

import models
from models import mobilenet_v4
from models.layers import Dropout, DropPath
from models.resnet import SamePool
from utils.errors import FlagError
from utils.flags import parse
from utils.flags.kinds import stride
from utils.weights import load_pretrained
from utils.weights.network import build_model

LINES = ["--strides", "2", "2x1", "2x1", "2x1", "2x1"]


def built(*flags: str, name: str | None = None):
    with torch.device("meta"):
        return build_model(parse("train", ["--class_dim=7", *flags]), name)


@pytest.mark.parametrize(
    ("name", "shape"), [("PPLCNet_x0_25", (128, 3, 80)), ("ResNet18_vd", (512, 3, 80)), ("ResNet18", (512, 3, 80))]
)
def test_strides_for_lines_of_text(name, shape):
    network = built(f"--model={name}", *LINES).eval()
    assert network.forward_trunk(torch.empty(1, 3, 80, 160, device="meta")).shape == (1, *shape)
    usual = built(f"--model={name}").eval()
    assert usual.forward_trunk(torch.empty(1, 3, 80, 160, device="meta")).shape == (1, shape[0], 3, 5)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in usual.state_dict().items()}


def test_a_teacher_has_strides_of_its_own():
    flags = ["--teacher_strides", "2", "2", "2", "2", "2x1"]
    teacher = built("--model=PPLCNet_x0_25", *LINES, *flags, name="ResNet18_vd").eval()
    assert teacher.forward_trunk(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 512, 2, 4)
    with pytest.raises(FlagError, match="--teacher_strides: AlexNet has no such option"):
        built(*flags, name="AlexNet")


def test_strides_as_they_are_typed():
    assert stride("2X1") == "2x1" and stride("3") == "3"
    for text in ("0", "2x1x1", "x", "2x", "a"):
        with pytest.raises(
            argparse.ArgumentTypeError, match=r"is not a stride: give a number, or HEIGHTxWIDTH such as 2x1"
        ):
            stride(text)


@pytest.mark.parametrize("size", [(6, 5), (5, 6), (1, 1)])
@pytest.mark.parametrize("stride", [(2, 1), (1, 2), (2, 2)])
def test_a_pool_of_the_places_that_are_there(size, stride):
    x = torch.randn(1, 1, *size)
    rows, columns = (-(-length // step) for length, step in zip(size, stride, strict=True))
    expected = torch.stack(
        [
            torch.stack([x[0, 0, r * stride[0] :][:2, c * stride[1] :][:, :2].mean() for c in range(columns)])
            for r in range(rows)
        ]
    )
    torch.testing.assert_close(SamePool(stride)(x)[0, 0], expected)


def test_the_last_layers_of_pplcnet():
    without = built("--model=PPLCNet_x0_25", "--use_last_conv=False")
    assert without.fc.weight.shape == (7, 128) and without.dropout.p == 0
    wide = built("--model=PPLCNet_x0_25", "--class_expand=640", "--dropout=0.3")
    assert wide.fc.weight.shape == (7, 640) and wide.last_conv.weight.shape[0] == 640 and wide.dropout.p == 0.3
    assert built("--model=PPLCNet_x0_25").dropout.p == 0.2


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        (["--model=MobileNetV3_small_x0_35", "--dropout=0"], {0.0}),
        (["--model=MobileViTV3_XXS", "--dropout=0", "--block_dropout=0.05"], {0.0, 0.05}),
        (["--model=MobileViTV3_XXS"], {0.1}),
        (["--model=PPHGNet_tiny", "--dropout=0.4"], {0.4}),
    ],
)
def test_rates_of_dropout(flags, rates):
    assert {layer.p for layer in built(*flags).modules() if isinstance(layer, Dropout)} == rates


def dropped(network: nn.Module) -> list[float]:
    return [layer.p for layer in network.modules() if isinstance(layer, DropPath)]


def test_dropped_paths():
    assert dropped(built("--model=StarNet_S1", "--drop_path=0.14")) == pytest.approx(
        [0.01 * n * 14 / 14 for n in range(15)]
    )
    rows = len(mobilenet_v4.SMALL)
    network = built("--model=MobileNetV4_conv_small", f"--drop_path={0.01 * rows:.2f}")
    # The first row has no rate; plain convolutions among the others are dropped as well.
    assert dropped(network) == pytest.approx([0.01 * number for number in range(1, rows)])
    assert set(dropped(built("--model=MobileNetV4_conv_small"))) == {0.0}
    recipe = built("--model=TinyNet_E_recipe", "--drop_connect_rate=0")
    assert set(dropped(recipe)) == {0.0} and max(dropped(built("--model=TinyNet_E_recipe"))) > 0.08


def test_options_that_a_network_lacks():
    for flag in ("--dropout=0.1", "--block_dropout=0.1", "--class_expand=9", "--use_last_conv=False"):
        with pytest.raises(FlagError, match=f"^{flag.split('=')[0]}: AlexNet has no such option: leave the flag out"):
            built("--model=AlexNet", flag)


def test_a_classifier_of_other_classes_starts_anew(tmp_path):
    path = str(tmp_path / "weights.pth")
    trained = models.PPLCNet_x0_25(class_dim=5)
    torch.save(trained.state_dict(), path)
    network = models.PPLCNet_x0_25(class_dim=7)
    before = network.fc.weight.clone()
    report = load_pretrained(network, path, skip_misfits=True)
    assert report.left_out == 2 and torch.equal(network.fc.weight, before)
    assert torch.equal(network.last_conv.weight, trained.last_conv.weight)
    with pytest.raises(Exception, match=r"weights\.pth"):
        load_pretrained(network, path)
