"""True-positive rate at a limited false-positive rate, for two classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utils.evaluation.metrics import Meter
from utils.processes import gather_objects


class RatesMeter(Meter):
    """A `Meter` for two classes that finds the threshold of the second.

    Args:
        device: where the sums live.
        max_fpr: maximum false-positive rate: share of class 0 taken for class 1.
    """

    def __init__(self, device: torch.device, max_fpr: float) -> None:
        super().__init__(device, 2)
        self.max_fpr = max_fpr
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: int = 0, skipped: Tensor | float = 0.0) -> None:
        super().add(loss, logits, labels, number, skipped)
        self._scores.append(logits.float().softmax(1)[:, 1])
        self._labels.append(labels)

    def figures(self) -> dict[str, float]:
        """ "tpr", the highest true-positive rate with a false-positive rate of at most `max_fpr`; "fpr", that rate;
        "threshold", the smallest such one of 0, 0.0001, ..., 0.9999.
        """
        own = [
            np.concatenate([np.zeros(0, np.float32), *(part.cpu().numpy() for part in parts)])
            for parts in (self._scores, self._labels)
        ]
        scores, labels = (np.concatenate(parts) for parts in zip(*gather_objects(tuple(own)), strict=True))
        return best_rates(scores[labels == 1], scores[labels == 0], self.max_fpr)


def best_rates(positive: np.ndarray, negative: np.ndarray, max_fpr: float) -> dict[str, float]:
    """The metrics of `RatesMeter`, from the scores of class-1 and class-0 images. The rate of a class without images is
    0.
    """
    thresholds = np.arange(10_000) / 10_000
    above = [len(part) - np.searchsorted(np.sort(part), thresholds, side="right") for part in (positive, negative)]
    tpr, fpr = (count / max(1, len(part)) for count, part in zip(above, (positive, negative), strict=True))
    allowed = np.where(fpr <= max_fpr, tpr, -1.0)
    best = int(allowed.argmax())
    if allowed[best] <= 0:
        return {"tpr": 0.0, "fpr": 0.0, "threshold": 1.0}
    return {"tpr": float(tpr[best]), "fpr": float(fpr[best]), "threshold": float(thresholds[best])}
