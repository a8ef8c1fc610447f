"""Labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang, arXiv:1911.00068)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.evaluation.report.answers import Answers
from utils.files import write_text
from utils.reading.image_list import ImageList

# Where fewer labels are likely wrong, the network's other mistakes fill the list up to so many.
LEAST = 25


class Suspects(NamedTuple):
    """Images whose labels are likely wrong, the most likely first.

    Attributes:
        places: int64 (n,), their places among the answers.
        classes: int64 (n,), what they show by the network.
        margins: float32 (n,), the probability of the label minus that of the best other class: -1 is the worst.
        likely: how many of them, at the beginning, are likely wrong; the others are less so.
    """

    places: np.ndarray
    classes: np.ndarray
    margins: np.ndarray
    likely: int


def find_suspects(answers: Answers) -> Suspects:
    """The images that a network takes for another class than their label as confidently as it takes images of that
    class for it.

    A class's threshold is the mean probability that its own images have for it. An image counts for the most probable
    of the classes whose threshold its probability reaches; if that is not its label, the label is suspect. (Of an
    image's classes only the best `BEST` are known: the others have a probability of less than 1 / `BEST`.)
    """
    count = max(int(answers.labels.max(initial=0)), int(answers.classes.max(initial=0))) + 1
    images = np.bincount(answers.labels, minlength=count)
    thresholds = np.bincount(answers.labels, answers.own, count) / np.maximum(images, 1)
    thresholds[images == 0] = np.inf  # nothing says how sure the network is of a class without images
    reaches = answers.scores >= thresholds[answers.classes]
    first = reaches.argmax(1)  # scores fall
    confident = np.take_along_axis(answers.classes, first[:, None], 1)[:, 0]
    likely = reaches.any(1) & (confident != answers.labels)
    others = np.where(answers.classes == answers.labels[:, None], -1, answers.scores)
    margins = answers.own - others.max(1)
    places = _by_margin(margins, likely)
    rest = _by_margin(margins, ~likely & ~answers.right)[: max(0, LEAST - len(places))]
    classes = np.concatenate((confident[places], answers.classes[rest, 0]))
    every = np.concatenate((places, rest))
    return Suspects(every, classes, margins[every], len(places))


def _by_margin(margins: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Places of the images `among`, bool (N,), that of the least margin first."""
    places = np.flatnonzero(among)
    return places[np.argsort(margins[places], kind="stable")]


def list_path(report: Path) -> Path:
    """Where the list of the suspects of a report goes."""
    return report.with_name(f"{report.stem}_suspects.txt")


def write_suspects(path: Path, suspects: Suspects, answers: Answers, images: ImageList) -> None:
    """Writes a list file of the suspects, the most likely first, with the labels they have: for --val_list, for
    infer.py --image_path, or to correct. Paths are absolute: it goes with any --data_dir.

    Raises:
        UserError: it cannot be written.
    """
    rows = answers.rows[suspects.places].tolist()
    lines = [f"{Path(images.path(row)).absolute()} {images.label(row)}\n" for row in rows]
    write_text(path, "".join(lines), "--report")
