"""Evaluation of networks that give an image several labels, each of which it has or has not."""

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

# Of the counts per class: what they are of, in this order.
_COUNTS = ("hits", "false_alarms", "misses", "rejections")


class LabelsMeter(Meter):
    """A `Meter` of several labels per image: its two accuracies are the share of labels that are right, which is 1 less
    the Hamming distance, and the share of images all of whose labels are.

    Args:
        device: where the sums live.
        thresholds: one per class: an image has the labels whose probability is at least that.
        keep_scores: keep the scores of all images, of which `figures` makes the average precision.

    Attributes:
        counts: int64 (4, classes): of each class the images that have it and were found, that were found and have it
            not, that have it and were not found, and the rest.
        average_precisions: (classes,), NaN where no image has the label; None before `figures`.
    """

    def __init__(self, device: torch.device, thresholds: Sequence[float], keep_scores: bool = False) -> None:
        super().__init__(device)
        self.names = ("accuracy", "exact")
        self.thresholds = torch.tensor(thresholds, device=device)
        self.counts = torch.zeros(len(_COUNTS), len(thresholds), dtype=torch.int64, device=device)
        # Sums over images: labels found and there, as shares of those found or there, of those found, of those there.
        self.shares = torch.zeros(3, dtype=sum_type(device), device=device)
        self.keep_scores = keep_scores
        self.average_precisions: np.ndarray | None = None
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: int = 0, skipped: Tensor | float = 0.0) -> None:
        """Adds a batch; as in `Meter`, but `labels` are (N, classes), 1 for a label that the image has and 0."""
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
        """The figures over all images, of all processes: "map" is the mean average precision, of the classes that there
        are images of; "ma" the mean over the classes of the mean accuracy of images that have the label and that have
        it not; the others are means over images of the labels found or there, those found, those there (Jaccard index,
        precision, recall), and the harmonic mean of the last two."""
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
    """The mean precision over the images that have a label, each at the image's score: the area below the curve of
    precision over recall, in steps.

    Args:
        scores: (N,); equal ones count as one step.
        there: bool (N,), which images have the label.

    Returns:
        NaN if none has it.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(there[order])
    if not len(hits) or not hits[-1]:
        return float("nan")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each run of equal scores
    gains = np.diff(hits[last], prepend=0)
    return float((gains * hits[last] / (last + 1)).sum() / hits[-1])


def write_label_table(path: Path, meter: LabelsMeter, names: Names) -> None:
    """Writes a line per class: the images that have the label, those found, and what came of them.

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
