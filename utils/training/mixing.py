"""Mixes the images of a batch on the device: mixup and CutMix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from utils.training.loss import Targets


def mixup(images: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Targets]:
    """Mixes each image of a batch with another image in it (Zhang et al., arXiv:1710.09412).

    Args:
        images: float (N, 3, H, W).
        labels: int64 (N,).
        alpha: one weight is drawn from Beta(alpha, alpha) for the whole batch, as in the original.
        rng: source of the weight and of the pairs.

    Returns:
        weight images + (1 - weight) others, and the targets.
    """
    weight = float(rng.beta(alpha, alpha))
    others = _pairs(images, rng)
    mixed = torch.lerp(images[others], images, weight)
    return mixed, Targets(labels, labels[others], weight)


def cutmix(images: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Targets]:
    """Pastes a box from another image of the batch into each image (Yun et al., arXiv:1905.04899).

    Args:
        images: float (N, 3, H, W).
        labels: int64 (N,).
        alpha: the box's share of the area, the same for the whole batch, is 1 - Beta(alpha, alpha), minus the part
            outside the image.
        rng: source of the box and of the pairs.

    Returns:
        The images with the boxes, and the targets: the weight is the share of the area kept.
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    box_height, box_width = int(height * side), int(width * side)
    top, left = int(rng.integers(height)) - box_height // 2, int(rng.integers(width)) - box_width // 2
    bottom, right = min(height, top + box_height), min(width, left + box_width)
    top, left = max(0, top), max(0, left)
    others = _pairs(images, rng)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[others, :, top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, Targets(labels, labels[others], kept)


def _pairs(images: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.permutation(len(images))).to(images.device, non_blocking=True)


def mix(
    images: Tensor,
    labels: Tensor,
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: np.random.Generator,
    mixup_prob: float | None = None,
    cutmix_prob: float | None = None,
) -> tuple[Tensor, Targets]:
    """Mixes a batch with `mixup`, with `cutmix` or not at all; an alpha of 0 disables a method.

    The probabilities are `mixup_prob` and `cutmix_prob`; None: what the other leaves, or equal if both are None.
    """
    chances = [prob if alpha else 0.0 for alpha, prob in ((mixup_alpha, mixup_prob), (cutmix_alpha, cutmix_prob))]
    rest = 1 - sum(chance for chance in chances if chance is not None)
    share, other = (rest / chances.count(None) if chance is None else chance for chance in chances)
    if not share and not other:
        return images, Targets(labels)
    draw = 0.0 if 1 in (share, other) else rng.random()
    if draw < share:
        return mixup(images, labels, mixup_alpha, rng)
    if draw < share + other:
        return cutmix(images, labels, cutmix_alpha, rng)
    return images, Targets(labels)
