"""How far a run has come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Position:
    """How far a run has come, and what it has seen.

    Attributes:
        batch_size: images per step over all processes; a position within an epoch means nothing with another.
        images: length of the training list, once it is known; the same holds for it.
        plan: a checksum of an epoch's batch sizes, if they are not all the same; the same holds for it.
        seed: of the run, once it is known.
        epoch, step_in_epoch: the step to do next.
        sums: of the processes' `Meter`s, over the epoch so far; None at its start.
        random: each process's random state.
        best: the best accuracy so far, by checkpoint name; of checkpoints in the run's folder only.
        history: the figures of the finished epochs.
        highest: the best figures of the validations so far, by which network they are of; of the whole run.
        stale: validations since one of them was better than all before.
    """

    batch_size: int
    images: int | None = None
    plan: int | None = None
    seed: int | None = None
    epoch: int = 0
    step_in_epoch: int = 0
    sums: torch.Tensor | None = None
    random: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    highest: dict[str, float] = field(default_factory=dict)
    stale: int = 0

    def note_validation(self, figures: dict[str, float]) -> None:
        """Takes in the figures of a validation, of the network ("test") and of its average ("test_ema")."""
        better = {name: figure for name, figure in figures.items() if figure > self.highest.get(name, -math.inf)}
        self.highest |= better
        self.stale = 0 if better else self.stale + 1

    def is_at_end(self, num_epochs: int, early_stop: int) -> bool:
        """Whether a run of so many epochs, or of --early_stop, is over."""
        return self.epoch >= num_epochs or 0 < early_stop <= self.stale
