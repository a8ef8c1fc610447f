"""The start of a run: its folder, and its state, fresh or from a checkpoint."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, TypeVar

import torch

from utils.console import is_main_process, log, warn
from utils.errors import FlagError, UserError, cut, one_line
from utils.evaluation.metrics import FIELDS
from utils.flags import Flags
from utils.flags.kinds import AUTO
from utils.formats.training_states import TrainingState
from utils.processes import StopSignal, broadcast_module, broadcast_object, rank, world_size
from utils.training.checkpoint import (
    BEST,
    BEST_EMA,
    EMA_WEIGHTS,
    MANIFEST,
    TEACHER_WEIGHTS,
    WEIGHTS,
    Position,
    RunFolder,
    find_checkpoint,
    holds_others,
    is_past,
    read_state,
)
from utils.training.curves import Curves
from utils.training.from_paddle import take_up
from utils.training.paddle_states import find_original
from utils.training.record import as_markdown, describe_run, note_changed_flags, write_record
from utils.training.running_variance import BIASED, UNBIASED, average_biased_variance
from utils.training.seed import set_random_state
from utils.training.sharding import empty, fill, is_sharded, outlined
from utils.training.step import TrainStep
from utils.training.tracker import Tracked
from utils.weights import TO_RESUME, load_pretrained

T = TypeVar("T")


class RunStart:
    """The folder of a run, `output/<model>`, and the training state to resume.

    A context manager: at the end of the block the folder is free for other runs, the curves are closed, and signals do
    what they did before. `take_folder` creates a new folder, after all checks of flags, data and weights; an existing
    folder is locked at once.

    Args:
        args: train.py's flags.
        device: of this process.

    Attributes:
        path: the folder.
        position: progress of the run.
        resumed: the checkpoint that it continues from, or None.
        stop: notices the signals that end a run.

    Raises:
        UserError: --checkpoint cannot be resumed, or another run has the folder.
    """

    def __init__(self, args: Flags, device: torch.device) -> None:
        self.args = args
        self.device = device
        self.path = Path(args.model_save_dir) / args.model
        self._folder: RunFolder | None = None
        with contextlib.ExitStack() as resources:
            if is_main_process() and self.path.exists() and args.lr_range_test is None:  # which saves nothing
                self._folder = resources.enter_context(RunFolder(self.path, args.keep_checkpoints))
            # One process looks and tells the others, which may not see the folder.
            found = find_resumed(args, self.path) if is_main_process() else None
            if args.fsdp and world_size() > 1:
                found = self._told_in_part(found)
            else:
                found = broadcast_object(found)
            self.resumed: Path | None = found["folder"] if found else None
            self.position: Position = found["position"] if found else Position(args.batch_size)
            if args.batch_size == AUTO and self.position.batch_size != AUTO:
                args.batch_size = self.position.batch_size
                log(f"--batch_size=auto: --batch_size={args.batch_size}, as when the run began")
            self.position.batch_size = args.batch_size
            self._training: dict[str, Any] | None = found["training"] if found else None
            self._original: TrainingState | None = found["original"] if found else None
            self.stop = resources.enter_context(StopSignal())
            self._resources = resources.pop_all()

    def _told_in_part(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """The main process's state; of sharded tensors the other processes get only the shapes.

        Raises:
            UserError: it is a PaddlePaddle state.
        """
        if found is not None and found["original"] is not None:
            raise FlagError(
                "--fsdp cannot resume a PaddlePaddle state: resume without it, and continue from the resulting "
                "checkpoint with it"
            )
        told = None
        if found is not None:
            training = {**found["training"], "optimizer": outlined(found["training"]["optimizer"])}
            told = broadcast_object({**found, "training": training})
        else:
            told = broadcast_object(None)
        return found if is_main_process() else told

    def __enter__(self) -> RunStart:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._resources.__exit__(*exception)

    def hold(self, resource: contextlib.AbstractContextManager[T]) -> T:
        """Enters a context manager and leaves it at the end of the block."""
        return self._resources.enter_context(resource)

    def restore(self, step: TrainStep, images: int, steps_per_epoch: int) -> None:
        """Restores a resumed run's network and training state.

        Args:
            step: the training step.
            images: length of the training list.
            steps_per_epoch: optimizer steps per epoch.

        Raises:
            UserError: the run was saved with another optimizer, or in the middle of an epoch of another list.
        """
        position, training, self._training = self.position, self._training, None
        original, self._original = self._original, None
        if original is not None:
            self._restore_original(step, original, steps_per_epoch)
        elif training is not None:
            if position.step_in_epoch and position.images not in (None, images):
                raise UserError(
                    f"--checkpoint: {self.resumed} is in the middle of an epoch of {position.images} images, but "
                    f"--data_dir={self.args.data_dir} has {images}: resume with the same list, or from a checkpoint "
                    "at the end of an epoch"
                )
            self._restore_networks(step)
            self._settle_variance(step, training.get("running_variance", UNBIASED))
            try:
                step.load_state_dict(training)
                if position.sums is not None and len(position.sums) != len(FIELDS):
                    raise ValueError("its metrics were saved by another version of this program")
                if rank() < len(position.random):
                    set_random_state(position.random[rank()], self.device)
            # Errors from values of another type or number.
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
                why = one_line(error) or type(error).__name__
                raise UserError(f"--checkpoint: {self.resumed} does not fit the given flags: {why}") from None
            log(f"resumed from {self.resumed}: epoch {position.epoch}, step {position.step_in_epoch} of it")
        if step.ema is not None and "ema_warm_up" in self.args.given:
            step.ema.ramps = self.args.ema_warm_up
        position.images = images

    def _restore_original(self, step: TrainStep, original: TrainingState, steps_per_epoch: int) -> None:
        """Resumes a PaddlePaddle training."""
        place = take_up(step, original, steps_per_epoch, self.args.start_epoch)
        self._settle_variance(step, BIASED)
        position = self.position
        position.epoch, position.step_in_epoch = place.epoch, place.step_in_epoch
        log(
            f"resumed from {self.resumed} ({original.form}): epoch {position.epoch}, step {position.step_in_epoch} of "
            f"it, {step.step} steps in all, learning rate {step.rate(step.step):g}"
        )

    def _settle_variance(self, step: TrainStep, noted: str) -> None:
        """Makes batch norm average the variance of --running_variance, or else of the training so far."""
        if (self.args.running_variance or noted) == BIASED:
            average_biased_variance(step.model)
            for module in step.distillation.learners().values() if step.distillation is not None else ():
                average_biased_variance(module)

    def _restore_networks(self, step: TrainStep) -> None:
        """Restores the network, its average and a learning teacher: one process reads them and shares them with the
        others.
        """
        assert self.resumed is not None
        networks = {WEIGHTS: step.model} | ({EMA_WEIGHTS: step.ema.model} if step.ema is not None else {})
        if step.learning_teacher is not None:
            networks[TEACHER_WEIGHTS] = step.learning_teacher
        for name, model in networks.items():
            filled = model if not is_sharded(model) else empty(model) if is_main_process() else None
            if is_main_process() and filled is not None:
                load_pretrained(filled, self.resumed / name, resize=False, remedies=TO_RESUME)
            if is_sharded(model):
                fill(model, filled)
            else:
                broadcast_module(model)

    def take_folder(self, steps_done: int) -> tuple[RunFolder | None, Curves | None]:
        """Creates the folder if necessary and opens the curves in it; None in all processes but one.

        Writes the record of the run, which has done `steps_done` steps.

        Raises:
            UserError: the folder is not available.
        """
        if not is_main_process():
            return None, None
        self._warn_of_others()
        if self._folder is None:
            self._folder = self.hold(RunFolder(self.path, self.args.keep_checkpoints))
        args, tracked = self.args, None
        if args.tracker is not None:
            title = f"{args.model}, seed {self.position.seed}"
            resumed = self.resumed is not None and is_in(self.resumed, self.path)
            tracked = self.hold(Tracked(args.tracker, self.path, title, args.values(), resumed))
        curves = self.hold(Curves(self.path, self.position.history, tracked))
        if self.resumed is not None and (self.resumed / MANIFEST).exists():  # PaddlePaddle does not save flags
            note_changed_flags(self.args, self.resumed)
        record = describe_run(self.args, self.position.seed, self.device, self.resumed)
        self._folder.record = write_record(self.path, record)
        curves.text("run", as_markdown(record), steps_done)
        return self._folder, curves

    def _warn_of_others(self) -> None:
        """Warns about checkpoints in the folder that belong to other runs."""
        if self.args.checkpoint == "auto" or not holds_others(self.path, self.resumed):
            return
        others = "checkpoints of an earlier run, which --checkpoint=auto would continue"
        if self.resumed is not None and is_in(self.resumed, self.path):
            others = f"later checkpoints than {self.resumed}"
        kept = self.args.keep_checkpoints
        fate = f"replaces them and deletes those beyond --keep_checkpoints={kept}" if kept else "replaces them"
        warn(f"{self.path} holds {others}: this run {fate} as it saves; --model_save_dir=OTHER keeps them")


def find_resumed(args: Flags, path: Path) -> dict[str, Any] | None:
    """The training state that --checkpoint names, as `read_state` returns it, and its "folder"; a PaddlePaddle state is
    under "original".

    Args:
        args: train.py's flags.
        path: the folder of the run.

    Raises:
        UserError: there is none, or these flags do not continue its run.
    """
    if not args.checkpoint:
        return None
    named = None if args.checkpoint == "auto" else Path(args.checkpoint)
    if named and (original := find_original(named, args.model, args.class_dim)):
        position = Position(args.batch_size)
        return {"folder": Path(original.path), "position": position, "training": None, "original": original}
    folder = find_checkpoint(args.checkpoint, path)
    if folder is None:
        log(f"--checkpoint auto: nothing to resume in {path}, starting afresh")
        return None
    state = read_state(folder)
    position = state["position"]
    check_resumed(args, folder, position, state["notes"])
    # Ignore best checkpoints in the folder that belong to other runs.
    if not is_in(folder, path):
        position.best = {}
    elif args.checkpoint != "auto" and holds_others(path, folder):
        position.best.pop(BEST_EMA, None)  # which does not tell when it was saved
        if not is_past(path / BEST, folder):
            position.best.pop(BEST, None)
    return {**state, "folder": folder, "original": None}


def check_resumed(args: Flags, folder: Path, position: Position, notes: dict[str, Any]) -> None:
    """Raises `UserError` if these flags do not continue the run of the checkpoint `folder`."""
    for name in ("model", "class_dim"):
        if (noted := notes.get(name)) != getattr(args, name):
            raise UserError(
                f"--checkpoint: {folder} was trained with --{name}={cut(str(noted), 60)}, not {getattr(args, name)}"
            )
    if args.use_ema and not (folder / EMA_WEIGHTS).exists():
        raise UserError(f"--use_ema: {folder} was saved without an average: leave the flag out, or start a new run")
    if args.use_distill and args.teacher_learns and not (folder / TEACHER_WEIGHTS).exists():
        raise UserError(
            f"--teacher_learns: {folder} was saved without a teacher that learns: leave the flag out, or start "
            "a new run"
        )
    if args.start_epoch is not None:
        warn("--start_epoch has no effect: the checkpoint contains the position")
    if args.random_seed not in (None, position.seed):
        warn(f"--random_seed has no effect: the run continues with its own seed, {position.seed}")
    if position.step_in_epoch and args.batch_size not in (AUTO, position.batch_size):
        raise UserError(
            f"--checkpoint: {folder} is in the middle of an epoch of batches of {position.batch_size}; "
            f"resume with --batch_size={position.batch_size}"
        )


def is_in(checkpoint: Path, run_folder: Path) -> bool:
    """Whether a checkpoint is in the folder of a run."""
    return checkpoint.resolve().parent == run_folder.resolve()
