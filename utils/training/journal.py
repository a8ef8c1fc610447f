"""The output of a run: lines for steps and epochs, the progress bar, the curves, and the place of the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from utils.console import log, progress
from utils.evaluation.meters import best_metric, training_meter
from utils.evaluation.metrics import describe, named, total
from utils.flags import Flags
from utils.training.checkpoint import Position
from utils.training.curves import Curves
from utils.training.optimizer import current_lr
from utils.training.step import TrainStep

T = TypeVar("T")


class Journal:
    """Prints the lines of a run, moves its bar, and records its curves.

    Args:
        args: train.py's flags.
        step: what trains the network.
        position: progress of the run.
        curves: of the run's folder; None in all processes but one.
    """

    def __init__(self, args: Flags, step: TrainStep, position: Position, curves: Curves | None) -> None:
        self._args = args
        self._step = step
        self._position = position
        self._curves = curves
        self._names = training_meter(args, torch.device("cpu")).names
        self._accuracy = not (args.use_mixup or args.use_cutmix)  # hits on mixed images mean nothing
        self._bar: Any = None  # of the epoch under way
        self._epoch_steps = 0  # of a whole epoch, once that is known
        self._done, self._began = 0, time.perf_counter()  # steps of this process, and when it started
        # Since the last line of a step: steps, seconds that they waited for the reader, and when it was printed.
        self._steps, self._waited, self._clock = 0, 0.0, time.perf_counter()

    def read(self, batches: Iterable[T], count: int) -> Iterator[T]:
        """The batches of an epoch of `count` steps, with a progress bar; measures the time spent waiting for them."""
        position, self._epoch_steps = self._position, count
        self._restart_clock()
        title = f"epoch {position.epoch + 1} of {self._args.num_epochs}"
        with progress(count, title, position.step_in_epoch) as self._bar:
            batches = iter(batches)
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                self._waited += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch

    def _restart_clock(self) -> None:
        self._steps, self._waited, self._clock = 0, 0.0, time.perf_counter()

    def count_step(self) -> None:
        """Counts a finished step; call it before the step's line, if it gets one."""
        self._steps += 1
        self._done += 1
        self._bar.update()

    def step(self, number: int, sums: Tensor) -> None:
        """Prints the line of a step: means since the last line. Every process must call it.

        Args:
            number: of the step in the epoch.
            sums: of a `Meter`, since the last line.
        """
        values = total(sums)
        seconds = time.perf_counter() - self._clock
        rate, elapsed, waited = values["images"] / seconds, seconds / self._steps, self._waited / self._steps
        lr = current_lr(self._step.optimizer)
        fields = describe(values, self._names, accuracy=self._accuracy)
        line = f"[Pass {self._position.epoch}, train batch {number}]  {fields}, lr {shown_rate(lr)}"
        line += f", elapse {elapsed:.4f} sec, {rate:.1f} img/s, reader {waited:.4f} sec"
        if self._step.scaling:
            line += f", loss scale {self._step.scaler.get_scale():g}"
        if values["skipped"]:
            line += f", skipped {values['skipped']:.0f}"
        line += f", {self._progress(self._position.epoch * self._epoch_steps + number + 1)}"
        if self._bar.disable or not sys.stdout.isatty():  # the bar is on stderr, as the lines may go to a file
            log(line)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{fields}, {rate:.0f} img/s")
        if self._curves is not None:
            figures = {"loss": values["loss"], "lr": lr, "images_per_second": rate, "reader_seconds": waited}
            if self._accuracy:
                figures[self._names[0]] = values["acc1"]
            self._curves.step(self._step.step, {f"train/{name}": value for name, value in figures.items()})
        self._restart_clock()

    def epoch(self, results: dict[str, dict[str, float]]) -> None:
        """Prints the line of an epoch, and draws the curves.

        Args:
            results: means over the "train" images and, if validated, over the "test" images for the network and its
                average ("test_ema").
        """
        position = self._position
        fields, figures = [], {"lr": current_lr(self._step.optimizer)}
        for name, values in results.items():
            accuracy = self._accuracy or name != "train"
            fields.append(describe(values, self._names, f"{name}_", accuracy))
            figures[f"{name}_loss"] = values["loss"]
            if accuracy:
                figures |= {f"{name}_{figure}": value for figure, value in named(values, self._names).items()}
        fields.append(self._progress((position.epoch + 1) * self._epoch_steps))
        log(f"[End pass {position.epoch}]  {', '.join(fields)}")
        if self._curves is not None:
            self._curves.epoch(position.epoch, figures, self._step.step)
            position.history = self._curves.history

    def _progress(self, steps: int) -> str:
        """The epoch, the number of epochs, and the time left at this process's pace so far, including validations.

        Args:
            steps: number of finished steps of the run.
        """
        args = self._args
        text = f"epoch {self._position.epoch + 1} of {args.num_epochs}"
        left = args.num_epochs * self._epoch_steps - steps
        if args.max_iter > 0:
            left = min(left, args.max_iter - self._step.step)
        if left <= 0 or self._done < 2:  # the first step includes all one-off work
            return text
        return f"{text}, {shown_time((time.perf_counter() - self._began) / self._done * left)} left"

    def end(self, folder: Path, interrupted: bool) -> None:
        """Prints where the results are, and how to continue an interrupted run."""
        metric = best_metric(self._args)
        figures = {name: f" (test_{metric} {value:.5f})" for name, value in self._position.best.items()}
        names = [name for name in ("latest", *figures, "curves.png") if (folder / name).exists()]
        if names:  # a profiled run saves nothing
            log(f"saved in {folder}: {', '.join(name + figures.get(name, '') for name in names)}")
        if interrupted:
            log("stopped on request: the same command with --checkpoint=auto continues from there")


def shown_time(seconds: float) -> str:
    """A duration: seconds, minutes, hours and minutes, or days and hours."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def shown_rate(rate: float) -> str:
    """A learning rate with five decimals, or with four significant digits if it is small."""
    return f"{rate:.5f}" if rate >= 0.001 or not rate else f"{rate:.4g}"
