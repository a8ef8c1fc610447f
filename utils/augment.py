"""Mixing the images of a batch, on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utils.loss import Targets


def mixup(images: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Targets]:
    """Mixes each image of a batch with another one of it (Zhang et al., arXiv:1710.09412).

    Args:
        images: float (N, 3, H, W).
        labels: int64 (N,).
        alpha: one weight is drawn from Beta(alpha, alpha) for the whole batch, as in the original.
        rng: source of the weight and of the pairs.

    Returns:
        weight images + (1 - weight) others, and what they are trained towards.
    """
    weight = float(rng.beta(alpha, alpha))
    others = torch.from_numpy(rng.permutation(len(images))).to(images.device, non_blocking=True)
    mixed = torch.lerp(images[others], images, weight)
    return mixed, Targets(labels, labels[others], weight)
