"""The training loss: cross entropy with label smoothing, mixed labels, auxiliary outputs and a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# From outputs, targets and the epsilon of label smoothing to the loss.
Criterion = Callable[["Tensor | tuple[Tensor, ...]", "Targets", float], Tensor]

AUXILIARY_WEIGHT = 0.3  # of GoogLeNet's two auxiliary classifiers (Szegedy et al., arXiv:1409.4842)


@dataclass
class Targets:
    """The targets of a batch.

    Attributes:
        labels: classes, int64 (N,); with several labels per image, 0 or 1 for each class, int64 (N, classes).
        mixed_labels: labels of the images mixed in (mixup, CutMix); None without mixing.
        weight: share of `labels` in a mixed batch.
    """

    labels: Tensor
    mixed_labels: Tensor | None = None
    weight: float = 1.0


def at_least_float32(x: Tensor) -> Tensor:
    """Converts half precision to float32, as logarithms in mixed precision on GPUs would keep its rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def loss_of_outputs(loss: Callable[[Tensor], Tensor], outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A `loss` of the main classifier's logits plus 0.3 times that of each auxiliary classifier."""
    if isinstance(outputs, Tensor):
        return loss(outputs)
    main, *sides = map(loss, outputs)
    return main + AUXILIARY_WEIGHT * sum(sides)


def away(cross_entropy: Tensor, gamma: float) -> Tensor:
    """The focal loss's factor (1 - p) ** gamma, from the cross entropy -log p."""
    # At p = 1 the power's slope is infinite for gamma below 1, and infinity times 0 is NaN.
    return (-torch.expm1(-cross_entropy)).clamp_min(torch.finfo(cross_entropy.dtype).tiny) ** gamma


def classification_loss(
    outputs: Tensor | tuple[Tensor, ...],
    targets: Targets,
    smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Mean cross entropy of a batch.

    Args:
        outputs: logits (N, classes), or a tuple of the main and the auxiliary classifiers' logits.
        targets: labels; with mixed labels the loss is weight L(labels) + (1 - weight) L(mixed_labels).
        smoothing: epsilon of label smoothing, (1 - epsilon) one-hot + epsilon / classes (arXiv:1512.00567).
        class_weights: factor of an image's loss by its label, (classes,); None: 1. The mean is over images regardless
            of weight, so that parts of a batch add up to the whole.
        focal_gamma: gamma of the focal loss, which multiplies an image's loss by (1 - p) ** gamma, where p is the
            probability of its label (Lin et al., arXiv:1708.02002; here by softmax).
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if class_weights is None and not focal_gamma:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        if focal_gamma:
            hard = F.cross_entropy(logits, labels, reduction="none") if smoothing else losses
            losses = losses * away(hard, focal_gamma)
        if class_weights is not None:
            losses = losses * class_weights[labels]
        return losses.mean()

    def mixed_loss(logits: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        first = loss(logits, targets.labels)
        if targets.mixed_labels is None:
            return first
        return targets.weight * first + (1.0 - targets.weight) * loss(logits, targets.mixed_labels)

    return loss_of_outputs(mixed_loss, outputs)


def label_weights(ratios: Tensor) -> Tensor:
    """The weights of `labels_loss`, (2, classes), from each label's share r of the training images, float (classes,):
    exp(r) for images without the label and exp(1 - r) for images with it (Li et al., ACPR 2015).
    """
    return torch.stack((ratios, 1 - ratios)).exp()


def labels_loss(
    outputs: Tensor | tuple[Tensor, ...],
    targets: Targets,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    sum_over_labels: bool = False,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Mean over a batch of the binary cross entropy of several labels per image.

    Args:
        outputs, targets: as in `classification_loss`; the labels are (N, classes).
        smoothing: epsilon: a label counts as (1 - epsilon) label + epsilon / classes.
        weights: for labels that an image lacks and has, (2, classes); None: 1.
        sum_over_labels: sum over an image's labels instead of taking the mean.
        focal_gamma: as in `classification_loss`, by the probability of the correct answer for a label.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        wanted = labels.to(logits.dtype)
        if smoothing:
            wanted = wanted * (1 - smoothing) + smoothing / labels.shape[1]
        losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if focal_gamma:
            exact = labels.to(logits.dtype)
            hard = F.binary_cross_entropy_with_logits(logits, exact, reduction="none") if smoothing else losses
            losses = losses * away(hard, focal_gamma)
        if weights is not None:
            losses = losses * torch.where(labels > 0, weights[1], weights[0])
        return losses.sum(1).mean() if sum_over_labels else losses.mean()

    def mixed_loss(logits: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        first = loss(logits, targets.labels)
        if targets.mixed_labels is None:
            return first
        return targets.weight * first + (1.0 - targets.weight) * loss(logits, targets.mixed_labels)

    return loss_of_outputs(mixed_loss, outputs)


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy of the student against the teacher's softened probabilities (Hinton et al., arXiv:1503.02531).

    Multiplied by temperature^2, which keeps the gradients' scale. Both logits are (N, classes).
    """
    soft = F.softmax(at_least_float32(teacher) / temperature, dim=1)
    return temperature**2 * F.cross_entropy(at_least_float32(student) / temperature, soft)


def jensen_shannon_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence of two batches of logits (N, classes), the loss of the SSLD recipe.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2.
    """
    log_p = F.log_softmax(at_least_float32(student), dim=1)
    log_q = F.log_softmax(at_least_float32(teacher), dim=1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    to_student = F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
    to_teacher = F.kl_div(log_m, log_q, reduction="batchmean", log_target=True)
    return 0.5 * (to_student + to_teacher)
