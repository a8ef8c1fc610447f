"""How far a run has come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Position:
    """Progress and history of a run.

    Attributes:
        batch_size: images per step over all processes; a position within an epoch is valid only for this size.
        images: length of the training list, once known; a position is valid only for this length.
        plan: a checksum of an epoch's batch sizes, if they vary; a position is valid only for this plan.
        seed: of the run, once known.
        epoch, step_in_epoch: the next step.
        sums: of the processes' `Meter`s, over the epoch so far; None at its start.
        random: each process's random state.
        best: the best accuracy so far by checkpoint name, only for checkpoints in the run's folder.
        history: the metrics of the finished epochs.
        highest: the best validation result of the whole run, by network ("test", "test_ema").
        stale: validations since the last new best.
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
        """Records a validation of the network ("test") and of its average ("test_ema")."""
        better = {name: figure for name, figure in figures.items() if figure > self.highest.get(name, -math.inf)}
        self.highest |= better
        self.stale = 0 if better else self.stale + 1

    def is_at_end(self, num_epochs: int, early_stop: int) -> bool:
        """Whether a run is over, after that many epochs or by --early_stop."""
        return self.epoch >= num_epochs or 0 < early_stop <= self.stale
