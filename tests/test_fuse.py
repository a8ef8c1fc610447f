"""Networks that are trained in several branches: deployed in fewer layers, they answer the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import models
from models.layers import fuse
from models.repvgg import RepVGG
from utils.export import fold_batch_norms

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

# name -> what builds the network, and its convolutions when it is deployed
NETWORKS = {
    "plain": (models.RepVGG_A0, 22),
    "groups": (partial(RepVGG, (1, 2, 2, 1), (0.5, 0.5, 0.5, 1.0), groups=4), 7),
    # Each block has two more.
    "squeeze": (partial(RepVGG, (1, 2, 1, 1), (0.5, 0.5, 0.5, 1.0), has_se=True), 3 * 6),
    # stem 3, stages 4 + 4 + 4 * 5 + 4, last one 1
    "depthwise": (models.PPLCNetV2_small, 36),
}


def trained(name: str) -> nn.Module:
    """A network whose batch-norms have all statistics, scales and offsets of their own."""
    torch.manual_seed(0)
    model = NETWORKS[name][0](class_dim=10).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)
    return model


def assert_same_logits(model: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        expected, logits = model(IMAGES), other(IMAGES)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_network_has_one_convolution_for_all_branches_and_the_same_logits(name):
    model = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse(model)
    assert sum(isinstance(layer, nn.Conv2d) for layer in fused.modules()) == NETWORKS[name][1]
    assert_same_logits(model, fused)
    # The network is as it was, and the copy has nothing of it.
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in fused.parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_export_leaves_no_batch_norm(name):
    model = trained(name)
    folded = fold_batch_norms(model, IMAGES)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert_same_logits(model, folded)
