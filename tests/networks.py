"""Networks that are not as they were initialised, for tests of what a trained network goes through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import models

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def with_statistics(model: nn.Module) -> nn.Module:
    """The network for inference; its batch-norms get statistics, scales and offsets of their own."""
    for layer in model.eval().requires_grad_(False).modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)
    return model


def small_classifier() -> nn.Module:
    """A MobileNetV1_x0_25 for four classes, for inference, whose answers differ from image to image."""
    torch.manual_seed(0)
    model = models.build("MobileNetV1_x0_25", class_dim=4).requires_grad_(False).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    model(torch.randn(16, 3, 32, 32))
    model.fc.weight.mul_(20)
    return model.eval()


@torch.no_grad()
def assert_same_logits(model: nn.Module, other: nn.Module) -> None:
    """Both in evaluation mode, on `IMAGES`."""
    expected: Tensor = model.eval()(IMAGES)
    assert (other.eval()(IMAGES) - expected).abs().max() <= 1e-5 * expected.abs().max()
