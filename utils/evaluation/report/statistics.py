"""What can be said of answers in numbers: how sure a share is, what probabilities are worth, who is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

# The quantile of the normal distribution that 95% of it lie within.
Z95 = 1.959963984540054
CALIBRATION_BINS = 15
PRECISIONS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


class Interval(NamedTuple):
    """A share, and the bounds that hold it with 95% confidence."""

    value: float
    low: float
    high: float


def wilson(right: int, images: int) -> Interval:
    """The share right / images with its interval by Wilson's score (1927), which holds for few images, too, and near 0
    and 1. Of no images it is NaN, between 0 and 1."""
    if not images:
        return Interval(math.nan, 0.0, 1.0)
    share = right / images
    scale = 1 + Z95**2 / images
    centre = (share + Z95**2 / (2 * images)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / images + Z95**2 / (4 * images**2)) / scale
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def mean_of_classes(right: np.ndarray, labels: np.ndarray) -> Interval:
    """The mean accuracy of the classes that have images, each counting the same: balanced accuracy.

    Args:
        right: bool (N,).
        labels: int (N,).
    """
    images = np.bincount(labels)
    there = images > 0
    shares = np.bincount(labels, right)[there] / images[there]
    # Laplace's rule: a class whose few images are all right is not known to the last digit.
    smooth = (np.bincount(labels, right)[there] + 1) / (images[there] + 2)
    half = Z95 * math.sqrt(float((smooth * (1 - smooth) / images[there]).sum())) / len(shares)
    mean = float(shares.mean())
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


class Bin(NamedTuple):
    """Images whose best class has a probability between two bounds: their number, their mean probability, the share
    that is right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = CALIBRATION_BINS) -> list[Bin]:
    """The bins of a reliability diagram, of equal width, without the empty ones.

    Args:
        confidence: (N,), the probability of the best class.
        right: bool (N,).
    """
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(which, minlength=bins)
    sums = np.bincount(which, confidence, bins), np.bincount(which, right, bins)
    return [
        Bin(number / bins, (number + 1) / bins, int(count), *(float(part[number]) / int(count) for part in sums))
        for number, count in enumerate(counts)
        if count
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """ECE: how far confidence and accuracy are apart, on the average over images (Guo et al., arXiv:1706.04599)."""
    images = sum(part.images for part in bins)
    return sum(part.images * abs(part.confidence - part.accuracy) for part in bins) / max(1, images)


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The number that logits are divided by for the least cross-entropy (Guo et al.), between 1/20 and 20.

    Args:
        logits: float32 (M, classes).
        labels: int64 (M,).
    """
    z, wanted = torch.from_numpy(logits), torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(z / math.exp(log_temperature), wanted))

    # The loss has one minimum in 1 / T, and so in log T: a golden section finds it, here to 0.1%.
    ratio = (math.sqrt(5) - 1) / 2
    low, high = -math.log(20), math.log(20)
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [loss(x) for x in inner]
    while high - low > 1e-3:
        if losses[0] < losses[1]:
            high, inner, losses = inner[1], [0.0, inner[0]], [0.0, losses[0]]
            inner[0] = high - ratio * (high - low)
            losses[0] = loss(inner[0])
        else:
            low, inner, losses = inner[0], [inner[1], 0.0], [losses[1], 0.0]
            inner[1] = low + ratio * (high - low)
            losses[1] = loss(inner[1])
    return math.exp((low + high) / 2)


def tempered(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The probability of the best class, (M,), with logits divided by `temperature`."""
    return torch.from_numpy(logits / np.float32(temperature)).softmax(1).amax(1).numpy()


class Threshold(NamedTuple):
    """A probability from which on answers are taken, the share of images that have one, and of these the right ones."""

    wanted: float
    threshold: float
    answered: float
    precision: float


def rejection_curve(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, the share of images at or above each, and the accuracy among these; the highest threshold first."""
    order = np.argsort(-confidence, kind="stable")
    sorted_ = confidence[order]
    hits = np.cumsum(right[order])
    last = np.append(np.flatnonzero(np.diff(sorted_)), len(order) - 1)  # of each run of equal probabilities
    return sorted_[last], (last + 1) / len(order), hits[last] / (last + 1)


def thresholds_for(confidence: np.ndarray, right: np.ndarray, wanted: Sequence[float] = PRECISIONS) -> list[Threshold]:
    """For each precision that some threshold reaches, the one that leaves most images an answer.

    The threshold is rounded down, to as few digits as take in no other image.
    """
    thresholds, answered, precision = rejection_curve(confidence, right)
    found = []
    for share in wanted:
        reaching = np.flatnonzero(precision >= share)
        if len(reaching):
            place = int(reaching[-1])
            below = float(thresholds[place + 1]) if place + 1 < len(thresholds) else -1.0
            threshold = _short(float(thresholds[place]), below)
            found.append(Threshold(share, threshold, float(answered[place]), float(precision[place])))
    return found


def _short(number: float, below: float) -> float:
    """`number`, rounded down to as few digits, three or more, as keep it above `below`."""
    for digits in range(3, 9):
        rounded = math.floor(number * 10**digits) / 10**digits
        if rounded > below:
            return rounded
    return number


@dataclass(frozen=True)
class McNemar:
    """Two networks on the same images: of how many only the first is right, and only the second, and the probability
    of a difference as large as that if they were equally good (McNemar's test, exact, two-sided)."""

    only_first: int
    only_second: int

    @property
    def p_value(self) -> float:
        total, fewer = self.only_first + self.only_second, min(self.only_first, self.only_second)
        if 2 * fewer == total:
            return 1.0
        logs = [
            math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
            for k in range(fewer + 1)
        ]
        return min(1.0, 2 * math.fsum(map(math.exp, logs)))
