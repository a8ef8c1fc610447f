"""What an evaluation says class by class: counts, a table, a confusion matrix, and if the labels' order is right."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError
from utils.evaluation.metrics import Meter
from utils.files import write_text, written_whole

# Classes up to which the confusion matrix is kept: it has a number for every pair.
MAX_CONFUSION = 5000


class ClassMeter(Meter):
    """A `Meter` that counts per class too.

    Args:
        classes: number of classes.
        device, topk: as in `Meter`.

    Attributes:
        counts: int64 (3, classes): images, those right, those right within the top k.
        confusion: int64 (classes, classes), rows are labels and columns predictions; None with too many classes.
    """

    def __init__(self, classes: int, device: torch.device, topk: int = 5) -> None:
        super().__init__(device, topk)
        self.counts = torch.zeros(3, classes, dtype=torch.int64, device=device)
        self.confusion: Tensor | None = None
        if classes <= MAX_CONFUSION:
            self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: int = 0, skipped: Tensor | float = 0.0) -> None:
        super().add(loss, logits, labels, number, skipped)
        best = logits.topk(self.topk, 1).indices
        hits = best == labels[:, None]
        there = (labels >= 0).long()
        classes = labels.clamp_min(0)
        self.counts.index_add_(1, classes, torch.stack((there, hits[:, 0].long(), hits.any(1).long())))
        if self.confusion is not None:
            self.confusion.index_put_((classes, best[:, 0]), there, accumulate=True)

    def gather(self) -> None:
        """Sums the counts per class over all processes and moves them to the CPU; every process has to call it."""
        for counts in (self.counts, self.confusion):
            if counts is not None and dist.is_initialized():
                dist.all_reduce(counts)
        self.counts = self.counts.cpu()
        if self.confusion is not None:
            self.confusion = self.confusion.cpu()

    def totals(self) -> tuple[int, int, int]:
        """Labelled images, those right, those right within the top k."""
        images, right, right_k = self.counts.sum(1).tolist()
        return images, right, right_k


def write_class_table(path: Path, meter: ClassMeter, names: Sequence[str]) -> None:
    """Writes a CSV file with a line per class: counts, accuracies, and what it is most often taken for.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    k = meter.topk
    writer.writerow(["class", "name", "images", "top1", f"top{k}", "acc1", f"acc{k}", "taken_for", "taken_for_images"])
    for number, (images, right, right_k) in enumerate(meter.counts.t().tolist()):
        shares = [f"{right / images:.5f}", f"{right_k / images:.5f}"] if images else ["", ""]
        mistaken = ["", ""]
        if meter.confusion is not None:
            others = meter.confusion[number].clone()
            others[number] = 0
            if others.any():
                mistaken = [int(others.argmax()), int(others.max())]
        writer.writerow([number, names[number], images, right, right_k, *shares, *mistaken])
    write_text(path, text.getvalue(), "--per_class_path")


def draw_confusion(path: Path, confusion: Tensor, names: Sequence[str]) -> None:
    """Draws the confusion matrix, each row as shares of the label's images, into a .png file.

    Args:
        path: the file.
        confusion: that of a `ClassMeter`.
        names: one per class.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.figure import Figure

    classes = len(confusion)
    shares = (confusion / confusion.sum(1, keepdim=True).clamp_min(1)).numpy()
    few = classes <= 40
    side = min(16.0, 4 + 0.3 * classes) if few else 10.0
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    axes.set(xlabel="prediction", ylabel="label")
    if few:
        shown = [name.split(",")[0] for name in names]
        axes.set_xticks(range(classes), shown, rotation=90)
        axes.set_yticks(range(classes), shown)
    figure.colorbar(image, shrink=0.7, label="share of the label's images")
    with written_whole(path, "--confusion_path") as temporary:
        figure.savefig(temporary, format="png", dpi=150 if few else 200)


def looks_permuted(meter: ClassMeter) -> bool:
    """Whether the network is at chance, yet most images of a label get one and the same prediction, each label its own.

    That is a network that works, with labels in another order. It takes a few images of each class to tell: the labels'
    favourite predictions must be different ones and have half of the images.
    """
    images, right, _ = meter.totals()
    if meter.confusion is None or images < 5 * len(meter.confusion) or len(meter.confusion) < 3:
        return False
    if right / images > 1.5 / len(meter.confusion):
        return False
    most, favourite = meter.confusion.max(1)
    if favourite.unique().numel() < 0.75 * len(favourite):
        return False
    # Of the labels that share a favourite, only the largest counts: a network that always says the same is no match.
    best = torch.zeros_like(most).scatter_reduce(0, favourite, most, "amax")
    return int(best.sum()) >= images / 2


def read_label_map(path: str, classes: int) -> Tensor:
    """Reads a map between two orders of the classes: a line `old new` for each (`old -> new` and `old,new` too).

    Returns:
        int64 (classes,), the new number of each old one.

    Raises:
        UserError: the file cannot be read or is no such map.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "not a text file in UTF-8").lower()
        raise UserError(f"--label_map {path}: {reason}") from None
    mapping: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.replace("->", " ").replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not all(word.isdecimal() for word in words):
            raise UserError(f"--label_map {path}, line {number}: {line.strip()!r} is not `old new`, two class numbers")
        old, new = map(int, words)
        if max(old, new) >= classes:
            raise UserError(f"--label_map {path}, line {number}: there is no class {max(old, new)} of {classes}")
        if mapping.setdefault(old, new) != new:
            raise UserError(f"--label_map {path}, line {number}: class {old} has two new numbers")
    missing = sorted(set(range(classes)) - mapping.keys())
    if missing:
        raise UserError(f"--label_map {path}: {len(missing)} classes have no new number, such as {missing[0]}")
    if len(set(mapping.values())) < classes:
        raise UserError(f"--label_map {path}: two classes have the same new number")
    return torch.tensor([mapping[old] for old in range(classes)])
