"""Exponential moving average of a network's parameters and batch norm statistics."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from models.network import Network


class ExponentialMovingAverage:
    """An averaged copy of a network, `model`, which is evaluated and saved in its place.

    As in the original, the average starts at zero without bias correction, includes the batch norm running statistics,
    and after step t (from 0) decays by min(decay, (1 + t) / (10 + t)), so that the start is soon forgotten. Or, as in
    PaddleClas, it starts as a copy of the network and always decays by `decay`.

    Args:
        model: the network being trained (not its distributed wrapper).
        decay: the largest decay.
        ramps: whether the decay starts small and grows.

    Attributes:
        step: number of the next step.
    """

    def __init__(self, model: Network, decay: float, ramps: bool = True) -> None:
        self.decay = decay
        self.step = 0
        self.ramps = ramps
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.follow(model)
        for averages, _ in self._pairs if ramps else ():
            for average in averages:
                average.zero_()

    def follow(self, model: Network) -> None:
        """Follows this network from now on; call it again after sharding both."""
        pairs = [
            (average, source)
            for average, source in zip(_tensors(self.model), _tensors(model), strict=True)
            if source.is_floating_point()
        ]
        # Sharded and other tensors cannot share one operation.
        by_kind: dict[type, list[tuple[Tensor, Tensor]]] = {}
        for pair in pairs:
            by_kind.setdefault(type(pair[1]), []).append(pair)
        self._pairs = [([average for average, _ in kind], [source for _, source in kind]) for kind in by_kind.values()]

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average after a step."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step)) if self.ramps else self.decay
        for averages, sources in self._pairs:
            torch._foreach_lerp_(averages, sources, 1.0 - decay)
        self.step += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(parameter.data for parameter in model.parameters()), *model.buffers()]
