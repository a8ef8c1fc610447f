"""The running variance of PaddlePaddle: the average of the biased variance of a batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import models
from models.activation_checkpointing import checkpoint_activations
from utils.training.running_variance import average_biased_variance, running_variance
from utils.training.sync_batch_norm import CPUSyncBatchNorm2d


def pair(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A batch norm, and the same with PaddlePaddle's variance."""
    biased = copy.deepcopy(norm)
    average_biased_variance(biased)
    assert (running_variance(norm), running_variance(biased)) == ("unbiased", "biased")
    return norm, biased


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4, 5)])
def test_average_over_batches_of_any_size(shape):
    torch.manual_seed(0)
    norm, biased = pair(nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3))
    expected, axes = torch.ones(3), [0, *range(2, len(shape))]
    for count in (0, 3, 1):
        x = 3 * torch.randn(shape[0] + count, *shape[1:])
        expected = 0.9 * expected + 0.1 * x.var(axes, unbiased=False)
        assert torch.equal(norm(x), biased(x))
    torch.testing.assert_close(biased.running_var, expected)
    assert torch.equal(norm.running_mean, biased.running_mean)
    assert not torch.allclose(norm.running_var, expected, rtol=1e-4)


def test_gradients_and_evaluation_are_the_same():
    torch.manual_seed(0)
    norm, biased = pair(nn.BatchNorm2d(3))
    images = torch.randn(2, 3, 4, 4)
    for module in (norm, biased):
        (module(images) ** 3).sum().backward()
    assert torch.equal(norm.weight.grad, biased.weight.grad)
    before = biased.running_var.clone()
    biased.eval()(images)
    assert torch.equal(biased.running_var, before)


def test_over_several_processes(monkeypatch):
    """Their statistics are those of one batch, whose size counts."""
    for module in ("running_variance", "sync_batch_norm"):
        monkeypatch.setattr(f"utils.training.{module}.world_size", lambda: 2)
    monkeypatch.setattr("utils.training.sync_batch_norm._AllReduceSum.apply", lambda x: 2 * x)  # both have the same
    norm = nn.BatchNorm2d(3)
    norm.__class__ = CPUSyncBatchNorm2d
    _, biased = pair(norm)
    x = torch.randn(2, 3, 4, 4)
    biased(x)
    torch.testing.assert_close(biased.running_var, 0.9 + 0.1 * x.var((0, 2, 3), unbiased=False))


def test_activations_that_are_computed_again_count_once():
    torch.manual_seed(0)
    model = models.build("ResNet18", class_dim=4)
    average_biased_variance(model)
    plain = copy.deepcopy(model)
    assert checkpoint_activations(model)
    images = torch.randn(2, 3, 32, 32)
    for network in (model, plain):
        network.train()(images).sum().backward()
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def test_all_batch_norms_of_a_network():
    model = models.build("MobileNetV1_x0_25", class_dim=4)
    kinds = {type(module) for module in model.modules()}
    average_biased_variance(model)
    assert nn.BatchNorm2d in kinds and nn.BatchNorm2d not in {type(module) for module in model.modules()}
