"""One training step of train.py.

Nothing here waits for the device, which sums losses and hits (`utils.evaluation.metrics`) and adapts the loss scale
itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.names import l2_overrides
from models.network import Network, main_output
from utils.training.distillation import Distillation
from utils.training.ema import ExponentialMovingAverage
from utils.training.loss import Criterion, Targets, classification_loss
from utils.training.optimizer import set_lr
from utils.training.plateau import Plateau
from utils.training.running_variance import running_variance
from utils.training.schedule import Schedule
from utils.training.sharding import divided_state, is_sharded


class TrainStep:
    """One step: forward, loss, backward, optimizer and average.

    Args:
        model: the network; `network` may be its distributed wrapper.
        optimizer, schedule: see `utils.training.optimizer`.
        network: the module to call, if not `model` or `distillation`.
        smoothing: epsilon of label smoothing.
        criterion: maps outputs, targets and smoothing to the loss.
        amp_dtype: type of mixed precision's operations; None for float32.
        loss_scale: initial loss scale of float16.
        dynamic_loss_scaling: adapt the scale; else it stays fixed, and steps with infinite gradients are skipped.
        clip_norm: maximum norm of all gradients together (Pascanu et al., arXiv:1211.5063); 0: no limit.
        clip_norm_each: maximum norm of each parameter's gradient; 0: no limit.
        l1_decay: this times a parameter's sign is added to its gradient after clipping, except in layers that set their
            own L2 decay.
        ema: average to update.
        distillation: from a teacher to the network.
        accumulate_steps: parts of a batch to process one after the other.

    Attributes:
        step: steps done.
        shift: by how many steps the schedule is ahead of `step`; nonzero if the steps per epoch changed.
        origin: for a training that began in PaddlePaddle, the data needed to convert it back
            (`utils.training.from_paddle`); else None.
        skipped: 1 if loss scaling skipped the last step because of infinite gradients, else 0; a scalar on the device.
            0.0 without loss scaling.
    """

    def __init__(
        self,
        model: Network,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        plateau: Plateau | None = None,
        network: nn.Module | None = None,
        smoothing: float = 0.0,
        criterion: Criterion = classification_loss,
        amp_dtype: torch.dtype | None = None,
        loss_scale: float = 1.0,
        dynamic_loss_scaling: bool = True,
        clip_norm: float = 0.0,
        clip_norm_each: float = 0.0,
        l1_decay: float = 0.0,
        ema: ExponentialMovingAverage | None = None,
        distillation: Distillation | None = None,
        accumulate_steps: int = 1,
    ) -> None:
        self.model = model
        whole = model if distillation is None else distillation
        self.network: nn.Module = whole if network is None else network
        self.optimizer = optimizer
        self.schedule = schedule
        self.plateau = plateau
        self.smoothing = smoothing
        self.criterion = criterion
        self.clip_norm = clip_norm
        self.clip_norm_each = clip_norm_each
        self.l1_decay = l1_decay
        self.ema = ema
        self.distillation = distillation
        self.accumulate_steps = accumulate_steps
        self.device_type = next(model.parameters()).device.type
        self.amp_dtype = amp_dtype
        self.fixed_scale = None if dynamic_loss_scaling else loss_scale
        # fluid doubles the scale after 1,000 good steps.
        self.scaler = torch.amp.GradScaler(
            self.device_type, init_scale=loss_scale, growth_interval=1000, enabled=amp_dtype == torch.float16
        )
        self.step = 0
        self.shift = 0
        self.origin: dict[str, Any] | None = None
        self.skipped: Tensor | float = 0.0
        optimizer.register_step_post_hook(self._note_skipped)

    def _note_skipped(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Keeps GradScaler's message to fused optimizers, which exists only during their step."""
        found = getattr(optimizer, "found_inf", None)
        self.skipped = 0.0 if found is None else (found > 0).squeeze()

    def rate(self, step: int) -> float:
        """The learning rate after `step` steps."""
        return self.schedule(step + self.shift) if self.plateau is None else self.plateau.rate

    @property
    def scaling(self) -> bool:
        """Whether steps with infinite gradients are skipped."""
        return self.scaler.is_enabled()

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision, or nothing."""
        return torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_dtype is not None)

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Trains on a batch.

        Args:
            images: normalised (N, 3, H, W).
            targets: their targets.

        Returns:
            The batch's mean loss, a scalar on the device, and the main logits (N, classes).
        """
        set_lr(self.optimizer, self.rate(self.step))
        losses, logits = [], []
        parts = list(_parts(images, targets, self.accumulate_steps))
        for number, (part, part_targets) in enumerate(parts, 1):
            share = len(part) / len(images)
            with self._no_sync(number < len(parts)):
                with self.autocast():
                    loss, outputs = self._forward(part, part_targets)
                    loss = loss * share
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
            logits.append(main_output(outputs).detach())
        self._change_gradients()
        self.scaler.step(self.optimizer)
        if self.scaling:
            self.scaler.update(self.fixed_scale)
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        if len(parts) == 1:
            return losses[0], logits[0]
        return torch.stack(losses).sum(), torch.cat(logits)

    def _forward(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """The loss, and the network's logits."""
        if self.distillation is not None:
            return self.network(images, targets)
        outputs = self.network(images)
        return self.criterion(outputs, targets, self.smoothing), outputs

    @property
    def learning_teacher(self) -> Network | None:
        """The teacher, if it learns."""
        return self.distillation.teacher if self.distillation is not None and self.distillation.teacher_learns else None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All trained parameters by name: the network's, and those of a learning teacher and losses."""
        yield from self.model.named_parameters()
        for prefix, module in self.distillation.learners().items() if self.distillation else ():
            yield from module.named_parameters(prefix)

    def _change_gradients(self) -> None:
        """Clips the gradients, and adds the L1 penalty."""
        if not self.clip_norm and not self.clip_norm_each and not self.l1_decay:
            return
        self.scaler.unscale_(self.optimizer)  # both apply to unscaled gradients
        parameters = [parameter for _, parameter in self.named_parameters()]
        if self.clip_norm_each:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norms = torch._foreach_norm(gradients)
            torch._foreach_mul_(gradients, [(self.clip_norm_each / norm).clamp_max(1) for norm in norms])
        if self.clip_norm:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        if self.l1_decay:
            own = l2_overrides(self.model)
            decayed = {p: p.grad for name, p in self.named_parameters() if name not in own and p.grad is not None}
            signs = torch._foreach_sign([p.detach() for p in decayed])
            torch._foreach_add_(list(decayed.values()), signs, alpha=self.l1_decay)

    def _no_sync(self, wanted: bool) -> contextlib.AbstractContextManager:
        """Keeps the processes from exchanging incomplete gradients."""
        network: Any = self.network
        if is_sharded(network):
            network.set_requires_gradient_sync(not wanted)
        if wanted and isinstance(self.network, DistributedDataParallel):
            return self.network.no_sync()
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The state for resuming, apart from the networks' weights."""
        return {
            "step": self.step,
            "shift": self.shift,
            "steps_per_epoch": self.schedule.steps_per_epoch,
            "optimizer": self.optimizer.state_dict(),
            "optimizer_kind": type(self.optimizer).__name__,
            "parameters": self.parameter_names(),
            "rate": self.rate(self.step),
            "base_rate": self.schedule.lr,
            "warm_up_steps": self.schedule.warm_up_steps,
            "by_epoch": self.schedule.by_epoch,
            "scaler": self.scaler.state_dict(),
            "ema_step": self.ema.step if self.ema is not None else 0,
            "ema_ramps": self.ema is None or self.ema.ramps,
            "ema_decay": self.ema.decay if self.ema is not None else 0.0,
            "running_variance": running_variance(self.model),
            "losses": self.distillation.parts.state_dict() if self.distillation else {},
            "plateau": self.plateau.state_dict() if self.plateau is not None else None,
            "origin": self.origin,
        }

    def parameter_names(self) -> list[str]:
        """State-dict keys of the parameters in the optimizer's order."""
        keys = {parameter: key for key, parameter in self.named_parameters()}
        return [keys[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved `state`; options such as the weight decay are this run's.

        The schedule continues at the same (fractional) epoch, even if the steps per epoch changed.

        Raises:
            ValueError: the state belongs to another optimizer or other losses.
        """
        kind = type(self.optimizer).__name__
        if state["optimizer_kind"] != kind:
            raise ValueError(
                f"it was trained with {state['optimizer_kind']}, but --lr_strategy and --optimizer ask for {kind}"
            )
        if self.distillation is not None:
            self.distillation.load_losses(state.get("losses", {}))
        saved = ("params", "lr")
        options = [{k: v for k, v in group.items() if k not in saved} for group in self.optimizer.param_groups]
        self.step = state["step"]
        now = self.schedule.steps_per_epoch
        self.shift = round((self.step + state["shift"]) * now / state["steps_per_epoch"]) - self.step
        optimizer = state["optimizer"]
        if is_sharded(self.model):
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            optimizer = {**optimizer, "state": divided_state(optimizer["state"], parameters)}
        self.optimizer.load_state_dict(optimizer)
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)
        # Fused optimizers pair values by memory order, so convert the saved ones to this run's memory format.
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if not isinstance(value, Tensor) or not value.dim():
                    continue
                if value.shape != parameter.shape:  # they do not check this, and would write beyond its end
                    raise ValueError(
                        f"its {name} has shape {list(value.shape)}, but the parameter {list(parameter.shape)}"
                    )
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.scaling and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.step = state["ema_step"]
            self.ema.ramps = state.get("ema_ramps", self.ema.ramps)
        if self.plateau is not None and state.get("plateau"):
            self.plateau.load_state_dict(state["plateau"])
        self.origin = state.get("origin")


def _parts(images: Tensor, targets: Targets, count: int) -> Iterator[tuple[Tensor, Targets]]:
    """Splits a batch into `count` parts of about the same size."""
    if count == 1:
        yield images, targets
        return
    mixed = targets.mixed_labels.chunk(count) if targets.mixed_labels is not None else [None] * count
    for part, labels, mixed_labels in zip(images.chunk(count), targets.labels.chunk(count), mixed, strict=False):
        yield part, Targets(labels, mixed_labels, targets.weight)
