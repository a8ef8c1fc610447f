"""Two networks on the same images: what an earlier report, or a file of results, says of them, and who is better."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError, reason
from utils.evaluation.predictions import unescaped
from utils.evaluation.report.answers import Answers
from utils.evaluation.report.statistics import McNemar
from utils.reading.image_list import ImageList

# What a report may hold of its answers, compressed and not: hundreds of thousands of images.
LARGEST_DATA, LARGEST_TEXT = 10 << 20, 1 << 28
_DATA = re.compile(rb'<script type="application/gzip" id="answers">([A-Za-z0-9+/=]*)</script>')


class Result(NamedTuple):
    """What an earlier run says.

    Attributes:
        title: of what it is.
        classes: the best class of each image by the image's name.
    """

    title: str
    classes: dict[str, int]


def names_of(answers: Answers, images: ImageList) -> list[str]:
    """The names of the images, relative to the list's folder even where the list has absolute paths."""
    rows = answers.rows.tolist()
    names = [images.name(row) for row in rows]
    root = os.path.abspath(images.root)
    return [os.path.relpath(name, root) if os.path.isabs(name) else name for name in names]


def packed_answers(title: str, answers: Answers, images: ImageList) -> str:
    """The answers in a form that fits into a page, for `read_result`; empty if there are too many of them."""
    content = {
        "title": title,
        "images": names_of(answers, images),
        "classes": answers.classes[:, 0].tolist(),
    }
    text = base64.b64encode(zlib.compress(json.dumps(content).encode(), 6)).decode()
    return text if len(text) <= LARGEST_DATA else ""


def read_result(path: str) -> Result:
    """Reads what --report_against names: a page of --report, or the --save_json_path of infer.py or predict.py.

    Raises:
        UserError: it is neither.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--report_against {path}: {reason(error)}") from None
    found = _DATA.search(data)
    try:
        classes = _of_page(found[1]) if found else _of_lines(data.decode(errors="surrogateescape"))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, zlib.error, binascii.Error):
        classes = None
    if classes is None:
        raise UserError(
            f"--report_against {path}: neither a page that --report wrote nor results of infer.py or predict.py "
            "(--save_json_path): give one of these"
        )
    return Result(Path(path).stem, classes) if isinstance(classes, dict) else classes


def _of_page(text: bytes) -> Result | None:
    unpacked = zlib.decompressobj()
    content = json.loads(unpacked.decompress(base64.b64decode(text, validate=True), LARGEST_TEXT))
    title, names, classes = (content[key] for key in ("title", "images", "classes"))
    if not unpacked.eof or not _are(names, str) or not _are(classes, int) or len(names) != len(classes):
        return None
    return Result(str(title), dict(zip(names, classes, strict=True)))


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _of_lines(text: str) -> dict[str, int] | None:
    """Of a file of results; images without an answer count as wrong."""
    classes: dict[str, int] = {}
    for line in text.splitlines():
        name, tab, result = line.partition("\t")
        best = json.loads(result)["class"]
        if not tab or not _are(best, int):
            return None
        classes[unescaped(name)] = best[0] if best else -1
    return classes or None


@dataclass(frozen=True)
class Comparison:
    """The answers of this run beside those of an earlier one.

    Attributes:
        title: of the earlier one.
        places: int64 (n,), places among the answers of the images that both have.
        before: int64 (n,), the earlier one's classes of these.
        right_before, right_now: bool (n,).
    """

    title: str
    places: np.ndarray
    before: np.ndarray
    right_before: np.ndarray
    right_now: np.ndarray

    @property
    def test(self) -> McNemar:
        """The earlier one first."""
        lost, won = self.right_before & ~self.right_now, self.right_now & ~self.right_before
        return McNemar(int(lost.sum()), int(won.sum()))

    def flipped(self, won: bool) -> np.ndarray:
        """Indices into `places` of the images that only this run has right (or only the earlier one)."""
        return np.flatnonzero(self.right_now & ~self.right_before if won else self.right_before & ~self.right_now)

    def verdict(self) -> str:
        """Who is better, in a sentence."""
        p = self.test.p_value
        if p >= 0.05:
            return f"No difference that could not be chance (McNemar's test, p = {p:.2g})."
        better = "This network" if self.test.only_second > self.test.only_first else self.title
        return f"{better} is better, and not by chance (McNemar's test, p = {p:.2g})."


def compare(answers: Answers, images: ImageList, earlier: Result, path: str) -> Comparison:
    """Holds the answers against those of an earlier run, on the images that both have, by their names.

    Raises:
        UserError: they have none in common.
    """
    names = names_of(answers, images)
    places = np.array([place for place, name in enumerate(names) if name in earlier.classes], np.int64)
    if not len(places):
        raise UserError(
            f"--report_against {path}: it has none of these images ({names[0]} here, {next(iter(earlier.classes))} "
            "there): give a result of the same list"
        )
    before = np.array([earlier.classes[names[place]] for place in places.tolist()], np.int64)
    return Comparison(earlier.title, places, before, before == answers.labels[places], answers.right[places])
