"""Stops a run whose losses, parameters or statistics are not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.console import is_main_process, warn
from utils.errors import UserError
from utils.evaluation.metrics import total
from utils.flags import Flags
from utils.processes import gather_objects
from utils.reading.image_list import ImageList
from utils.training.checkpoint import Position
from utils.training.sharding import local
from utils.training.step import TrainStep
from utils.training.tally import Tally

# Loss scaling skips a bad step and lowers the scale. As the scale rises again every thousand steps, one of them is
# skipped each time. A run fails only if an epoch skips more steps than this number and this share.
HOPELESS_STEPS, HOPELESS_SHARE = 100, 0.05


class Guards:
    """Watches a run. Every process must call every method, which raises its `UserError` in all processes.

    Args:
        args: train.py's flags.
        step: what trains the network.
        position: progress of the run.
        images: the training list.
    """

    def __init__(self, args: Flags, step: TrainStep, position: Position, images: ImageList) -> None:
        self._args = args
        self._step = step
        self._position = position
        self._images = images

    def check_losses(self, tally: Tally) -> None:
        """Raises if a loss since the sums were last taken was not finite and cannot recover.

        Loss scaling recovers from it, unless it skipped too many steps.
        """
        if self._step.scaling:
            skipped = total(tally.sums)["skipped"]
            if skipped > max(HOPELESS_STEPS, HOPELESS_SHARE * self._position.step_in_epoch):
                raise UserError(
                    f"{skipped:.0f} steps of epoch {self._position.epoch} were skipped because their gradients were "
                    f"not finite ({self._circumstances()}): lower --scale_loss or --lr, or try --amp_dtype=bfloat16; "
                    "earlier checkpoints are untouched"
                )
            return
        found = tally.first_bad()
        names = [self._images.path(index) for index in tally.images_of(found)] if found >= 0 else []
        findings = [finding for finding in gather_objects((found, names)) if finding[0] >= 0]
        if findings:
            number = min(findings)[0]
            names = [name for first, names in findings if first == number for name in names]
            raise UserError(
                f"the loss of step {number} is not finite (learning rate {self._step.rate(number):g}): lower --lr; "
                f"earlier checkpoints are untouched. The batch's images: {', '.join(names)}"
            )

    def check_epoch(self, values: dict[str, float]) -> None:
        """Raises if loss scaling skipped all steps of an epoch, or none of its losses was finite.

        Args:
            values: means of its training images.
        """
        if not self._step.scaling:
            return
        epoch = self._position.epoch
        if math.isnan(values["loss"]):
            raise UserError(
                f"no loss of epoch {epoch} was finite ({self._circumstances()}): lower --lr, or try "
                "--amp_dtype=bfloat16; earlier checkpoints are untouched"
            )
        if values["skipped"] >= self._position.step_in_epoch:
            line = f"every step of epoch {epoch} was skipped: no gradients were finite ({self._circumstances()})"
            if not self._args.use_dynamic_loss_scaling:
                raise UserError(f"{line}: lower --scale_loss; earlier checkpoints are untouched")
            warn(f"{line}; the loss scale decreases automatically, but a lower --scale_loss is faster")

    def check_validation(self, results: dict[str, dict[str, float]]) -> None:
        """Raises if a validation loss of the network or its average is not finite.

        Args:
            results: means over "test" and "test_ema" images, if any.
        """
        for name in ("test", "test_ema"):
            if name in results and results[name]["bad"]:
                raise UserError(
                    f"{name}_loss of epoch {self._position.epoch} is not finite ({self._circumstances()}): lower "
                    "--lr; earlier checkpoints are untouched"
                )

    def check_network(self) -> None:
        """Raises if a parameter, or a batch norm statistic to be saved, is not finite."""
        tensors: list[Tensor] = [local(parameter) for _, parameter in self._step.named_parameters()]
        if is_main_process():  # whose statistics are saved
            tensors += [buffer for buffer in self._step.model.buffers() if buffer.is_floating_point()]
        finite = bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
        if not all(gather_objects(finite)):
            raise UserError(
                f"parameters or batch norm statistics are not finite after step {self._step.step - 1} "
                f"({self._circumstances()}): lower --lr; earlier checkpoints are untouched"
            )

    def _circumstances(self) -> str:
        """The learning rate of the last step and the loss scale, if any."""
        rate = f"learning rate {self._step.rate(self._step.step - 1):g}"
        return f"{rate}, loss scale {self._step.scaler.get_scale():g}" if self._step.scaling else rate
