"""A learning rate that follows the validation: PaddlePaddle's ReduceOnPlateau."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# Saved for a resumed run.
_STATE = ("rate", "best", "bad", "cooling")


@dataclass
class Plateau:
    """Lowers the rate when a validation metric stops improving.

    Attributes:
        rate: the current rate; at first --lr.
        factor: multiplies the rate at each drop.
        patience: consecutive validations to tolerate without improvement.
        threshold: minimum improvement relative to the best so far.
        absolute: the threshold is an absolute difference.
        cooldown: validations to ignore after a drop.
        min_lr: the lowest rate.
        mode: max or min: which values are better.
        best: the best so far.
        bad: validations without improvement since the best or the last drop.
        cooling: validations still to ignore.
    """

    rate: float
    factor: float
    patience: int = 10
    threshold: float = 1e-4
    absolute: bool = False
    cooldown: int = 0
    min_lr: float = 0.0
    mode: str = "max"
    best: float | None = None
    bad: int = 0
    cooling: int = 0

    def update(self, figure: float) -> None:
        """Updates the rate with a validation's result."""
        if self.cooling:
            self.cooling -= 1
            return
        if self._is_better(figure):
            self.best, self.bad = figure, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.cooling, self.bad = self.cooldown, 0
            lower = max(self.rate * self.factor, self.min_lr)
            if self.rate - lower > 1e-8:  # as in PaddlePaddle, smaller changes are ignored
                self.rate = lower

    def _is_better(self, figure: float) -> bool:
        if self.best is None:
            return True
        margin = self.threshold if self.absolute else self.threshold * self.best
        return figure > self.best + margin if self.mode == "max" else figure < self.best - margin

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {name: value for name, value in asdict(self).items() if name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the run that saved `state` stopped."""
        for name in _STATE:
            setattr(self, name, state[name])
