"""Learning-rate strategies, equal step by step to those of the original and of PaddleClas.

A strategy is a function of the number of steps done, so resuming needs only that number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.flags.idle import WARM_UP_STRATEGIES


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    The first strategies in `STRATEGIES` are the original's of 2018. The others are PaddleClas's: each warms up for
    `warm_up_epochs` from `warm_up_start_lr` to `lr`, then counts from there in steps, or with `by_epoch` in epochs.

    Attributes:
        strategy: name, as in --lr_strategy.
        lr: base rate.
        steps_per_epoch: optimizer steps in an epoch.
        num_epochs: length of the run.
        step_epochs: where piecewise_decay, piecewise and multi_step change the rate.
        warm_up_epochs, decay_epochs, decay_rate, warm_up_start_lr, by_epoch: see the flags.
        min_lr: where the cosine strategies and linear end.
        values: for piecewise: the rates before, between and after `step_epochs`.
        power, cycle: for linear.
    """

    strategy: str
    lr: float
    steps_per_epoch: int
    num_epochs: int
    step_epochs: tuple[int, ...] = (30, 60, 90)
    warm_up_epochs: float = 5.0
    decay_epochs: float = 2.4
    decay_rate: float = 0.97
    min_lr: float = 0.0
    warm_up_start_lr: float = 0.0
    by_epoch: bool = False
    values: tuple[float, ...] = ()
    power: float = 1.0
    cycle: bool = False

    @property
    def warm_up_steps(self) -> int:
        """Length of the warm-up; 0 without one."""
        return round(self.warm_up_epochs * self.steps_per_epoch) if self.strategy in WARM_UP_STRATEGIES else 0

    def __call__(self, step: int) -> float:
        """The learning rate of the step after `step` steps."""
        return STRATEGIES.get(self.strategy, _constant)(self, step)


def _constant(s: Schedule, step: int) -> float:
    return s.lr


def _piecewise(s: Schedule, step: int) -> float:
    """Divides the rate by 10 at each of `step_epochs`."""
    return s.lr * 0.1 ** sum(step >= epoch * s.steps_per_epoch for epoch in s.step_epochs)


def _half_cosine(done: float, total: float) -> float:
    """From 1 to 0 while `done` goes from 0 to `total`; in float32, to round small rates as the original does."""
    if done >= total:
        return 0.0
    return float((np.cos(np.float32(done) * np.float32(math.pi / total)) + np.float32(1)) * np.float32(0.5))


def _cosine(s: Schedule, step: int) -> float:
    """Half a cosine over the run, down to `min_lr`; the rate changes once per epoch."""
    return s.min_lr + (s.lr - s.min_lr) * _half_cosine(step // s.steps_per_epoch, s.num_epochs)


def _cosine_warmup(s: Schedule, step: int) -> float:
    """Linear from 0 over the warm-up, then half a cosine down to `min_lr`; the rate changes every step."""
    warm_up = s.warm_up_epochs * s.steps_per_epoch
    if step < warm_up:
        return s.lr * step / warm_up
    rest = s.num_epochs * s.steps_per_epoch - warm_up
    return s.min_lr + (s.lr - s.min_lr) * _half_cosine(step - warm_up, rest)


def _exponential_warmup(s: Schedule, step: int) -> float:
    """Linear from 0 over the warm-up, then a factor `decay_rate` every `decay_epochs`, in steps."""
    warm_up = s.warm_up_epochs * s.steps_per_epoch
    if step < warm_up:
        return s.lr * step / warm_up
    return s.lr * s.decay_rate ** ((step - warm_up) // (s.decay_epochs * s.steps_per_epoch))


def _linear(s: Schedule, step: int) -> float:
    """Linear to 0 at the end of the run. (The original reached 0 after one epoch, surely by mistake.)"""
    return s.lr * max(0.0, 1 - step / (s.num_epochs * s.steps_per_epoch))


# PaddleClas's decays after the warm-up: functions of the time since then and the length of an epoch.


def _no_decay(s: Schedule, time: float, epoch: float) -> float:
    return s.lr


def _cosine_since(s: Schedule, time: float, epoch: float) -> float:
    """Half a cosine over the rest of the run, down to `min_lr`."""
    total = (s.num_epochs - s.warm_up_epochs) * epoch
    return s.min_lr + (s.lr - s.min_lr) * (1 + math.cos(math.pi * time / total)) / 2 if total > 0 else s.lr


def _polynomial_since(s: Schedule, time: float, epoch: float) -> float:
    """Polynomial decay to `min_lr`; with `cycle` it restarts at the end, over two, three, ... times the length."""
    total = (s.num_epochs - s.warm_up_epochs) * epoch
    if total <= 0:
        return s.lr
    if s.cycle:
        total *= max(1, math.ceil(time / total))
    return s.min_lr + (s.lr - s.min_lr) * (1 - min(time, total) / total) ** s.power


def _step_since(s: Schedule, time: float, epoch: float) -> float:
    """A factor `decay_rate` every `decay_epochs`, in whole steps."""
    return s.lr * s.decay_rate ** (time // max(1, int(s.decay_epochs * epoch)))


def _multi_step_since(s: Schedule, time: float, epoch: float) -> float:
    """A factor `decay_rate` at each of `step_epochs`."""
    return s.lr * s.decay_rate ** sum(time >= boundary * epoch for boundary in s.step_epochs)


def _values_since(s: Schedule, time: float, epoch: float) -> float:
    """The next of `values` at each of `step_epochs`."""
    return s.values[sum(time >= boundary * epoch for boundary in s.step_epochs)]


def _after_warm_up(decay: Callable[[Schedule, float, float], float]) -> Callable[[Schedule, int], float]:
    """A strategy: linear from `warm_up_start_lr` to `lr` over the warm-up, then `decay`."""

    def rate(s: Schedule, step: int) -> float:
        epoch = 1 if s.by_epoch else s.steps_per_epoch
        time = step // s.steps_per_epoch if s.by_epoch else step
        warm_up = round(s.warm_up_epochs * epoch)
        if time < warm_up:
            return s.warm_up_start_lr + (s.lr - s.warm_up_start_lr) * time / warm_up
        return decay(s, time - warm_up, epoch)

    return rate


# Strategies of PaddleClas -> their decay after the warm-up.
AFTER_WARM_UP: dict[str, Callable[[Schedule, float, float], float]] = {
    "constant": _no_decay,
    "cosine": _cosine_since,
    "linear": _polynomial_since,
    "step": _step_since,
    "multi_step": _multi_step_since,
    "piecewise": _values_since,
}
STRATEGIES: dict[str, Callable[[Schedule, int], float]] = {
    "piecewise_decay": _piecewise,
    "cosine_decay": _cosine,
    "cosine_decay_warmup": _cosine_warmup,
    "exponential_decay_warmup": _exponential_warmup,
    "linear_decay": _linear,
    "adam_decay": _constant,
    "cosine_decay_RMSProp": _cosine,
    "default_decay": _constant,
    "reduce_on_plateau": _constant,  # see `utils.training.plateau`
    **{name: _after_warm_up(decay) for name, decay in AFTER_WARM_UP.items()},
}
