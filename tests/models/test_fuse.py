"""Networks trained with several branches: their deployed form with fewer layers gives the same logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from networks import IMAGES, assert_same_logits, with_statistics
from torch import nn

import models
from models.fusion import fuse
from models.repvgg import RepVGG
from utils.deploy.export import fold_batch_norms

# name -> what builds the network, and its convolutions when it is deployed
NETWORKS = {
    "plain": (models.RepVGG_A0, 22),
    "groups": (partial(RepVGG, (1, 2, 2, 1), (0.5, 0.5, 0.5, 1.0), groups=4), 7),
    # Each block has two more.
    "squeeze": (partial(RepVGG, (1, 2, 1, 1), (0.5, 0.5, 0.5, 1.0), has_se=True), 3 * 6),
    # stem 3, stages 4 + 4 + 4 * 5 + 4, last one 1
    "depthwise": (models.PPLCNetV2_small, 36),
    # stem, 8 blocks of two, 3 shortcuts
    "diverse": (models.ResNet18_dbb, 20),
}


def trained(name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(NETWORKS[name][0](class_dim=10))


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_network_has_one_convolution_for_all_branches_and_the_same_logits(name):
    model = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse(model)
    assert sum(isinstance(layer, nn.Conv2d) for layer in fused.modules()) == NETWORKS[name][1]
    assert_same_logits(model, fused)
    # The network is unchanged, and the copy shares nothing with it.
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in fused.parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_export_leaves_no_batch_norm(name):
    model = trained(name)
    folded = fold_batch_norms(model, IMAGES)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert_same_logits(model, folded)
