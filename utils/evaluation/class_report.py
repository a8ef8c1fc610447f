"""Per-class results of an evaluation: counts, a table, a confusion matrix, and a check of the labels' order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from utils.console import warn
from utils.errors import FormatError, UserError, cut, one_line, reason
from utils.evaluation.metrics import Meter
from utils.evaluation.tables import Cell, as_csv, share, write_table
from utils.files import read_text, write_text, written_whole
from utils.reading.class_names import Names, name_of
from utils.reading.fonts import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Maximum number of classes for a confusion matrix, which has a number for every pair.
MAX_CONFUSION = 5000

# Maximum number of classes to name in the matrix's picture.
FEW_CLASSES = 40

# For --per_class_path and --confusion_path: the suffix selects the format.
TABLE_SUFFIXES = (".csv", ".json")
MATRIX_SUFFIXES = (".png", ".pdf", ".svg", ".csv", ".json")


class ClassMeter(Meter):
    """A `Meter` that also counts per class.

    Args:
        classes: number of classes.
        device, topk: as in `Meter`.

    Attributes:
        counts: int64 (4, classes): images, correct ones, correct ones within the top k, and images predicted as the
            class.
        confusion: int64 (classes, classes), rows are labels and columns predictions; None if there are too many
            classes.
    """

    def __init__(self, classes: int, device: torch.device, topk: int = 5) -> None:
        super().__init__(device, topk)
        self.counts = torch.zeros(4, classes, dtype=torch.int64, device=device)
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
        self.counts[:3].index_add_(1, classes, torch.stack((there, hits[:, 0].long(), hits.any(1).long())))
        self.counts[3].index_add_(0, best[:, 0], there)
        if self.confusion is not None:
            self.confusion.index_put_((classes, best[:, 0]), there, accumulate=True)

    def gather(self) -> None:
        """Sums the counts per class over all processes and moves them to the CPU; every process must call it."""
        for counts in (self.counts, self.confusion):
            if counts is not None and dist.is_initialized():
                dist.all_reduce(counts)
        self.counts = self.counts.cpu()
        if self.confusion is not None:
            self.confusion = self.confusion.cpu()

    def totals(self) -> tuple[int, int, int]:
        """Labelled images, correct ones, correct ones within the top k."""
        images, right, right_k = self.counts[:3].sum(1).tolist()
        return images, right, right_k


def class_table(meter: ClassMeter, names: Names) -> list[dict[str, Cell]]:
    """A row for each class: counts, accuracies, precision, recall, F1, and the class it is most often confused with.

    Precision is the share of the class's images among those predicted as it, recall the share of its images predicted
    as it, and F1 their harmonic mean. A share of no images is None.

    Args:
        meter: of the evaluation, gathered.
        names: of the classes, by number, as far as known.
    """
    k = meter.topk
    rows: list[dict[str, Cell]] = []
    for number, (images, right, right_k, predicted) in enumerate(meter.counts.t().tolist()):
        row: dict[str, Cell] = {"class": number, "name": name_of(names, number)}
        row |= {"images": images, "top1": right, f"top{k}": right_k}
        row |= {"acc1": share(right, images), f"acc{k}": share(right_k, images)}
        row |= {"taken_for": None, "taken_for_images": None}
        if meter.confusion is not None:
            others = meter.confusion[number].clone()
            others[number] = 0
            if others.any():
                row |= {"taken_for": int(others.argmax()), "taken_for_images": int(others.max())}
        row |= {"predicted": predicted, "precision": share(right, predicted), "recall": share(right, images)}
        rows.append({**row, "f1": share(2 * right, images + predicted)})
    return rows


def write_class_table(path: Path, meter: ClassMeter, names: Names) -> None:
    """Writes `class_table` as CSV or JSON, by the suffix of `path`; raises `UserError` if it cannot be written."""
    write_table(path, class_table(meter, names), "--per_class_path")


def write_confusion(path: Path, confusion: Tensor, names: Names) -> None:
    """Writes the confusion matrix: the suffix of `path` chooses one of `MATRIX_SUFFIXES`.

    CSV has a line for each label, with its number of images for each prediction; JSON the same as "confusion", with the
    classes' "names". A picture that cannot be drawn is a warning.

    Args:
        path: the file.
        confusion: that of a `ClassMeter`.
        names: of the classes, by number, as far as known.

    Raises:
        UserError: it cannot be written.
    """
    kind, classes = path.suffix.lower(), range(len(confusion))
    if kind == ".json":
        content = {"names": [name_of(names, number) for number in classes], "confusion": confusion.tolist()}
        write_text(path, json.dumps(content, ensure_ascii=False) + "\n", "--confusion_path")
    elif kind == ".csv":
        known = [name_of(names, number) for number in classes]
        # Names label rows and columns, unless two classes have the same name.
        heads = known if None not in known and len(set(known)) == len(known) else list(classes)
        counts = [[head, *row] for head, row in zip(heads, confusion.tolist(), strict=True)]
        write_text(path, as_csv([["label", *heads], *counts]), "--confusion_path")
    else:
        try:
            figure = draw_confusion(confusion, names)
            with written_whole(path, "--confusion_path") as temporary:
                figure.savefig(temporary, format=kind[1:], dpi=150 if len(confusion) <= FEW_CLASSES else 200)
        except (UserError, ImportError):
            raise
        except Exception as error:  # fonts and drawing libraries may raise anything, but the results are known
            warn(f"--confusion_path {path}: the picture cannot be drawn ({one_line(error)}): give a name in .csv")


def draw_confusion(confusion: Tensor, names: Names) -> Figure:
    """The confusion matrix as a picture, each row as shares of the label's images; see `write_confusion`."""
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    classes = len(confusion)
    shares = (confusion / confusion.sum(1, keepdim=True).clamp_min(1)).numpy()
    few = classes <= FEW_CLASSES
    side = min(16.0, 4 + 0.3 * classes) if few else 10.0
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    axes.set(xlabel="prediction", ylabel="label")
    if few:
        numbers = [str(number) for number in range(classes)]
        text = drawable([(name_of(names, int(number)) or number).split(",")[0] for number in numbers], numbers)
        # Class names are not formulas, even between dollar signs.
        style: dict[str, Any] = {"parse_math": False}
        if text.font is not None:
            style["fontproperties"] = FontProperties(fname=text.font)
        axes.set_xticks(range(classes), text.lines, rotation=90, **style)
        axes.set_yticks(range(classes), text.lines, **style)
        for (label, prediction), count in np.ndenumerate(confusion.numpy()):
            if count:
                light = shares[label, prediction] < 0.6  # the colours end in yellow
                axes.text(
                    prediction, label, shown_count(count), ha="center", va="center", fontsize=6 if classes > 5 else 9,
                    color="white" if light else "black",
                )  # fmt: skip
    figure.colorbar(image, shrink=0.7, label="share of the label's images")
    return figure


def shown_count(count: int) -> str:
    """A number of images in at most five characters: above 99,999 in thousands or millions."""
    for unit, sign in ((1_000_000, "M"), (1_000, "k")):
        if count >= 100 * unit:
            return f"{count // unit}{sign}"
    return str(count)


def looks_permuted(meter: ClassMeter) -> bool:
    """Whether accuracy is at chance, yet most images of each label get the same prediction, different for each label.

    This means a working network with labels in another order. It needs a few images per class: the labels' most
    frequent predictions must differ and cover half of the images.
    """
    images, right, _ = meter.totals()
    if meter.confusion is None or images < 5 * len(meter.confusion) or len(meter.confusion) < 3:
        return False
    if right / images > 1.5 / len(meter.confusion):
        return False
    most, favourite = meter.confusion.max(1)
    if favourite.unique().numel() < 0.75 * len(favourite):
        return False
    # Of labels with the same most frequent prediction, only the largest counts: a constant network is no match.
    best = torch.zeros_like(most).scatter_reduce(0, favourite, most, "amax")
    return int(best.sum()) >= images / 2


def read_label_map(path: str, classes: int) -> Tensor:
    """Reads a map between two orders of the classes: a line `old new` for each (`old -> new` and `old,new` too).

    Returns:
        int64 (classes,), the new number of each old one.

    Raises:
        UserError: the file cannot be read or is not such a map.
    """
    try:
        lines = read_text(path, limit=16).splitlines()
    except OSError as error:
        raise UserError(f"--label_map {path}: {reason(error)}") from None
    except FormatError as error:
        raise UserError(f"--label_map {path}: {error}") from None
    mapping: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.replace("->", " ").replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
            shown = cut(repr(line.strip()), 60)
            raise UserError(f"--label_map {path}, line {number}: {shown} is not `old new`, two class numbers")
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
