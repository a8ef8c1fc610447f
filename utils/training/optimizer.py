"""Optimizers, and which parameters they decay.

L2 penalties are added to the gradient, as `weight_decay` does in these optimizers, except in AdamW, whose decay is
decoupled from the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.errors import OptionError
from models.names import l2_overrides, lr_shares, paddleclas_names
from models.network import Network
from utils.console import warn
from utils.flags.words import nearest
from utils.training.schedule import STRATEGIES
from utils.training.sharding import is_divided


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
        # Tells GradScaler that `step` itself unscales gradients and skips infinite ones, on the device.
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
        """The gradients without GradScaler's scale, then 1.0, momentum and rho.

        If GradScaler found infinite gradients, the values (then tensors) make the step have no effect: gradients 0, 0.0
        instead of 1.0, and 1.0 for momentum and rho.
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


def parameter_groups(
    model: nn.Module, l2_decay: float, no_decay_names: Sequence[str] = (), decay_vectors: bool = True
) -> list[dict]:
    """The parameters of `model` grouped by L2 decay: `l2_decay`, unless the network overrides it.

    Args:
        model: the network.
        l2_decay: the default.
        no_decay_names: exempts parameters whose name in PaddleClas's files contains one of these.
        decay_vectors: whether to decay vectors and scalars too.
    """
    overrides = l2_overrides(model) | dict.fromkeys(_named(model, no_decay_names), 0.0)
    by_decay: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = overrides.get(name, l2_decay) if decay_vectors or parameter.dim() > 1 else 0.0
        by_decay.setdefault(decay, []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in by_decay.items()]


def _named(model: nn.Module, words: Sequence[str]) -> set[str]:
    """The parameters whose name in PaddleClas's files contains one of some words."""
    published = paddleclas_names(model) if words and isinstance(model, Network) else {}
    return {name for name in published if any(word in published[name] for word in words)}


def decoupled_groups(
    model: nn.Module, weight_decay: float, no_decay_names: Sequence[str] | None = None, decay_vectors: bool = False
) -> list[dict]:
    """The parameters of `model` in two groups: with and without AdamW's decay.

    AdamW does not decay vectors and scalars, such as norms and biases, or parameters that the network exempts: class
    tokens, position embeddings, tables of relative positions.

    Args:
        model: the network.
        weight_decay: of the first group.
        no_decay_names: replaces the network's exemptions: parameters whose name in PaddleClas's files contains one of
            these.
        decay_vectors: decay vectors and scalars as well.
    """
    if no_decay_names is None:
        free = {name for name, decay in l2_overrides(model).items() if decay == 0.0}
    else:
        free = _named(model, no_decay_names)
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        (kept if name in free or (parameter.dim() <= 1 and not decay_vectors) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def split_by_layer(model: Network, groups: Iterable[dict], layer_decay: float) -> list[dict]:
    """Splits the parameter groups by layer, with learning rates that shrink from the classifier to the input.

    The rate of a layer is `layer_decay` times that of the next one (Clark et al., arXiv:2003.10555; BEiT,
    arXiv:2106.08254). See `set_lr`.

    Raises:
        OptionError: the network does not number its layers.
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


def stage_shares(model: Network, factors: Sequence[float]) -> dict[str, float]:
    """The parameters of the stem and of each stage -> their share of the learning rate.

    Args:
        model: the network.
        factors: of the stem and of each stage.

    Raises:
        OptionError: the network has no such stages, or another number of them.
    """
    stages = model.stem_and_stages()
    if len(stages) != len(factors):
        raise OptionError("lr_mult", f"{len(factors)} factors, and {type(model).__name__} has {len(stages)} stages")
    return {
        name: factor
        for prefixes, factor in zip(stages, factors, strict=True)
        for name, _ in model.named_parameters()
        if name.startswith(prefixes)
    }


def split_by_share(model: nn.Module, groups: Iterable[dict], *shares: Mapping[str, float]) -> list[dict]:
    """The parameter groups, apart by their shares of the learning rate; see `set_lr`.

    Args:
        model: the network.
        groups: its parameters.
        shares: parameters -> share, which are multiplied; 1 for what is in none.
    """
    share_of = {
        parameter: math.prod(each.get(name, 1.0) for each in shares) for name, parameter in model.named_parameters()
    }
    split = []
    for group in groups:
        by_share: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_share.setdefault(share_of[parameter], []).append(parameter)
        split += [{**group, "params": part, "lr_scale": share} for share, part in by_share.items()]
    return split


class _Decay(NamedTuple):
    """How parameters are decayed.

    Attributes:
        kind: "l2", "decoupled" (AdamW's) or "none".
        coefficient: of the decay.
        no_decay_names, decay_vectors, layer_decay: see `build_optimizer`.
    """

    kind: str
    coefficient: float
    no_decay_names: Sequence[str] | None
    decay_vectors: bool | None
    layer_decay: float


def _groups(module: nn.Module, decay: _Decay, lr_factors: Sequence[float] | None = None) -> list[dict]:
    """The parameter groups of a network or of losses with parameters.

    Raises:
        OptionError: the network has no layers or stages of the requested kind.
    """
    if not any(True for _ in module.parameters()):
        return []
    if decay.kind == "decoupled":
        groups = decoupled_groups(module, decay.coefficient, decay.no_decay_names, bool(decay.decay_vectors))
        if isinstance(module, Network) and decay.layer_decay != 1.0:
            groups = split_by_layer(module, groups, decay.layer_decay)
    elif decay.kind == "none":
        groups = [{"params": list(module.parameters()), "weight_decay": 0.0}]
    else:
        groups = parameter_groups(
            module, decay.coefficient, decay.no_decay_names or (), decay.decay_vectors is not False
        )
    slow = lr_shares(module)
    if isinstance(module, Network) and (lr_factors is not None or slow):
        groups = split_by_share(module, groups, slow, stage_shares(module, lr_factors) if lr_factors else {})
    return groups


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
    nesterov: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float | None = None,
    rho: float = 0.95,
    no_decay_names: Sequence[str] | None = None,
    decay_vectors: bool | None = None,
    lr_factors: Sequence[float] | None = None,
    beside: Iterable[nn.Module] = (),
) -> torch.optim.Optimizer:
    """The named optimizer, or the one that belongs to a learning-rate strategy.

    Most strategies use Momentum; exponential_decay_warmup and cosine_decay_RMSProp use RMSProp; adam_decay uses Adam
    without any decay. An unknown strategy gets a warning and Momentum.

    Args:
        model: on its device.
        strategy, lr, l2_decay, momentum: see the flags.
        optimizer: "momentum", "sgd" (without momentum), "adam", "adamw" (Loshchilov & Hutter, arXiv:1711.05101),
            "rmsprop", or None for the strategy's.
        weight_decay: for AdamW, instead of `l2_decay`: see `decoupled_groups`.
        layer_decay: for AdamW, see `split_by_layer`; 1: the same rate for all layers.
        nesterov: Nesterov momentum.
        betas: for Adam and AdamW.
        epsilon: for Adam, AdamW and RMSProp; None: their usual values.
        rho: for RMSProp.
        no_decay_names, decay_vectors: see `decoupled_groups` and `parameter_groups`; None: decay vectors, except in
            AdamW.
        lr_factors: see `stage_shares`; None: the same rate for all stages.
        beside: modules trained along: another network, losses.
    """
    if strategy not in STRATEGIES:
        warn(
            f"--lr_strategy: unknown strategy {strategy!r}, so the rate stays at {lr}; {nearest(strategy, STRATEGIES)}"
        )
    # Fused optimizers visit the parameters once and read the loss scale on the device; others would wait for it every
    # step.
    parameter = next(model.parameters())
    fused = parameter.device.type in ("cpu", "cuda") and not is_divided(parameter)  # fused SGD does not exist there
    adam = {"lr": lr, "betas": betas, "eps": 1e-8 if epsilon is None else epsilon, "fused": fused}
    decay = _Decay(
        "decoupled" if optimizer == "adamw" else "none" if optimizer is None and strategy == "adam_decay" else "l2",
        weight_decay if optimizer == "adamw" else l2_decay,
        no_decay_names,
        decay_vectors,
        layer_decay,
    )
    groups = _groups(model, decay, lr_factors)
    for module in beside:
        groups += _groups(module, decay)
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, **adam)
    if optimizer == "adam" or (optimizer is None and strategy == "adam_decay"):
        return torch.optim.Adam(groups, **adam)
    if optimizer == "rmsprop":
        return RMSProp(groups, lr, rho=rho, epsilon=1e-6 if epsilon is None else epsilon, momentum=momentum)
    if optimizer is None and strategy == "exponential_decay_warmup":
        return RMSProp(groups, lr, rho=0.9, epsilon=0.001, momentum=momentum)
    if optimizer is None and strategy == "cosine_decay_RMSProp":
        return RMSProp(groups, lr, rho=0.95, epsilon=1.0, momentum=momentum)
    if optimizer == "sgd" or not momentum:
        return torch.optim.SGD(groups, lr=lr, fused=fused)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    # PyTorch creates the momentum in the first step, and leaves it undefined if loss scaling skips that step.
    for parameter in (parameter for group in groups for parameter in group["params"]):
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return sgd


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group, scaled by its layer's factor, if any."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate; with layer-wise factors, the classifier's."""
    return max(group["lr"] for group in optimizer.param_groups)
