"""Activation checkpointing."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import assert_same, batch, make_step, network
from torch import nn

from models.activation_checkpointing import checkpoint_activations
from utils.training.loss import Targets


@pytest.mark.parametrize("name", ["ResNet18", "DenseNet121", "MobileNetV2_x0_25", "SE_ResNet18_vd"])
def test_checkpointed_activations(name):
    """The same losses, parameters and running statistics, with fewer bytes kept for the gradient."""
    model = network(name).train()
    saving = copy.deepcopy(model)
    assert checkpoint_activations(saving) > 1
    assert kept_bytes(copy.deepcopy(saving)) < 0.7 * kept_bytes(copy.deepcopy(model))
    steps = make_step(model), make_step(saving)
    for number in range(2):
        images, labels = batch(number)
        losses = []
        for step in steps:
            torch.manual_seed(number)  # of dropout
            losses.append(step(images, Targets(labels))[0])
        assert losses[0] == losses[1]
    assert_same(model, saving)


def kept_bytes(model: nn.Module) -> int:
    """Bytes of the tensors that a forward pass keeps for the gradient, parameters aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch()[0])
    return sum(sizes.values())
