"""Freezes parts of a network while the rest is trained."""

from __future__ import annotations

from argparse import Namespace

from torch import nn

from models.network import Network
from models.parts import backbone_parameters, stage_parameters
from utils.console import log, warn
from utils.errors import FlagError


def freeze(model: Network, args: Namespace) -> None:
    """Freezes the parts that --freeze names: their parameters get no gradient.

    Raises:
        FlagError: the network has fewer stages.
    """
    if not args.freeze:
        return
    if args.freeze == "backbone":
        frozen, what = backbone_parameters(model), "everything but the classifier"
    else:
        stages = stage_parameters(model)
        if args.freeze > len(stages):
            raise FlagError(
                f"--freeze={args.freeze}: {args.model} has {len(stages)} stage{'s' * (len(stages) > 1)}: give fewer, "
                "or backbone"
            )
        frozen = stages[args.freeze - 1]
        what = "the stem and the first stage" if args.freeze == 1 else f"the stem and the first {args.freeze} stages"
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    count, whole = sum(sizes[name] for name in frozen), sum(sizes.values())
    log(f"--freeze={args.freeze}: frozen: {what}, {count:,} of {whole:,} parameters")
    if not args.pretrained_model and not args.checkpoint:
        warn("--freeze without --pretrained_model: the frozen parameters are random; give weights to start from")


def train_mode(model: nn.Module) -> None:
    """Puts a network into training mode and its frozen parts into evaluation mode, which fixes their batch norm
    statistics and disables dropout.
    """
    model.train()
    _rest(model)


def _rest(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _rest(child)
