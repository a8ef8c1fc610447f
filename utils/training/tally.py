"""The sums of an epoch's metrics, kept on the device."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from utils.evaluation.metrics import Meter


class Tally:
    """Loss and hits of an epoch's steps so far in this process, and the images of recent steps.

    Args:
        meter: sums them.
        remembered: number of steps whose images are kept.
        before: sums over the processes for the epoch's steps done before resuming.
    """

    def __init__(self, meter: Meter, remembered: int, before: Tensor | None = None) -> None:
        self._meter = meter
        self._taken = torch.zeros_like(meter.sums) if before is None else before.to(meter.sums.device, copy=True)
        self._recent: deque[tuple[int, Tensor]] = deque(maxlen=remembered)

    def add(
        self, step: int, loss: Tensor, logits: Tensor, labels: Tensor, indices: Tensor, skipped: Tensor | float
    ) -> None:
        """Adds a step; see `utils.evaluation.metrics.Meter.add`. `indices` are those of its images in the list."""
        self._meter.add(loss, logits, labels, step, skipped)
        self._recent.append((step, indices))

    def take(self) -> Tensor:
        """The sums since this was last called."""
        sums = self._meter.take()
        self._taken += sums
        return sums

    @property
    def sums(self) -> Tensor:
        """The sums over the epoch so far."""
        return self._taken + self._meter.sums

    def first_bad(self) -> int:
        """The first step since the last `take` with a loss that is not finite; -1 if there is none. Waits for the
        device.
        """
        return int(self._meter.first_bad)

    def images_of(self, step: int) -> list[int]:
        """The list indices of the images of a recent step."""
        return [int(index) for number, indices in self._recent if number == step for index in indices]
