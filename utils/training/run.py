"""A training run, step by step and epoch by epoch: when it prints, saves and ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from utils.console import is_main_process, log, warn
from utils.evaluation.meters import BEST_FIELDS, best_metric, training_meter
from utils.evaluation.metrics import total
from utils.reading.image_list import ImageList
from utils.reading.loader import Batch
from utils.training.guards import Guards
from utils.training.journal import Journal
from utils.training.profiler import StepProfiler
from utils.training.saving import Saver
from utils.training.start import RunStart
from utils.training.step import TrainStep
from utils.training.tally import Tally


class Run:
    """A training run, new or resumed. It keeps its position; its journal prints, its guards stop bad runs, and its
    saver saves.

    Args:
        start: where it starts.
        step: the training step; restored if the run is resumed.
        images: the training list.
        steps_per_epoch: optimizer steps per epoch.
        class_names: by class number, as far as known; saved in checkpoints.

    Attributes:
        position: progress of the run.
        ended: why the run ended before its last epoch ("signal", "max_iter", "profiler",
            "early_stop"), or None.
        signal: number of the signal that ended it, or 0.

    Raises:
        UserError: the checkpoint does not fit the flags or the list, or the folder is not available.
    """

    def __init__(
        self,
        start: RunStart,
        step: TrainStep,
        images: ImageList,
        steps_per_epoch: int,
        class_names: Sequence[str | None] = (),
    ) -> None:
        args = start.args
        start.restore(step, len(images), steps_per_epoch)
        folder, curves = start.take_folder(step.step)
        self.position = start.position
        self.ended: str | None = None
        self.signal = 0
        self._args = args
        self._device = start.device
        self._path = start.path
        self._stop = start.stop
        self._step = step
        self._guards = Guards(args, step, self.position, images)
        self._journal = Journal(args, step, self.position, curves)
        self._saver = Saver(args, step, self.position, folder, self._guards, class_names)
        self._profiler: StepProfiler | None = None
        if args.is_profiler:
            self._profiler = start.hold(StepProfiler(args.profiler_path, args.print_step))
        self._tally = self._new_tally()
        self._best = BEST_FIELDS[best_metric(args)]
        if self._is_stale():
            self.ended = "early_stop"
            log(f"nothing is left to do: {self._stale()}")
        elif start.resumed is not None and self.position.epoch >= args.num_epochs:
            log(f"nothing is left to do: the run has reached --num_epochs={args.num_epochs}")
        elif start.resumed is not None and self._at_max_iter():
            log(f"nothing is left to do: the run has reached --max_iter={args.max_iter} steps")

    def _new_tally(self) -> Tally:
        """The tally of an epoch, from the run's position on."""
        # One process counts what all processes did of it before.
        before = self.position.sums if is_main_process() else None
        self.position.sums = None
        return Tally(training_meter(self._args, self._device), self._args.print_step, before)

    def _at_max_iter(self) -> bool:
        return 0 < self._args.max_iter <= self._step.step

    def _is_stale(self) -> bool:
        return 0 < self._args.early_stop <= self.position.stale

    def _stale(self) -> str:
        """Why the run stops early."""
        metric, highest = best_metric(self._args), max(self.position.highest.values(), default=0.0)
        count = self.position.stale
        return f"{count} validation{'s' * (count > 1)} without a better {metric} than {highest:.5f} (--early_stop)"

    @property
    def interrupted(self) -> bool:
        """Whether this process was told to stop; it may then cut a validation short, which a resumed run repeats."""
        return self._stop.received != 0

    def epochs(self) -> Iterator[int]:
        """The remaining epochs, until the run ends."""
        if self._at_max_iter():
            self.ended = "max_iter"
        while self.position.epoch < self._args.num_epochs and not self.ended:
            yield self.position.epoch

    def steps(self, batches: Iterable[tuple[Tensor, Tensor, Batch]], count: int) -> Iterator[tuple[Tensor, ...]]:
        """The steps of an epoch, from the run's position on, until the run ends.

        The caller trains on them and calls `after_step`.

        Args:
            batches: as `utils.reading.to_device.to_device` yields them.
            count: steps of a whole epoch.

        Yields:
            For each batch the images, the labels, and the images' list indices.
        """
        for images, labels, batch in self._journal.read(batches, count):
            if self._profiler is not None:
                self._profiler.before_step()
            yield images, labels, batch.indices
            if self.ended:
                return

    def after_step(self, loss: Tensor, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Finishes a step: adds it to the tally, and prints, saves or ends the run when due.

        Raises:
            UserError: the loss is not finite and loss scaling cannot recover.
        """
        position, step = self.position, self._step
        # All processes skip a step together, so one of them counts it.
        skipped = step.skipped if is_main_process() else 0.0
        self._tally.add(step.step - 1, loss, logits, labels, indices, skipped)
        self._journal.count_step()
        number = position.step_in_epoch
        position.step_in_epoch += 1
        if number % self._args.print_step == 0:
            self._guards.check_losses(self._tally)
            self._journal.step(number, self._tally.take())
        if self._profiler is not None and self._profiler.after_step():
            self.ended = "profiler"
        elif self._at_max_iter():
            self.ended = "max_iter"
        elif caught := self._stop.poll():
            self.ended, self.signal = "signal", caught
        if self.ended in ("signal", "max_iter") or self._saver.is_due():
            self._saver.save_step(self._tally)

    def train_results(self) -> dict[str, float]:
        """The epoch's training metrics over all processes.

        Raises:
            UserError: no loss of the epoch was finite, or loss scaling skipped all steps and cannot recover.
        """
        self._guards.check_losses(self._tally)
        values = total(self._tally.sums)
        if not self.ended:
            self._guards.check_epoch(values)
        return values

    def after_epoch(self, results: dict[str, dict[str, float]]) -> None:
        """Prints the line of an epoch, draws the curves, and saves the epoch and the best checkpoints.

        Args:
            results: means over the "train" images and, if validated, over the "test" images for the network and its
                average ("test_ema").

        Raises:
            UserError: a validation loss or a parameter is not finite.
        """
        position, step = self.position, self._step
        if caught := self._stop.agree():  # during the validation, which a resumed run repeats
            self.ended, self.signal = "signal", caught
            self._saver.save_step(self._tally)
            return
        self._guards.check_validation(results)
        if step.plateau is not None and "test" in results:
            step.plateau.update(results["test"]["acc1"])
        figures = {name: values[self._best] for name, values in results.items() if name != "train"}
        if figures:
            position.note_validation(figures)
        self._journal.epoch(results)
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        self._saver.save_epoch(results, self._tally)
        self._tally = self._new_tally()
        if self._is_stale() and position.epoch < self._args.num_epochs:
            self.ended = "early_stop"
            log(f"stopped after epoch {position.epoch - 1}: {self._stale()}")

    def finish(self) -> None:
        """Prints where the results are.

        Raises:
            UserError: the last checkpoint could not be written.
        """
        if self._profiler is not None and self.ended != "profiler":
            warn("--is_profiler: the run was too short, nothing was profiled: lower --print_step")
        self._saver.check_last()
        self._journal.end(self._path, interrupted=bool(self.signal))
