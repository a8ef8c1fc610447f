"""Accuracy by what images are like: where a network fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from utils.evaluation.report.answers import Answers
from utils.evaluation.report.statistics import Interval, wilson

# Parts that the images are cut into by a property, of as many images each as ties allow.
PARTS = 6


class Part(NamedTuple):
    """Images within a range of a property.

    Attributes:
        text: the range.
        images: their number.
        accuracy: of these.
        odd: 1: surely above the accuracy of all images, -1: surely below, 0: neither.
    """

    text: str
    images: int
    accuracy: Interval
    odd: int


class Slices(NamedTuple):
    """A property and its parts; a single one if all images are alike."""

    title: str
    note: str
    parts: list[Part]


def slices(answers: Answers) -> list[Slices]:
    """The properties that the reader knows, each with its parts."""
    found = []
    if answers.height is not None and answers.width is not None:
        short = np.minimum(answers.height, answers.width)
        found.append(_sliced("Size", "short side of the file's image, in pixels", short, answers, "{:.0f}".format))
        aspect = answers.width / np.maximum(answers.height, 1)
        found.append(_sliced("Aspect ratio", "width over height", aspect, answers, "{:.2f}".format))
    for title, note, values in (
        ("Brightness", "mean grey level of what the network sees, 0 to 1", answers.brightness),
        ("Contrast", "deviation of the grey levels", answers.contrast),
        ("Sharpness", "difference of neighbouring pixels over the contrast: low is blurred", answers.sharpness),
    ):
        found.append(_sliced(title, note, values, answers, "{:.2f}".format))
    return found


def _sliced(title: str, note: str, values: np.ndarray, answers: Answers, written: Callable[[float], str]) -> Slices:
    """The parts of the images by a property, between its quantiles."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, PARTS + 1), method="lower"))
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(0, len(edges) - 2))
    total = answers.right.mean()
    parts = []
    for number in np.unique(which).tolist():
        mine = which == number
        interval = wilson(int(answers.right[mine].sum()), int(mine.sum()))
        odd = int(interval.low > total) - int(interval.high < total)
        low, high = written(float(values[mine].min())), written(float(values[mine].max()))
        parts.append(Part(low if low == high else f"{low} to {high}", int(mine.sum()), interval, odd))
    return Slices(title, note, parts)
