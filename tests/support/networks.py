"""Networks that are not as they were initialised, and small steps of training, for tests of what is done to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import models
from utils.training.optimizer import build_optimizer
from utils.training.schedule import Schedule
from utils.training.step import TrainStep

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def with_statistics(model: nn.Module) -> nn.Module:
    """The network for inference; its batch norms get statistics, scales and offsets of their own."""
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


SCHEDULE = Schedule("default_decay", lr=0.05, steps_per_epoch=10, num_epochs=1)


def batch(seed: int = 0, count: int = 8, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)


def network(name: str = "ResNet18", seed: int = 0) -> nn.Module:
    """A network for five classes, as it is initialised."""
    torch.manual_seed(seed)
    return models.build(name, class_dim=5)


def make_step(model: nn.Module, strategy: str = "default_decay", optimizer: str | None = None, **options) -> TrainStep:
    return TrainStep(model, build_optimizer(model, strategy, 0.05, 1e-4, optimizer=optimizer), SCHEDULE, **options)


def assert_same(one: nn.Module, other: nn.Module, **tolerance) -> None:
    """Both have the same parameters and statistics: equal ones, if no tolerance is given."""
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(
            a, b, **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, name=name: f"{name}: {m}"
        )
