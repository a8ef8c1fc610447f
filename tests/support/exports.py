"""Small exported networks, and exports that were changed, for tests."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Description
from utils.errors import UserError


def describe(network: str, size: int, classes: int = 10) -> Description:
    """What goes with a network into its export."""
    names = [f"class {number}" for number in range(classes)]
    return Description(network, names, [3, size, size], size, 1, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def build(network: str, size: int = 64, classes: int = 10) -> nn.Module:
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    return with_fitting_statistics(models.build(network, class_dim=classes), size)


def with_fitting_statistics(model: nn.Module, size: int) -> nn.Module:
    """The network for inference; its batch norms' statistics fit its activations, as after training.

    Their scales are below 1 on average, or deep networks would be chaotic: ResNeSt200 with scales around 1 makes of
    a change of 1e-7 in an image one of a third in the logits.
    """
    model.train().requires_grad_(False)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.25, 0.75)
        norm.bias.uniform_(-0.25, 0.25)
        norm.momentum = 0.9  # a tenth of the initial variance of 1 stays, so none is tiny
    if norms:
        model(images(4, size))
    return model.eval()


def smallest_network() -> nn.Module:
    """A convolution and a linear layer named fc, for ten classes: what is exported in a moment."""
    torch.manual_seed(0)
    layers = {
        "conv": nn.Conv2d(3, 4, 3, 2),
        "relu": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(4, 10),
    }
    return nn.Sequential(OrderedDict(layers)).eval().requires_grad_(False)


def images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def export_tiny(folder: Path) -> nn.Module:
    """Exports a MobileNetV1_x0_25 into a folder; returns the network."""
    model = build("MobileNetV1_x0_25")
    save_inference(model, describe("MobileNetV1_x0_25", 64), folder)
    return model


def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of an export that may be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def refusal(model_file: Path, params_file: Path | None = None, **options) -> str:
    """The message of the error when an export is loaded."""
    with pytest.raises(UserError) as error:
        load_exported(str(model_file), params_file and str(params_file), **options)
    message = str(error.value)
    assert "\n" not in message
    return message
