"""Finds from a network's graph which parameters lead to which of its maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.network import Network, main_output, shapes_only


def _leading_to(model: Network, calculate: Callable[[Network, Tensor], Sequence[Tensor]]) -> list[set[str]]:
    """The parameters that each of the tensors depends on, found by computing shapes only."""
    ghost = shapes_only(model).eval().requires_grad_(True)
    named = dict(ghost.named_parameters())
    with torch.enable_grad():
        made = calculate(ghost, torch.empty(1, 3, model.image_size, model.image_size, device="meta"))
        found = [
            torch.autograd.grad(each.sum(), list(named.values()), allow_unused=True, retain_graph=True) for each in made
        ]
    return [{name for name, slope in zip(named, slopes, strict=True) if slope is not None} for slopes in found]


def stage_parameters(model: Network) -> list[set[str]]:
    """For each map of `Network.forward_stages`, the names of all parameters up to it."""
    return _leading_to(model, lambda ghost, images: ghost.forward_stages(images))


def backbone_parameters(model: Network) -> set[str]:
    """Names of the parameters that the features before the classifier depend on (`Network.forward_features`)."""
    (found,) = _leading_to(model, lambda ghost, images: [ghost.forward_features(images)])
    return found


def classifier_parameters(model: Network) -> set[str]:
    """Names of the parameters after the features that have a row per class."""
    with torch.no_grad():
        images = torch.empty(1, 3, model.image_size, model.image_size, device="meta")
        classes = main_output(shapes_only(model).eval()(images)).shape[1]
    backbone = backbone_parameters(model)
    return {
        name
        for name, parameter in model.named_parameters()
        if name not in backbone and parameter.dim() and len(parameter) == classes
    }
