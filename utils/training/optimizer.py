"""Learning-rate strategies and their optimizers, step for step those of the original; and AdamW.

A strategy is a plain function of the number of steps done, so resuming needs nothing but that number. L2 penalties are
added to the gradient, which is what `weight_decay` means in the optimizers used here, except in AdamW: its decay is
decoupled from the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.names import l2_overrides
from models.network import Network
from utils.console import warn


@dataclass(frozen=True)
class Schedule:
    """What the learning-rate strategies are made of.

    Attributes:
        strategy: name, as in --lr_strategy.
        lr: base rate.
        steps_per_epoch: optimizer steps in an epoch.
        num_epochs: length of the run.
        step_epochs: where piecewise_decay drops the rate.
        warm_up_epochs, decay_epochs, decay_rate: see the flags.
        min_lr: where the cosine strategies end.
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

    def __call__(self, step: int) -> float:
        """The learning rate of the step after `step` steps."""
        return STRATEGIES.get(self.strategy, _constant)(self, step)


def _constant(s: Schedule, step: int) -> float:
    return s.lr


def _piecewise(s: Schedule, step: int) -> float:
    """A tenth of the rate at each of `step_epochs`."""
    return s.lr * 0.1 ** sum(step >= epoch * s.steps_per_epoch for epoch in s.step_epochs)


def _half_cosine(done: float, total: float) -> float:
    """From 1 to 0 while `done` goes from 0 to `total`; in float32, whose rounding of small rates the original has."""
    if done >= total:
        return 0.0
    return float((np.cos(np.float32(done) * np.float32(math.pi / total)) + np.float32(1)) * np.float32(0.5))


def _cosine(s: Schedule, step: int) -> float:
    """Half a cosine over the run, down to `min_lr`; the rate moves once an epoch."""
    return s.min_lr + (s.lr - s.min_lr) * _half_cosine(step // s.steps_per_epoch, s.num_epochs)


def _cosine_warmup(s: Schedule, step: int) -> float:
    """Linear from 0 over the warm-up, then half a cosine, down to `min_lr`, that moves every step."""
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


STRATEGIES: dict[str, Callable[[Schedule, int], float]] = {
    "piecewise_decay": _piecewise,
    "cosine_decay": _cosine,
    "cosine_decay_warmup": _cosine_warmup,
    "exponential_decay_warmup": _exponential_warmup,
    "linear_decay": _linear,
    "adam_decay": _constant,
    "cosine_decay_RMSProp": _cosine,
    "default_decay": _constant,
}


class RMSProp(torch.optim.Optimizer):
    """RMSProp with momentum as fluid (and TensorFlow) define it.

    With the squared gradient averaged in s and the L2 penalty in the gradient g:

        s = rho s + (1 - rho) g^2;   m = momentum m + lr g / sqrt(s + epsilon);   p = p - m

    `torch.optim.RMSprop` puts epsilon outside the root and the learning rate outside the momentum.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        rho: float = 0.95,
        epsilon: float = 1e-6,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "rho": rho, "epsilon": epsilon, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        # Tells GradScaler that `step` unscales the gradients and skips infinite ones itself, on the device.
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p]["square"] = torch.zeros_like(p)
                    self.state[p]["momentum"] = torch.zeros_like(p)
            squares = [self.state[p]["square"] for p in params]
            momenta = [self.state[p]["momentum"] for p in params]
            grads, keep, momentum, rho = self._unscaled(params, group)
            if group["weight_decay"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, rho)
            torch._foreach_add_(squares, torch._foreach_mul(torch._foreach_mul(grads, grads), 1 - rho))
            roots = torch._foreach_add(squares, group["epsilon"])
            torch._foreach_sqrt_(roots)
            changes = torch._foreach_div(grads, roots)
            torch._foreach_mul_(changes, group["lr"] * keep)
            torch._foreach_mul_(momenta, momentum)
            torch._foreach_add_(momenta, changes)
            torch._foreach_sub_(params, momenta if isinstance(keep, float) else torch._foreach_mul(momenta, keep))
        return loss

    def _unscaled(
        self, params: list[Tensor], group: dict[str, Any]
    ) -> tuple[list[Tensor], float | Tensor, float | Tensor, float | Tensor]:
        """The gradients without GradScaler's scale, and 1.0, momentum and rho.

        If GradScaler found infinite gradients, the numbers (tensors then) make a step of no effect: gradients 0,
        0.0 in place of 1.0, and 1.0 for momentum and rho.
        """
        grads = [p.grad for p in params if p.grad is not None]
        scale, infinite = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if infinite is None:
            return grads, 1.0, group["momentum"], group["rho"]
        skip = infinite.squeeze() > 0
        keep = 1.0 - skip.float()
        grads = [g if scale is None else g / scale for g in grads]
        grads = [torch.where(skip, g.new_zeros(()), g) for g in grads]
        return grads, keep, torch.where(skip, 1.0, group["momentum"]), torch.where(skip, 1.0, group["rho"])


def parameter_groups(model: nn.Module, l2_decay: float) -> list[dict]:
    """The parameters of `model` by their L2 decay: `l2_decay`, except where the network overrides it."""
    overrides = l2_overrides(model)
    by_decay: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        by_decay.setdefault(overrides.get(name, l2_decay), []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in by_decay.items()]


def decoupled_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """The parameters of `model` in two groups, those that AdamW decays and those that it does not.

    Not decayed are vectors and scalars, such as those of norms and biases, and what the network says is to be trained
    without any L2 decay: class tokens, position embeddings, tables of relative positions.
    """
    overrides = l2_overrides(model)
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        free = parameter.dim() <= 1 or overrides.get(name) == 0.0
        (kept if free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def split_by_layer(model: Network, groups: Iterable[dict], layer_decay: float) -> list[dict]:
    """The parameter groups, apart by layers, whose learning rates shrink from the classifier to the images.

    The rate of a layer is `layer_decay` times that of the next one (Clark et al., arXiv:2003.10555; BEiT,
    arXiv:2106.08254). See `set_lr`.

    Raises:
        OptionError: the network does not count its layers.
    """
    numbers = model.layer_numbers()
    last = max(numbers.values())
    layers = {parameter: numbers[name] for name, parameter in model.named_parameters()}
    split = []
    for group in groups:
        by_layer: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_layer.setdefault(layers[parameter], []).append(parameter)
        for number, parameters in sorted(by_layer.items()):
            split.append({**group, "params": parameters, "lr_scale": layer_decay ** (last - number)})
    return split


def build_optimizer(
    model: Network,
    strategy: str,
    lr: float,
    l2_decay: float,
    momentum: float = 0.9,
    *,
    optimizer: str | None = None,
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimizer of a name, or the one that belongs to a learning-rate strategy.

    By strategy it is Momentum (not Nesterov) for most; RMSProp for exponential_decay_warmup and cosine_decay_RMSProp;
    Adam, without any decay, for adam_decay. An unknown strategy gets a warning and Momentum.

    Args:
        model: on its device.
        strategy, lr, l2_decay, momentum: see the flags.
        optimizer: "momentum", "adamw" (Loshchilov & Hutter, arXiv:1711.05101), or None for that of the strategy.
        weight_decay: of AdamW, in place of `l2_decay`: see `decoupled_groups`.
        layer_decay: of AdamW, see `split_by_layer`; 1: all layers learn at the same rate.
    """
    if strategy not in STRATEGIES:
        warn(f"--lr_strategy: unknown strategy {strategy!r}, the rate stays at {lr}; known: {', '.join(STRATEGIES)}")
    # Fused optimizers go through the parameters once, and take the loss scale on the device; others would wait for it
    # at every step.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if optimizer == "adamw":
        groups = decoupled_groups(model, weight_decay)
        if layer_decay != 1.0:
            groups = split_by_layer(model, groups, layer_decay)
        return torch.optim.AdamW(groups, lr=lr, eps=1e-8, fused=fused)
    if optimizer is None and strategy == "adam_decay":
        return torch.optim.Adam(model.parameters(), lr=lr, eps=1e-8, fused=fused)
    groups = parameter_groups(model, l2_decay)
    if optimizer is None and strategy == "exponential_decay_warmup":
        return RMSProp(groups, lr, rho=0.9, epsilon=0.001, momentum=momentum)
    if optimizer is None and strategy == "cosine_decay_RMSProp":
        return RMSProp(groups, lr, rho=0.95, epsilon=1.0, momentum=momentum)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused)
    # PyTorch makes the momentum in the first step, and leaves it undefined if loss scaling skips that step.
    for parameter in model.parameters():
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return sgd


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group, of its layer's share where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate, which is the classifier's where layers have shares of it."""
    return max(group["lr"] for group in optimizer.param_groups)
