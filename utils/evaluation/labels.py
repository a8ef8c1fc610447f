"""Evaluation of networks for several labels per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from utils.devices import sum_type
from utils.evaluation.metrics import Meter
from utils.evaluation.tables import Cell, share, write_table
from utils.processes import gather_objects
from utils.reading.class_names import Names, name_of

# Names of the counts per class, in order.
_COUNTS = ("hits", "false_alarms", "misses", "rejections")


class LabelsMeter(Meter):
    """A `Meter` for several labels per image: its two accuracies are the share of correct labels, which is 1 minus the
    Hamming distance, and the share of images with all labels correct.

    Args:
        device: where the sums live.
        thresholds: minimum probability for each label.
        keep_scores: keep the scores of all images, from which `figures` computes the average precision.

    Attributes:
        counts: int64 (4, classes): true positives, false positives, false negatives and true negatives per class.
        average_precisions: (classes,), NaN where no image has the label; None before `figures`.
    """

    def __init__(self, device: torch.device, thresholds: Sequence[float], keep_scores: bool = False) -> None:
        super().__init__(device)
        self.names = ("accuracy", "exact")
        self.thresholds = torch.tensor(thresholds, device=device)
        self.counts = torch.zeros(len(_COUNTS), len(thresholds), dtype=torch.int64, device=device)
        # Sums over images: correct labels as shares of predicted or true ones, of predicted ones, of true ones.
        self.shares = torch.zeros(3, dtype=sum_type(device), device=device)
        self.keep_scores = keep_scores
        self.average_precisions: np.ndarray | None = None
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: int = 0, skipped: Tensor | float = 0.0) -> None:
        """Adds a batch; as in `Meter`, but `labels` are (N, classes), 1 for each label of the image, else 0."""
        scores = logits.float().sigmoid()
        found, there = scores >= self.thresholds, labels > 0
        right = found == there
        images = torch.full((), len(labels), device=labels.device)
        self._count(
            loss, (right.to(self.sums.dtype).mean(1).sum(), right.all(1).sum(), images), len(labels), number, skipped
        )
        pairs = (found & there, found & ~there, ~found & there, ~found & ~there)
        self.counts += torch.stack([pair.sum(0) for pair in pairs])
        hits = (found & there).sum(1)
        for row, among in enumerate((found | there, found, there)):
            self.shares[row] += (hits / among.sum(1).clamp_min(1)).sum()
        if self.keep_scores:
            self._scores.append(scores)
            self._labels.append(there)

    def figures(self) -> dict[str, float]:
        """The metrics over all images of all processes: "map" is the mean average precision over classes with images;
        "ma" averages, over the classes, the accuracies on images with and without the label; the others are means over
        images of Jaccard index, precision and recall, and the harmonic mean of the last two.
        """
        if dist.is_initialized():
            dist.all_reduce(self.counts)
            dist.all_reduce(self.shares)
        images = int(self.counts[:, 0].sum())
        hits, false_alarms, misses, rejections = self.counts.cpu().double()
        sensitivity = hits / (hits + misses).clamp_min(1)
        specificity = rejections / (rejections + false_alarms).clamp_min(1)
        jaccard, precision, recall = (self.shares / max(1, images)).tolist()
        found = {
            "ma": float((sensitivity + specificity).mean()) / 2,
            "jaccard": jaccard,
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        }
        if not self.keep_scores:
            return found
        classes = len(self.thresholds)
        own = (
            np.concatenate([np.zeros((0, classes), np.float32), *(part.cpu().numpy() for part in parts)])
            for parts in (self._scores, self._labels)
        )
        scores, labels = (np.concatenate(parts) for parts in zip(*gather_objects(tuple(own)), strict=True))
        self.average_precisions = np.array(
            [average_precision(scores[:, column], labels[:, column] > 0) for column in range(classes)]
        )
        known = self.average_precisions[~np.isnan(self.average_precisions)]
        return {"map": float(known.mean()) if len(known) else float("nan"), **found}


def average_precision(scores: np.ndarray, there: np.ndarray) -> float:
    """The average precision of a label: the area under the stepwise precision-recall curve.

    Args:
        scores: (N,); equal ones form one step.
        there: bool (N,), which images have the label.

    Returns:
        NaN if none has it.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(there[order])
    if not len(hits) or not hits[-1]:
        return float("nan")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # last index of each run of equal scores
    gains = np.diff(hits[last], prepend=0)
    return float((gains * hits[last] / (last + 1)).sum() / hits[-1])


def write_label_table(path: Path, meter: LabelsMeter, names: Names) -> None:
    """Writes a line per class: the images with the label, the predicted ones, and the metrics.

    Args:
        path: the file, .csv or .json.
        meter: after `figures`.
        names: of the classes, by number, as far as they are known.

    Raises:
        UserError: it cannot be written.
    """
    rows: list[dict[str, Cell]] = []
    precisions = meter.average_precisions
    for number, (hits, false_alarms, misses, _) in enumerate(meter.counts.t().tolist()):
        images, found = hits + misses, hits + false_alarms
        row: dict[str, Cell] = {"class": number, "name": name_of(names, number)}
        row |= {"threshold": round(float(meter.thresholds[number]), 6), "images": images, "found": found, "right": hits}
        row |= {"precision": share(hits, found), "recall": share(hits, images)}
        row["f1"] = share(2 * hits, found + images) if images else None
        precision = float("nan") if precisions is None else float(precisions[number])
        row["average_precision"] = None if np.isnan(precision) else round(precision, 5)
        rows.append(row)
    write_table(path, rows, "--per_class_path")
