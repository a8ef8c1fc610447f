"""The averaged network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.training.ema import ExponentialMovingAverage


def normalised_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_average_starts_at_zero_and_forgets_its_start(decay):
    """With the running statistics, and by min(decay, (1 + t) / (10 + t)); the counter of batches is no average."""
    model = normalised_network()
    ema = ExponentialMovingAverage(model, decay)
    expected = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    for step in range(6):
        model(torch.randn(4, 3, 2, 2, dtype=torch.float64))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update()
        share = min(decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = share * expected[name] + (1 - share) * tensor
    for name, tensor in ema.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-14, msg=name)
    assert model[1].num_batches_tracked == 6 and ema.model[1].num_batches_tracked == 0


def test_average_of_paddleclas_starts_as_the_network():
    model = normalised_network()
    ema = ExponentialMovingAverage(model, 0.9, ramps=False)
    before = model[0].weight.detach().clone()
    torch.testing.assert_close(ema.model[0].weight, before, rtol=0, atol=0)
    with torch.no_grad():
        model[0].weight.add_(1)
    ema.update()
    torch.testing.assert_close(ema.model[0].weight, before + 0.1)


def test_the_average_is_for_evaluation_and_apart_from_the_network():
    model = normalised_network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema = ExponentialMovingAverage(model, 0.9)
    ema.update()
    assert not any(module.training for module in ema.model.modules())
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
