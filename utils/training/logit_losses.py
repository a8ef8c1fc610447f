"""Distillation losses between logits. Logits are (N, classes), the student's first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.training.loss import at_least_float32, soft_label_loss


def kl_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's softened probabilities from the teacher's, times temperature^2
    (Hinton et al., arXiv:1503.02531)."""
    p = F.log_softmax(at_least_float32(student) / temperature, dim=1)
    q = F.log_softmax(at_least_float32(teacher) / temperature, dim=1)
    return temperature**2 * F.kl_div(p, q, reduction="batchmean", log_target=True)


def mutual_loss(
    student: Tensor, teacher: Tensor, sigmoid: bool = False, summed: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Half the sum of the Kullback-Leibler divergences both ways (deep mutual learning, Zhang et al.,
    arXiv:1706.00384), as PaddleClas has it.

    Args:
        student, teacher: logits.
        sigmoid: use sigmoids instead of a softmax.
        summed: multiply by the number of classes.
        weights: of each class of each image, (N, classes); None: 1.
    """
    p, q = (at_least_float32(x).sigmoid() if sigmoid else at_least_float32(x).softmax(1) for x in (student, teacher))
    losses = (q - p) * ((q + 1e-12).log() - (p + 1e-12).log()) / 2
    if weights is not None:
        losses = losses * weights
    return losses.sum(1).mean() * (losses.shape[1] if summed else 1)


def dist_loss(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """1 - correlation of the probabilities: per image, times `beta`, plus per class, times `gamma` (DIST, Huang et al.,
    arXiv:2205.10536).
    """

    def unlike(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    p, q = at_least_float32(student).softmax(1), at_least_float32(teacher).softmax(1)
    return beta * unlike(p, q) + gamma * unlike(p.t(), q.t())


def decoupled_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """Decoupled distillation: the probability of the label, times `alpha`, plus the distribution over the other
    classes, times `beta` (DKD, Zhao et al., arXiv:2203.08679).
    """
    mine = torch.zeros_like(student, dtype=torch.bool).scatter_(1, labels[:, None], True)
    logits = [at_least_float32(x) / temperature for x in (student, teacher)]
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
    """Softened and hard labels, weighted `alpha` and 1 - `alpha`, on logits normalised to mean 0 and standard deviation
    `multiplier` (SKD, Guo et al., arXiv:2010.07485).
    """
    mine, theirs = (multiplier * F.layer_norm(at_least_float32(x), x.shape[1:], eps=1e-7) for x in (student, teacher))
    return alpha * soft_label_loss(mine, theirs, temperature) + (1 - alpha) * F.cross_entropy(mine, labels)


def weighted_soft_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 2.0) -> Tensor:
    """Softened labels, weighted more for images on which the student is worse than the teacher (WSL, Zhou et al.,
    arXiv:2102.00650).
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    mine, theirs = (F.cross_entropy(x.detach(), labels, reduction="none") for x in (student, teacher))
    soft = F.softmax(teacher / temperature, dim=1)
    losses = F.cross_entropy(student / temperature, soft, reduction="none")
    return temperature**2 * (losses * (1 - torch.exp(-mine / (theirs + 1e-7)))).mean()
