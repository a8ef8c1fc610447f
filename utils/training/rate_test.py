"""The learning-rate range test (Smith, arXiv:1506.01186)."""

from __future__ import annotations

import csv
import io
import math
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from utils.console import is_main_process, log, progress, warn
from utils.errors import FlagError
from utils.files import check_can_write, write_text, written_whole
from utils.processes import world_size
from utils.training.loss import Targets
from utils.training.plateau import Plateau
from utils.training.step import TrainStep

# Lowest and highest rate, and the number of steps between them without --max_iter.
LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
# The test ends at a loss this many times the lowest one.
HOPELESS = 4.0
SUFFIXES = (".png", ".pdf", ".svg")


def check_rate_test(args: Namespace) -> None:
    """Raises `UserError` if --lr_range_test cannot work with the other flags, or its files cannot be written."""
    if args.lr_range_test is None:
        return
    path = Path(args.lr_range_test)
    if path.suffix.lower() not in SUFFIXES:
        raise FlagError(f"--lr_range_test={path}: give a file name ending in {', '.join(SUFFIXES)}")
    if args.checkpoint:
        raise FlagError(
            "--lr_range_test cannot resume a run: leave out --checkpoint; start from weights with --pretrained_model"
        )
    if args.seeds > 1 or args.is_profiler:
        other = "seeds" if args.seeds > 1 else "is_profiler"
        raise FlagError(f"--lr_range_test and --{other}: leave out one of them")
    if 0 < args.max_iter < 10:
        raise FlagError(
            f"--lr_range_test: --max_iter {args.max_iter} is too few steps: give 10 or more, or leave it out"
        )
    if is_main_process():
        for file in (path, path.with_suffix(".csv")):
            check_can_write(file, "--lr_range_test")


@dataclass
class RateTest:
    """The result of a test.

    Attributes:
        rates: increasing, per step.
        losses: of each step's batch, before training on it.
    """

    rates: list[float]
    losses: list[float]

    @property
    def smoothed(self) -> np.ndarray:
        """The losses smoothed over a third of a decade, float (steps,)."""
        places, losses = np.log10(self.rates), np.array(self.losses)
        return np.array([losses[np.abs(places - place) <= 1 / 6].mean() for place in places])

    @property
    def suggested(self) -> float | None:
        """The rate at which the loss falls fastest per decade of the rate; None if it never falls."""
        smoothed = self.smoothed
        lowest = int(smoothed.argmin())
        if lowest < 2:
            return None
        slopes = np.gradient(smoothed, np.log10(self.rates))[: lowest + 1]
        return self.rates[int(slopes.argmin())] if slopes.min() < 0 else None


def range_test(args: Namespace, step: TrainStep, batches: Iterator[tuple[Tensor, Targets]]) -> RateTest:
    """Trains a network for some steps at increasing rates; the network is useless afterwards.

    Every process must call it. The test ends early if the loss explodes.

    Args:
        args: train.py's flags.
        step: what trains the network.
        batches: normalised images and targets.
    """
    steps = args.max_iter or STEPS
    plateau = step.plateau = Plateau(LOWEST, 1.0)  # it sets the rate of the next step
    test, recent = RateTest([], []), math.nan
    with progress(steps, "learning rates") as bar:
        for number in range(steps):
            plateau.rate = LOWEST * (HIGHEST / LOWEST) ** (number / (steps - 1))
            loss, _ = step(*next(batches))
            value = _mean_over_processes(loss)
            recent = value if math.isnan(recent) else 0.7 * recent + 0.3 * value
            if not math.isfinite(value) or recent > HOPELESS * min([value, *test.losses]):
                break
            test.rates.append(plateau.rate)
            test.losses.append(value)
            bar.update()
    return test


def _mean_over_processes(loss: Tensor) -> float:
    loss = loss.detach().to(torch.float32).clone()
    if dist.is_initialized():
        dist.all_reduce(loss)
    return loss.item() / world_size()


def report_rates(args: Namespace, test: RateTest) -> None:
    """Reports a test's result, and writes the plot --lr_range_test and the numbers, .csv, next to it.

    Raises:
        UserError: they cannot be written.
    """
    if not is_main_process():
        return
    path, suggested = Path(args.lr_range_test), test.suggested if len(test.rates) > 2 else None
    figures = io.StringIO()
    rows = csv.writer(figures, lineterminator="\n")
    rows.writerow(("lr", "loss", "smoothed"))
    rows.writerows((f"{rate:.6g}", f"{loss:.6g}", f"{mean:.6g}")
                   for rate, loss, mean in zip(test.rates, test.losses, test.smoothed, strict=True))  # fmt: skip
    write_text(path.with_suffix(".csv"), figures.getvalue(), "--lr_range_test")
    _plot(path, test, suggested, f"{args.model}, batches of {args.batch_size}")
    if suggested is None:
        warn(f"--lr_range_test: the loss never fell in {len(test.rates)} steps; see {path}")
    else:
        lowest = test.rates[int(test.smoothed.argmin())]
        log(
            f"--lr_range_test: the loss falls fastest at --lr={suggested:.2g}, and is lowest at {lowest:.2g} "
            f"({len(test.rates)} steps from {test.rates[0]:.2g} to {test.rates[-1]:.2g}); saved only {path} and "
            f"{path.with_suffix('.csv')}"
        )


def _plot(path: Path, test: RateTest, suggested: float | None, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(test.rates, test.losses, color="0.75", label="loss of a batch")
    axes.semilogx(test.rates, test.smoothed, label="mean over a third of a decade")
    if suggested is not None:
        axes.axvline(suggested, color="C2", linestyle="--", label=f"falls fastest: {suggested:.2g}")
    if test.losses:
        low, high = min(test.losses), test.losses[0]
        axes.set_ylim(low - 0.1 * (high - low), high + 0.6 * max(high - low, 0.1))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with written_whole(path, "--lr_range_test") as file:
        figure.savefig(file, dpi=110, format=path.suffix[1:].lower())
