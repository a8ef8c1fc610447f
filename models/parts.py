"""Which parameters of a network lead to which of its maps, as its graph has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.network import Network, main_output, shapes_only


def _leading_to(model: Network, calculate: Callable[[Network, Tensor], Sequence[Tensor]]) -> list[set[str]]:
    """The parameters that each of some tensors depends on; only shapes are calculated."""
    ghost = shapes_only(model).eval().requires_grad_(True)
    named = dict(ghost.named_parameters())
    with torch.enable_grad():
        made = calculate(ghost, torch.empty(1, 3, model.image_size, model.image_size, device="meta"))
        found = [
            torch.autograd.grad(each.sum(), list(named.values()), allow_unused=True, retain_graph=True) for each in made
        ]
    return [{name for name, slope in zip(named, slopes, strict=True) if slope is not None} for slopes in found]


def stage_parameters(model: Network) -> list[set[str]]:
    """The parameters of the stem and of all stages up to each one of `Network.forward_stages`, by name."""
    return _leading_to(model, lambda ghost, images: ghost.forward_stages(images))


def backbone_parameters(model: Network) -> set[str]:
    """The parameters that the vector before the classifier depends on (`Network.forward_features`), by name."""
    (found,) = _leading_to(model, lambda ghost, images: [ghost.forward_features(images)])
    return found


def classifier_parameters(model: Network) -> set[str]:
    """The parameters behind that vector that have a row for each class, by name."""
    with torch.no_grad():
        images = torch.empty(1, 3, model.image_size, model.image_size, device="meta")
        classes = main_output(shapes_only(model).eval()(images)).shape[1]
    backbone = backbone_parameters(model)
    return {
        name
        for name, parameter in model.named_parameters()
        if name not in backbone and parameter.dim() and len(parameter) == classes
    }
