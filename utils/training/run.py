"""What a training run says, remembers and writes: its log lines, curves, position and checkpoints."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.console import is_main_process, log, progress, warn
from utils.errors import UserError
from utils.evaluation.metrics import Meter, describe, total
from utils.flags import Flags
from utils.flags.inputs import INPUT_FLAGS
from utils.processes import StopSignal, broadcast_module, broadcast_object, gather_objects, rank
from utils.reading.image_list import ImageList
from utils.reading.loader import Batch
from utils.training.checkpoint import (
    BEST,
    BEST_EMA,
    EMA_WEIGHTS,
    WEIGHTS,
    Position,
    RunFolder,
    find_checkpoint,
    holds_others,
    is_past,
    read_state,
)
from utils.training.curves import Curves
from utils.training.profiler import StepProfiler
from utils.training.record import as_markdown, describe_run, note_changed_flags, write_record
from utils.training.seed import random_state, set_random_state
from utils.training.step import TrainStep
from utils.weights import load_pretrained

# Under loss scaling a bad step is skipped and the scale lowered. A scale that rises again every thousand steps has one
# of them skipped each time; more than so many in an epoch that are also more than such a share of it are no accident.
HOPELESS_STEPS, HOPELESS_SHARE = 100, 0.05


class Run:
    """A training run in its folder, `output/<model>`, new or resumed. A context manager: at the end of the block the
    folder is free for other runs, the curves are closed, and signals do what they did before.

    A new folder is made by `attach`, when all that can be wrong with flags, data and weights has been found; one that
    is there is taken at once.

    Args:
        args: train.py's flags.
        device: of this process.

    Attributes:
        position: how far the run is.
        resumed: the checkpoint that it goes on from, or None.
        ended: why the run ended before its last epoch ("signal", "max_iter", "profiler"), or None.
        signal: number of the signal that ended it, or 0.
    """

    def __init__(self, args: Flags, device: torch.device) -> None:
        self.args = args
        self.device = device
        self.topk = min(5, args.class_dim)
        self.ended: str | None = None
        self.signal = 0
        self.path = Path(args.model_save_dir) / args.model
        self._profiler = StepProfiler(args.profiler_path, args.print_step) if args.is_profiler else None
        self._saved = True
        self._folder = self._curves = None
        with contextlib.ExitStack() as resources:
            if is_main_process() and self.path.exists():
                self._folder = resources.enter_context(RunFolder(self.path, args.keep_checkpoints))
            # One process looks and tells the others, which need not see the folder.
            self._resumed = broadcast_object(self._find_resumed() if is_main_process() else None)
            self.resumed: Path | None = self._resumed["folder"] if self._resumed else None
            self.position: Position = self._resumed["position"] if self._resumed else Position(args.batch_size)
            self.position.batch_size = args.batch_size
            if self._profiler is not None:
                resources.callback(self._profiler.close)
            self._stop = resources.enter_context(StopSignal())
            self._resources = resources.pop_all()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._resources.__exit__(*exception)
        self._step = None  # and with it the processes' group

    def _find_resumed(self) -> dict[str, Any] | None:
        """The training state that --checkpoint asks for, and its "folder"."""
        if not self.args.checkpoint:
            return None
        folder = find_checkpoint(self.args.checkpoint, self.path)
        if folder is None:
            log(f"--checkpoint auto: nothing to resume in {self.path}, starting afresh")
            return None
        state = read_state(folder)
        position, model = state["position"], state["notes"]["model"]
        if model != self.args.model:
            raise UserError(f"--checkpoint: {folder} is of --model={model}, not {self.args.model}")
        if (classes := state["notes"]["class_dim"]) != self.args.class_dim:
            raise UserError(f"--checkpoint: {folder} is of --class_dim={classes}, not {self.args.class_dim}")
        if self.args.use_ema and not (folder / EMA_WEIGHTS).exists():
            raise UserError(f"--use_ema: {folder} was saved without an average: leave the flag out, or start anew")
        if self.args.random_seed not in (None, position.seed):
            warn(f"--random_seed does nothing here: the run goes on with its own, {position.seed}")
        if position.step_in_epoch and position.batch_size != self.args.batch_size:
            raise UserError(
                f"--checkpoint: {folder} is in the middle of an epoch of batches of {position.batch_size}; "
                f"resume with --batch_size={position.batch_size}"
            )
        # Best ones in the run's folder that are not of this run's past do not count.
        if not self._is_own(folder):
            position.best = {}
        elif self.args.checkpoint != "auto" and holds_others(self.path, folder):
            position.best.pop(BEST_EMA, None)  # which does not tell when it was saved
            if not is_past(self.path / BEST, folder):
                position.best.pop(BEST, None)
        return {**state, "folder": folder}

    def _is_own(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is in this run's folder."""
        return checkpoint.resolve().parent == self.path.resolve()

    def attach(self, step: TrainStep, images: int) -> None:
        """Takes the network and its training along: restores them if the run is resumed, saves them from now on.

        Args:
            step: what trains the network.
            images: length of the training list.

        Raises:
            UserError: the run was saved with another optimizer, or in the middle of an epoch of another list; or the
                folder is not to be had.
        """
        self._step = step
        if self._resumed:
            self._check_list(images)
            self._restore(step)
            self._resumed = None
        self.position.images = images
        if is_main_process():
            self._warn_of_others()
            if self._folder is None:
                self._folder = self._resources.enter_context(RunFolder(self.path, self.args.keep_checkpoints))
            self._curves = self._resources.enter_context(Curves(self.path, self.position.history))
            if self.resumed is not None:
                note_changed_flags(self.args, self.resumed)
            record = describe_run(self.args, self.position.seed, self.device, self.resumed)
            self._folder.record = write_record(self.path, record)
            self._curves.text("run", as_markdown(record), step.step)

    def _check_list(self, images: int) -> None:
        """Raises `UserError` if the run stopped in the middle of an epoch of another list."""
        position = self.position
        if position.step_in_epoch and position.images not in (None, images):
            raise UserError(
                f"--checkpoint: {self.resumed} is in the middle of an epoch of {position.images} images, "
                f"--data_dir={self.args.data_dir} has {images}: resume with the same list, or from a checkpoint at the "
                "end of an epoch"
            )

    def _warn_of_others(self) -> None:
        """Says what will happen to checkpoints in the folder that are not of this run's past."""
        if self.args.checkpoint == "auto" or not holds_others(self.path, self.resumed):
            return
        others = "checkpoints of an earlier run, which --checkpoint=auto would continue"
        if self.resumed is not None and self._is_own(self.resumed):
            others = f"later checkpoints than {self.resumed}"
        kept = self.args.keep_checkpoints
        fate = f"replaces them and deletes those beyond --keep_checkpoints={kept}" if kept else "replaces them"
        warn(f"{self.path} holds {others}: this run {fate} as it saves; --model_save_dir=OTHER keeps them")

    def _restore(self, step: TrainStep) -> None:
        """Gives a resumed run its network and training back."""
        folder, position = self.resumed, self.position
        if is_main_process():
            load_pretrained(step.model, folder / WEIGHTS, resize=False)
            if step.ema is not None:
                load_pretrained(step.ema.model, folder / EMA_WEIGHTS, resize=False)
        broadcast_module(step.model)
        if step.ema is not None:
            broadcast_module(step.ema.model)
        try:
            step.load_state_dict(self._resumed["training"])
            if rank() < len(position.random):
                set_random_state(position.random[rank()], self.device)
        except (ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"--checkpoint: {folder} does not go with the flags given: {error}") from None
        log(f"resumed from {folder}: epoch {position.epoch}, step {position.step_in_epoch} of it")
        if position.epoch >= self.args.num_epochs:
            log(f"nothing is left to do: the run has its --num_epochs={self.args.num_epochs}")
        elif self._at_max_iter():
            log(f"nothing is left to do: the run has its --max_iter={self.args.max_iter} steps")

    # ----------------------------------------------------------------------------------------------- an epoch

    def epochs(self) -> Iterator[int]:
        """The epochs still to do, until the run is ended."""
        if self._at_max_iter():
            self.ended = "max_iter"
        while self.position.epoch < self.args.num_epochs and not self.ended:
            yield self.position.epoch

    def _at_max_iter(self) -> bool:
        return 0 < self.args.max_iter <= self._step.step

    def steps(
        self, batches: Iterable[tuple[Tensor, Tensor, Batch]], count: int, images: ImageList
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The steps of an epoch, from the run's position on: images and labels of each batch.

        The caller trains on them and calls `after_step`.

        Args:
            batches: as `utils.training.step.to_device` yields them.
            count: steps of a whole epoch.
            images: the list they are from.
        """
        position = self.position
        self._images = images
        self._meter = Meter(self.device, self.topk)
        self._epoch_sums = self._meter.take()
        if position.sums is not None and is_main_process():
            self._epoch_sums[: len(position.sums)] += position.sums.to(self.device)  # the first versions had fewer
        position.sums = None
        self._recent: deque[tuple[int, Tensor]] = deque(maxlen=self.args.print_step)
        self._waited, self._steps, self._clock = 0.0, 0, time.perf_counter()
        with progress(count, f"epoch {position.epoch}", position.step_in_epoch) as self._bar:
            batches = iter(batches)
            while not self.ended:
                asked = time.perf_counter()
                batch = next(batches, None)
                self._waited += time.perf_counter() - asked
                if batch is None:
                    break
                if self._profiler is not None:
                    self._profiler.before_step()
                inputs, labels, self._batch = batch
                yield inputs, labels

    def after_step(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Takes in a step: sums it up, prints, saves and ends the run when it is time to.

        Raises:
            UserError: the loss is not finite and no loss scaling can mend it.
        """
        args, position, step = self.args, self.position, self._step.step
        # All processes skip a step together: one of them counts it.
        self._meter.add(loss, logits, labels, step - 1, self._step.skipped if is_main_process() else 0.0)
        self._recent.append((step - 1, self._batch.indices))
        self._steps += 1
        number = position.step_in_epoch
        position.step_in_epoch += 1
        if number % args.print_step == 0:
            self._print(number)
        self._bar.update()
        if self._profiler is not None and self._profiler.after_step():
            self.ended = "profiler"
        elif self._at_max_iter():
            self.ended = "max_iter"
        elif caught := self._stop.poll():
            self.ended, self.signal = "signal", caught
        if self.ended in ("signal", "max_iter") or (args.save_iter and step % args.save_iter == 0):
            self.save_step()

    @property
    def interrupted(self) -> bool:
        """Whether this process was told to stop: it may cut a validation short, which is done again on resuming."""
        return self._stop.received != 0

    def _print(self, number: int) -> None:
        """Prints the line of a step: means since the last one."""
        position = self.position
        self._check_finite()
        sums = self._meter.take()
        self._epoch_sums += sums
        values = total(sums)
        seconds = time.perf_counter() - self._clock
        lr = self._step.optimizer.param_groups[0]["lr"]
        rate = values["images"] / seconds
        fields = describe(values, self.topk, accuracy=self.accuracy)
        elapsed, waited = seconds / self._steps, self._waited / self._steps
        line = f"[Pass {position.epoch}, train batch {number}]  {fields}, lr {lr:.5f}, elapse {elapsed:.4f} sec"
        line += f", {rate:.1f} img/s, reader {waited:.4f} sec"
        if self._step.scaling:
            line += f", loss scale {self._step.scaler.get_scale():g}"
        if values["skipped"]:
            line += f", skipped {values['skipped']:.0f}"
        if self._bar.disable or not sys.stdout.isatty():  # the bar is on stderr, the lines may go to a file
            log(line)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{fields}, {rate:.0f} img/s")
        if self._curves is not None:
            figures = {"loss": values["loss"], "lr": lr, "images_per_second": rate, "reader_seconds": waited}
            if self.accuracy:
                figures["acc1"] = values["acc1"]
            self._curves.step(self._step.step, {f"train/{name}": value for name, value in figures.items()})
        self._waited, self._steps, self._clock = 0.0, 0, time.perf_counter()

    @property
    def accuracy(self) -> bool:
        """Whether hits on the training images mean anything: not on mixed ones."""
        return not (self.args.use_mixup or self.args.use_cutmix)

    def _check_finite(self) -> None:
        """Raises `UserError`, in every process, if a loss since the last look was not finite and will not mend."""
        if self._step.scaling:
            skipped = total(self._epoch_sums + self._meter.sums)["skipped"]
            if skipped > max(HOPELESS_STEPS, HOPELESS_SHARE * self.position.step_in_epoch):
                raise UserError(
                    f"{skipped:.0f} steps of epoch {self.position.epoch} were skipped, as their gradients were not "
                    f"finite ({self._circumstances()}): lower --scale_loss or --lr, or try --amp_dtype=bfloat16; what "
                    "was saved before is untouched"
                )
            return
        found = int(self._meter.first_bad)
        findings = [f for f in gather_objects((found, self._names(found) if found >= 0 else [])) if f[0] >= 0]
        if findings:
            number = min(findings)[0]
            names = [name for first, names in findings if first == number for name in names]
            raise UserError(
                f"the loss of step {number} is not finite (learning rate {self._step.rate(number):g}): lower --lr; "
                f"what was saved before is untouched. The batch's images: {', '.join(names)}"
            )

    def _circumstances(self) -> str:
        """The rate of the last step and, where there is one, the loss scale, for messages."""
        rate = f"learning rate {self._step.rate(self._step.step - 1):g}"
        return f"{rate}, loss scale {self._step.scaler.get_scale():g}" if self._step.scaling else rate

    def _check_validation(self, results: dict[str, dict[str, float]]) -> None:
        """Raises `UserError`, in every process, if the network of this epoch gives losses that are not finite."""
        for name in ("test", "test_ema"):
            if name in results and results[name]["bad"]:
                raise UserError(
                    f"{name}_loss of epoch {self.position.epoch} is not finite ({self._circumstances()}): lower --lr; "
                    "what was saved before is untouched"
                )

    def _names(self, number: int) -> list[str]:
        """Files of the batch of a recent step."""
        return [self._images.path(int(i)) for step, indices in self._recent if step == number for i in indices]

    def train_results(self) -> dict[str, float]:
        """The epoch's training figures over all processes.

        Raises:
            UserError: no loss of a whole epoch was finite, or loss scaling skipped all its steps and always will.
        """
        self._check_finite()
        values = total(self._epoch_sums + self._meter.sums)
        if self.ended or not self._step.scaling:
            return values
        epoch = self.position.epoch
        if math.isnan(values["loss"]):
            raise UserError(
                f"no loss of epoch {epoch} was finite ({self._circumstances()}): lower --lr, or try "
                "--amp_dtype=bfloat16; what was saved before the epoch is untouched"
            )
        if values["skipped"] >= self.position.step_in_epoch:
            line = f"every step of epoch {epoch} was skipped: no gradients were finite ({self._circumstances()})"
            if not self.args.use_dynamic_loss_scaling:
                raise UserError(f"{line}: lower --scale_loss; what was saved before the epoch is untouched")
            warn(f"{line}; the scale comes down by itself, a lower --scale_loss is faster")
        return values

    def after_epoch(self, results: dict[str, dict[str, float]]) -> None:
        """Prints the line of an epoch, draws the curves, and saves: the epoch, and the best so far of each kind.

        Args:
            results: means of the "train" images, and of the "test" images by the network and by its average
                ("test_ema"), where there are any.

        Raises:
            UserError: a validation loss or a parameter is not finite.
        """
        args, position = self.args, self.position
        if caught := self._stop.agree():  # during the validation: it is done again when the run is resumed
            self.ended, self.signal = "signal", caught
            self.save_step()
            return
        self._check_validation(results)
        epoch = position.epoch
        fields, figures = [], {"lr": self._step.optimizer.param_groups[0]["lr"]}
        for name, values in results.items():
            accuracy = self.accuracy or name != "train"
            fields.append(describe(values, self.topk, f"{name}_", accuracy))
            figures[f"{name}_loss"] = values["loss"]
            if accuracy:
                figures |= {f"{name}_acc1": values["acc1"], f"{name}_acc{self.topk}": values["acck"]}
        log(f"[End pass {epoch}]  {', '.join(fields)}")
        if self._curves is not None:
            self._curves.epoch(epoch, figures)
            position.history = self._curves.history
        position.epoch, position.step_in_epoch = epoch + 1, 0

        names = ["latest"]
        if (epoch + 1) % args.save_step == 0 or position.epoch == args.num_epochs:
            names.insert(0, str(epoch))
        best_before = dict(position.best)
        for name, best in (("test", BEST), ("test_ema", BEST_EMA)):
            if name in results and results[name]["acc1"] > position.best.get(best, -1.0):
                position.best[best] = results[name]["acc1"]
                names.append(best)
        self._save(names)
        if not self._saved:
            position.best = best_before  # the next best is saved though this one was better

    def save_step(self) -> None:
        """Writes a checkpoint within an epoch; every process has to call it."""
        self._check_finite()
        self._save([f"step_{self._step.step}", "latest"])

    def _save(self, names: list[str]) -> None:
        """Writes a checkpoint under `names`; if it cannot be written there is a warning, and the next one is tried.

        Raises:
            UserError: in every process, if a parameter or a statistic of a batch-norm is not finite.
        """
        position, step = self.position, self._step
        tensors = list(step.model.parameters())
        if is_main_process():  # whose statistics are saved
            tensors += [buffer for buffer in step.model.buffers() if buffer.is_floating_point()]
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
        states = gather_objects((random_state(self.device), (self._epoch_sums + self._meter.sums).cpu(), bool(finite)))
        if not all(finite for _, _, finite in states):
            raise UserError(
                f"parameters or batch-norm statistics are not finite after step {step.step - 1} "
                f"({self._circumstances()}): lower --lr; what was saved before is untouched"
            )
        if self._folder is None:
            return
        position.random = [random for random, _, _ in states]
        position.sums = torch.stack([sums for _, sums, _ in states]).sum(0) if position.step_in_epoch else None
        ema_model = step.ema.model if step.ema is not None else None
        notes = {name: getattr(self.args, name) for name in ("model", "class_dim", *INPUT_FLAGS)}
        self._saved = self._folder.save(names, step.model, position, step.state_dict(), ema_model, notes)

    def finish(self) -> None:
        """Says where the results are.

        Raises:
            UserError: the last checkpoint could not be written.
        """
        if self._profiler is not None and self.ended != "profiler":
            warn("--is_profiler: the run was too short, nothing was profiled: lower --print_step")
        if not self._saved:
            raise UserError(f"the last checkpoint could not be written to {self.path}: make room, and resume the run")
        figures = {name: f" (test_acc1 {value:.5f})" for name, value in self.position.best.items()}
        names = [name for name in ("latest", *figures, "curves.png") if (self.path / name).exists()]
        if names:  # a run that was profiled saves nothing
            log(f"saved in {self.path}: {', '.join(name + figures.get(name, '') for name in names)}")
        if self.signal:
            log("stopped on request: the same command with --checkpoint=auto goes on from there")
