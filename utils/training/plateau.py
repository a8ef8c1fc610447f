"""A learning rate that goes by validation: PaddlePaddle's ReduceOnPlateau."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# What a resumed run goes on with.
_STATE = ("rate", "best", "bad", "cooling")


@dataclass
class Plateau:
    """Lowers the rate when a figure of the validation has stopped to improve.

    Attributes:
        rate: the rate now; at first that of --lr.
        factor: what it is multiplied by.
        patience: how many validations in a row may bring nothing better.
        threshold: by what share of the best figure so far one has to be better.
        absolute: it is by so much instead.
        cooldown: how many validations after a change are not looked at.
        min_lr: the lowest rate.
        mode: max or min: which figures are better.
        best: the best so far.
        bad: how many validations have brought nothing better since the best, or since the last change.
        cooling: how many validations are not looked at any more.
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
        """Takes in the figure of a validation."""
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
            if self.rate - lower > 1e-8:  # as PaddlePaddle has it: smaller steps are none
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
        """Goes on where the run that saved `state` was."""
        for name in _STATE:
            setattr(self, name, state[name])
