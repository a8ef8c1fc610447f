"""Parses --distill_loss: a sum of losses, each a word `NAME` or `NAME:option=value:weight=W`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from utils.errors import FlagError
from utils.flags.kinds import boolean, fraction, non_negative, number
from utils.flags.words import Kind, nearest, options_of
from utils.training.logit_losses import decoupled_loss, dist_loss, kl_loss, spherical_loss, weighted_soft_loss
from utils.training.loss import jensen_shannon_loss, soft_label_loss

_temperature = number(float, 0.01, 1000)


@dataclass(frozen=True)
class Term:
    """One of the summed losses.

    Attributes:
        name: a key of `LOSSES`.
        weight: its factor.
        options: for its function.
    """

    name: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


def _activation(text: str) -> bool:
    """True for sigmoid, False for softmax."""
    return _one_of("softmax", "sigmoid")(text) == "sigmoid"


def _one_of(*allowed: str) -> Kind:
    def parse(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(allowed)}")
        return text

    return parse


def _layers(text: str) -> list[str]:
    """Names of layers, joined by +."""
    return text.split("+")


# Losses between both networks' logits, and their options.
OF_LOGITS: dict[str, tuple[Callable[..., Tensor], dict[str, Kind]]] = {
    "js": (jensen_shannon_loss, {}),
    "soft_ce": (soft_label_loss, {"temperature": _temperature}),
    "kl": (kl_loss, {"temperature": _temperature}),
    "dist": (dist_loss, {"beta": non_negative, "gamma": non_negative}),
}
# Losses that use the hard labels too.
OF_LABELS: dict[str, tuple[Callable[..., Tensor], dict[str, Kind]]] = {
    "dkd": (decoupled_loss, {"temperature": _temperature, "alpha": non_negative, "beta": non_negative}),
    "skd": (spherical_loss, {"temperature": _temperature, "multiplier": non_negative, "alpha": fraction}),
    "wsl": (weighted_soft_loss, {"temperature": _temperature}),
}
# Losses between layers' outputs (`utils.training.feature_losses`).
OF_FEATURES: dict[str, dict[str, Kind]] = {
    "distance": {
        "mode": _one_of("l1", "l2", "smooth_l1"),
        "act": _one_of("softmax", "sigmoid"),
        "layer": str,
        "teacher_layer": str,
    },
    "mgd": {"alpha": non_negative, "mask": fraction, "layer": str, "teacher_layer": str},
    "pefd": {"projectors": number(int, 1, 100), "layer": str, "teacher_layer": str},
    "afd": {"dim": number(int, 1, 65536), "layers": _layers, "teacher_layers": _layers},
}
# Options of every word except soft, which --distill_temperature and --distill_weight configure.
LOSSES: dict[str, dict[str, Kind]] = {
    "soft": {},
    **{name: options for name, (_, options) in (OF_LOGITS | OF_LABELS).items()},
    "dml": {"act": _activation, "sum": boolean, "weight_ratio": boolean},
    "ce": {"epsilon": fraction},
    "multi_label": {"weight_ratio": boolean, "sum": boolean},
    "teacher_ce": {"epsilon": fraction},
    "teacher_multi_label": {"weight_ratio": boolean, "sum": boolean},
    **OF_FEATURES,
}
# Losses that need labels, losses for several labels per image, and losses for both kinds of images.
HARD = ("soft", "ce", "multi_label", "teacher_ce", "teacher_multi_label", *OF_LABELS)
OF_SEVERAL_LABELS = ("multi_label", "teacher_multi_label", "dml")
OF_ALL = ("dml", *OF_FEATURES)
# Losses that train the teacher, if it learns. For the others it is a fixed target, as in PaddleClas.
OF_BOTH = ("teacher_ce", "teacher_multi_label", "dml", "js", "dist", "skd", "wsl", *OF_FEATURES)


def terms_of_words(words: Sequence[str], temperature: float, weight: float) -> tuple[Term, ...]:
    """The losses of --distill_loss.

    Args:
        words: see the module.
        temperature, weight: for soft; its hard labels get the rest of the weight.

    Raises:
        FlagError: an unknown word or option.
    """
    terms: list[Term] = []
    for word in words:
        name = word.split(":")[0]
        try:
            if name not in LOSSES:
                raise argparse.ArgumentTypeError(f"no such loss: {nearest(name, LOSSES)}")
            options = options_of(word, {**LOSSES[name], "weight": non_negative})
        except argparse.ArgumentTypeError as error:
            raise FlagError(f"--distill_loss: {word}: {error}") from None
        factor = options.pop("weight", 1.0)
        if name == "soft":
            terms += [
                Term("ce", factor * (1 - weight)),
                Term("soft_ce", factor * weight, {"temperature": temperature}),
            ]
        else:
            terms.append(Term(name, factor, options))
    return tuple(terms)
