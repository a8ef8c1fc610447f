"""What a run refuses to go on with, or to save: losses, parameters and statistics that are not finite."""

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

# Under loss scaling a bad step is skipped and the scale lowered. A scale that rises again every thousand steps has one
# of them skipped each time; more than so many in an epoch that are also more than such a share of it are no accident.
HOPELESS_STEPS, HOPELESS_SHARE = 100, 0.05


class Guards:
    """Looks at a run. Every method raises its `UserError` in every process, and every process has to call it.

    Args:
        args: train.py's flags.
        step: what trains the network.
        position: how far the run is.
        images: the training list.
    """

    def __init__(self, args: Flags, step: TrainStep, position: Position, images: ImageList) -> None:
        self._args = args
        self._step = step
        self._position = position
        self._images = images

    def check_losses(self, tally: Tally) -> None:
        """Refuses a loss that was not finite, since the sums were last taken, and that will not mend.

        Loss scaling mends it: too many steps that it skipped are refused.
        """
        if self._step.scaling:
            skipped = total(tally.sums)["skipped"]
            if skipped > max(HOPELESS_STEPS, HOPELESS_SHARE * self._position.step_in_epoch):
                raise UserError(
                    f"{skipped:.0f} steps of epoch {self._position.epoch} were skipped, as their gradients were not "
                    f"finite ({self._circumstances()}): lower --scale_loss or --lr, or try --amp_dtype=bfloat16; what "
                    "was saved before is untouched"
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
                f"what was saved before is untouched. The batch's images: {', '.join(names)}"
            )

    def check_epoch(self, values: dict[str, float]) -> None:
        """Refuses an epoch of which loss scaling skipped all, or whose losses were all not finite.

        Args:
            values: means of its training images.
        """
        if not self._step.scaling:
            return
        epoch = self._position.epoch
        if math.isnan(values["loss"]):
            raise UserError(
                f"no loss of epoch {epoch} was finite ({self._circumstances()}): lower --lr, or try "
                "--amp_dtype=bfloat16; what was saved before the epoch is untouched"
            )
        if values["skipped"] >= self._position.step_in_epoch:
            line = f"every step of epoch {epoch} was skipped: no gradients were finite ({self._circumstances()})"
            if not self._args.use_dynamic_loss_scaling:
                raise UserError(f"{line}: lower --scale_loss; what was saved before the epoch is untouched")
            warn(f"{line}; the scale comes down by itself, a lower --scale_loss is faster")

    def check_validation(self, results: dict[str, dict[str, float]]) -> None:
        """Refuses a network, or an average, that gives losses that are not finite.

        Args:
            results: means, of "test" and "test_ema" images, if there are any.
        """
        for name in ("test", "test_ema"):
            if name in results and results[name]["bad"]:
                raise UserError(
                    f"{name}_loss of epoch {self._position.epoch} is not finite ({self._circumstances()}): lower --lr; "
                    "what was saved before is untouched"
                )

    def check_network(self) -> None:
        """Refuses a parameter, or a statistic of a batch-norm that would be saved, that is not finite."""
        tensors: list[Tensor] = [local(parameter) for _, parameter in self._step.named_parameters()]
        if is_main_process():  # whose statistics are saved
            tensors += [buffer for buffer in self._step.model.buffers() if buffer.is_floating_point()]
        finite = bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
        if not all(gather_objects(finite)):
            raise UserError(
                f"parameters or batch-norm statistics are not finite after step {self._step.step - 1} "
                f"({self._circumstances()}): lower --lr; what was saved before is untouched"
            )

    def _circumstances(self) -> str:
        """The rate of the last step and, where there is one, the loss scale."""
        rate = f"learning rate {self._step.rate(self._step.step - 1):g}"
        return f"{rate}, loss scale {self._step.scaler.get_scale():g}" if self._step.scaling else rate
