"""Knowledge distillation: a teacher, and the losses by which a student learns from it.

--distill_loss has a word for each loss, `NAME` or `NAME:option=value:weight=W`; they are summed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import FlagError
from utils.flags.kinds import boolean, fraction, non_negative, number
from utils.flags.words import Kind, nearest, options_of
from utils.training.loss import (
    Targets,
    classification_loss,
    jensen_shannon_loss,
    labels_loss,
    loss_of_outputs,
    soft_label_loss,
)

_temperature = number(float, 0.01, 1000)


def kl_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's softened probabilities from the teacher's, times temperature^2
    (Hinton et al., arXiv:1503.02531). Logits (N, classes) both, here and below."""
    p = F.log_softmax(student.float() / temperature, dim=1)
    q = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(p, q, reduction="batchmean", log_target=True)


def mutual_loss(
    student: Tensor, teacher: Tensor, sigmoid: bool = False, summed: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Half the sum of the Kullback-Leibler divergences both ways (deep mutual learning, Zhang et al.,
    arXiv:1706.00384), as PaddleClas has it.

    Args:
        student, teacher: logits.
        sigmoid: of probabilities by sigmoids, instead of a softmax.
        summed: times the number of classes.
        weights: of each class of each image, (N, classes); None: 1.
    """
    p, q = (x.float().sigmoid() if sigmoid else x.float().softmax(1) for x in (student, teacher))
    losses = (q - p) * ((q + 1e-12).log() - (p + 1e-12).log()) / 2
    if weights is not None:
        losses = losses * weights
    return losses.sum(1).mean() * (losses.shape[1] if summed else 1)


def dist_loss(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """How little the probabilities correlate: by image, times `beta`, and by class, times `gamma` (DIST, Huang et al.,
    arXiv:2205.10536)."""

    def unlike(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    p, q = student.float().softmax(1), teacher.float().softmax(1)
    return beta * unlike(p, q) + gamma * unlike(p.t(), q.t())


def decoupled_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """Distillation of how sure the teacher is of the label, times `alpha`, apart from what it makes of the other
    classes, times `beta` (DKD, Zhao et al., arXiv:2203.08679)."""
    mine = torch.zeros_like(student, dtype=torch.bool).scatter_(1, labels[:, None], True)
    logits = [x.float() / temperature for x in (student, teacher)]
    sure, rest = [], []
    for x in logits:
        others = x.masked_fill(mine, -torch.inf).logsumexp(1)
        sure.append(torch.stack((x.gather(1, labels[:, None])[:, 0], others), dim=1).log_softmax(1))
        rest.append(x.masked_fill(mine, -1000.0).log_softmax(1))
    target = F.kl_div(sure[0], sure[1], reduction="batchmean", log_target=True)
    other = F.kl_div(rest[0], rest[1], reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * target + beta * other)


def spherical_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    multiplier: float = 2.0,
    alpha: float = 0.9,
) -> Tensor:
    """Softened and hard labels, `alpha` and 1 - `alpha`, of logits that are brought to mean 0 and deviation
    `multiplier` (SKD, Guo et al., arXiv:2010.07485)."""
    mine, theirs = (multiplier * F.layer_norm(x.float(), x.shape[1:], eps=1e-7) for x in (student, teacher))
    return alpha * soft_label_loss(mine, theirs, temperature) + (1 - alpha) * F.cross_entropy(mine, labels)


def weighted_soft_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 2.0) -> Tensor:
    """Softened labels, of each image the more the worse the student knows its label by comparison with the teacher
    (WSL, Zhou et al., arXiv:2102.00650)."""
    student, teacher = student.float(), teacher.float()
    mine, theirs = (F.cross_entropy(x.detach(), labels, reduction="none") for x in (student, teacher))
    soft = F.softmax(teacher / temperature, dim=1)
    losses = F.cross_entropy(student / temperature, soft, reduction="none")
    return temperature**2 * (losses * (1 - torch.exp(-mine / (theirs + 1e-7)))).mean()


@dataclass(frozen=True)
class Term:
    """One of the losses that are summed.

    Attributes:
        name: a key of `LOSSES`.
        weight: that it is multiplied by.
        options: of its function.
    """

    name: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


def _activation(text: str) -> bool:
    """Whether it is the sigmoid."""
    if text not in ("softmax", "sigmoid"):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of softmax, sigmoid")
    return text == "sigmoid"


# Losses of both networks' logits, and their options.
_OF_LOGITS: dict[str, tuple[Callable[..., Tensor], dict[str, Kind]]] = {
    "js": (jensen_shannon_loss, {}),
    "soft_ce": (soft_label_loss, {"temperature": _temperature}),
    "kl": (kl_loss, {"temperature": _temperature}),
    "dist": (dist_loss, {"beta": non_negative, "gamma": non_negative}),
}
# Losses that look at the hard labels as well.
_OF_LABELS: dict[str, tuple[Callable[..., Tensor], dict[str, Kind]]] = {
    "dkd": (decoupled_loss, {"temperature": _temperature, "alpha": non_negative, "beta": non_negative}),
    "skd": (spherical_loss, {"temperature": _temperature, "multiplier": non_negative, "alpha": fraction}),
    "wsl": (weighted_soft_loss, {"temperature": _temperature}),
}
# Options of every word but soft, whose parts are the flags' --distill_temperature and --distill_weight.
LOSSES: dict[str, dict[str, Kind]] = {
    "soft": {},
    **{name: options for name, (_, options) in (_OF_LOGITS | _OF_LABELS).items()},
    "dml": {"act": _activation, "sum": boolean, "weight_ratio": boolean},
    "ce": {"epsilon": fraction},
    "multi_label": {"weight_ratio": boolean, "sum": boolean},
}
# Those that images without labels have none of, and those of images with several labels.
HARD = ("soft", "ce", "multi_label", *_OF_LABELS)
OF_SEVERAL_LABELS = ("multi_label", "dml")


def terms_of_words(words: Sequence[str], temperature: float, weight: float) -> tuple[Term, ...]:
    """The losses of --distill_loss.

    Args:
        words: see the module.
        temperature, weight: of soft, whose hard labels have the rest of the weight.

    Raises:
        FlagError: a word or an option that is none.
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


@dataclass
class Distillation:
    """A teacher network and the losses that are learned by.

    Attributes:
        teacher: in evaluation mode, without gradients.
        terms: the losses.
        smoothing: of the hard labels of ce, where it does not say.
        label_weights: of images with several labels, as in `labels_loss`; None: 1.
    """

    teacher: nn.Module
    terms: tuple[Term, ...]
    smoothing: float = 0.0
    label_weights: Tensor | None = None

    def __call__(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor, targets: Targets) -> Tensor:
        """The loss, from both networks' logits (N, classes) and what the batch is trained towards.

        Side classifiers of the student learn from the teacher too.
        """
        return torch.stack([term.weight * self._loss(term, student, teacher, targets) for term in self.terms]).sum()

    def _loss(self, term: Term, student: Tensor | tuple[Tensor, ...], teacher: Tensor, targets: Targets) -> Tensor:
        options = dict(term.options)
        if term.name == "ce":
            return classification_loss(student, targets, options.get("epsilon", self.smoothing))
        weights = self.label_weights if options.pop("weight_ratio", False) else None
        if term.name == "multi_label":
            return labels_loss(student, targets, 0.0, weights, options.get("sum", False))
        if term.name == "dml":
            each = None if weights is None else torch.where(targets.labels > 0, weights[1], weights[0])
            sigmoid, summed = options.get("act", False), options.get("sum", False)
            return loss_of_outputs(lambda logits: mutual_loss(logits, teacher, sigmoid, summed, each), student)
        if term.name in _OF_LOGITS:
            function = _OF_LOGITS[term.name][0]
            return loss_of_outputs(lambda logits: function(logits, teacher, **options), student)
        function = _OF_LABELS[term.name][0]

        def mixed(logits: Tensor) -> Tensor:
            loss = function(logits, teacher, targets.labels, **options)
            if targets.mixed_labels is None:
                return loss
            other = function(logits, teacher, targets.mixed_labels, **options)
            return targets.weight * loss + (1 - targets.weight) * other

        return loss_of_outputs(mixed, student)
