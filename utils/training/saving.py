"""When a run saves, and under which names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from utils.errors import UserError
from utils.evaluation.meters import BEST_FIELDS, best_metric
from utils.flags import Flags
from utils.flags.inputs import INPUT_FLAGS
from utils.processes import gather_objects
from utils.training.checkpoint import BEST, BEST_EMA, Position, RunFolder
from utils.training.guards import Guards
from utils.training.seed import random_state
from utils.training.sharding import gathered, whole
from utils.training.step import TrainStep
from utils.training.tally import Tally
from utils.weights.notes import CLASS_NAMES


class Saver:
    """Saves a run. Every process must call its methods.

    Args:
        args: train.py's flags.
        step: what trains the network.
        position: progress of the run.
        folder: where to save; None in all processes but one.
        guards: prevent saving bad values.
        class_names: by class number, as far as known.
    """

    def __init__(
        self,
        args: Flags,
        step: TrainStep,
        position: Position,
        folder: RunFolder | None,
        guards: Guards,
        class_names: Sequence[str | None] = (),
    ) -> None:
        self._args = args
        self._step = step
        self._position = position
        self._folder = folder
        self._guards = guards
        self._class_names = list(class_names)
        self._device = next(step.model.parameters()).device
        self._best = BEST_FIELDS[best_metric(args)]
        self._saved = True

    def is_due(self) -> bool:
        """Whether --save_iter asks for a checkpoint after this step."""
        return bool(self._args.save_iter) and self._step.step % self._args.save_iter == 0

    def save_step(self, tally: Tally) -> None:
        """Writes a checkpoint within an epoch.

        Raises:
            UserError: a loss, a parameter or a statistic is not finite.
        """
        self._guards.check_losses(tally)
        self._save([f"step_{self._step.step}", "latest"], tally)

    def save_epoch(self, results: dict[str, dict[str, float]], tally: Tally) -> None:
        """Writes a finished epoch's checkpoint, if due, the newest one, and the best of each kind.

        Args:
            results: means over the validation images for the network ("test") and its average ("test_ema").
            tally: of the epoch.

        Raises:
            UserError: a parameter or a statistic is not finite.
        """
        position = self._position
        names = ["latest"]
        if position.epoch % self._args.save_step == 0 or position.epoch == self._args.num_epochs:
            names.insert(0, str(position.epoch - 1))
        best_before = dict(position.best)
        for name, best in (("test", BEST), ("test_ema", BEST_EMA)):
            if name in results and results[name][self._best] > position.best.get(best, -1.0):
                position.best[best] = results[name][self._best]
                names.append(best)
        self._save(names, tally)
        if not self._saved:
            position.best = best_before  # so the next best is saved even if this one was better

    def _save(self, names: list[str], tally: Tally) -> None:
        """Writes a checkpoint under `names`; if that fails, it warns, and the next save tries again."""
        position, step = self._position, self._step
        self._guards.check_network()
        states = gather_objects((random_state(self._device), tally.sums.cpu()))
        model, ema_model = whole(step.model), whole(step.ema.model) if step.ema is not None else None
        training = gathered(step.state_dict())
        if self._folder is None:
            return
        position.random = [random for random, _ in states]
        position.sums = torch.stack([sums for _, sums in states]).sum(0) if position.step_in_epoch else None
        notes = {name: getattr(self._args, name) for name in ("model", "class_dim", *INPUT_FLAGS)}
        if self._args.multi_label:
            notes["multi_label"] = True
        if self._class_names:
            notes[CLASS_NAMES] = self._class_names
        learning = step.learning_teacher
        teacher = None if learning is None else (self._args.teacher_model, learning)
        self._saved = self._folder.save(names, model, position, training, ema_model, notes, teacher)

    def check_last(self) -> None:
        """Raises `UserError` if the last checkpoint could not be written."""
        if not self._saved and self._folder is not None:
            raise UserError(
                f"the last checkpoint could not be written to {self._folder.path}: free disk space and resume the run"
            )
