"""Finds possible problems with a dataset's images, prints a summary, and lists them in a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.files import write_text
from utils.reading.duplicates import groups_of
from utils.reading.file_kinds import NAMES, contradicts
from utils.reading.inspection import Inspected

# Number of examples to print per kind of problem.
SHOWN = 5
# An image is tiny if its short side is below this and the median is twice this; it is giant with this many pixels if
# the median has a sixteenth.
TINY, GIANT = 32, 8_000_000
# Minimum number of images per class for training.
FEW = 10
# Kinds of problems, as in the file, and their description after a number of images.
SAYS = {
    "unreadable": "cannot be read",
    "damaged": "are damaged but can be decoded",
    "suffix": "have another format than their suffix says",
    "tiny": "are tiny",
    "giant": "are giant",
    "same": "are identical to another one",
    "duplicate": "are near-duplicates of another one",
    "labels": "are duplicates or near-duplicates of one with another label",
}


class Problem(NamedTuple):
    """A problem of an image: its part of the dataset, its name, a key of `SAYS`, and details."""

    part: str
    image: str
    kind: str
    detail: str


def problems_of(part: str, found: Inspected) -> list[Problem]:
    """The problems of the images in a part of a dataset, train or val, by kind in the order of `SAYS`."""
    problems = [Problem(part, path, "unreadable", why) for path, why in found.unreadable.items()]
    problems += [Problem(part, path, "damaged", said) for path, said in found.damaged.items()]
    images, kinds = found.images, found.records["kind"].tolist()
    for row, kind in zip(found.rows.tolist(), kinds, strict=True):
        if contradicts(name := images.name(row), kind):
            problems.append(Problem(part, name, "suffix", f"its content is {NAMES[kind]}"))
    height, width = (found.records[side].astype(np.int64) for side in ("height", "width"))
    short, pixels = np.minimum(height, width), height * width
    odd = {
        "tiny": (short < TINY) & (2 * short <= np.median(short)),
        "giant": (pixels >= GIANT) & (pixels >= 16 * np.median(pixels)),
    }
    for kind, which in odd.items():
        for place in np.flatnonzero(which).tolist():
            detail = f"{width[place]} x {height[place]}"
            problems.append(Problem(part, images.name(int(found.rows[place])), kind, detail))
    return problems + duplicates([(part, found)])


def duplicates(parts: Sequence[tuple[str, Inspected]], across: bool = False) -> list[Problem]:
    """Duplicates and near-duplicates, by kind.

    Args:
        parts: of a dataset, with their inspections.
        across: only images of a later part that are also in an earlier one.
    """
    records = np.concatenate([found.records for _, found in parts])
    part_of = np.repeat(range(len(parts)), [len(found.records) for _, found in parts])
    number = part_of.tolist()
    rows = np.concatenate([found.rows for _, found in parts])
    several = any(found.images.labels.ndim > 1 for _, found in parts)
    _, digests = np.unique(records["digest"], return_inverse=True)
    near = groups_of(records["fingerprint"])
    by_kind: dict[str, list[Problem]] = {"same": [], "duplicate": [], "labels": []}

    def name(place: int) -> str:
        return parts[number[place]][1].images.name(int(rows[place]))

    for members in _several(near):
        labels = [None if several else parts[number[m]][1].images.label(int(rows[m])) for m in members.tolist()]
        for nth, place in enumerate(members.tolist()):
            earlier = members[:nth]
            if across:
                earlier = earlier[part_of[earlier] < part_of[place]]
            if not len(earlier):
                continue
            same = earlier[digests[earlier] == digests[place]]
            kind, other = ("same", int(same[0])) if len(same) else ("duplicate", int(earlier[0]))
            part = parts[number[place]][0]
            where = f"{parts[number[other]][0]}: " if part_of[other] != part_of[place] else ""
            by_kind[kind].append(Problem(part, name(place), kind, f"{where}{name(other)}"))
            first = int(np.flatnonzero(members == other)[0])
            if labels[nth] != labels[first]:
                detail = f"{labels[nth]}, and {labels[first]} of {where}{name(other)}"
                by_kind["labels"].append(Problem(part, name(place), "labels", detail))
    return [problem for problems in by_kind.values() for problem in problems]


def _several(group: np.ndarray) -> Iterable[np.ndarray]:
    """The members, ascending, of each group with several; `group` is as from `duplicates.groups_of`."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return (members for members in np.split(order, starts[1:]) if len(members) > 1)


def say(problems: Sequence[Problem], total: int) -> None:
    """Prints how many of `total` images have each problem, with a few examples."""
    for kind, says in SAYS.items():
        of_kind = [problem for problem in problems if problem.kind == kind]
        if not of_kind:
            continue
        print(f"  {kind}: {len(of_kind)} of {total} images {says}")
        for problem in of_kind[:SHOWN]:
            print(f"    {problem.image}: {problem.detail}")
        if len(of_kind) > SHOWN:
            print(f"    and {len(of_kind) - SHOWN} more")


def say_few(counts: np.ndarray, names: Sequence[str]) -> None:
    """Prints the classes with too few images to learn from.

    Args:
        counts: images of each class.
        names: of all classes.
    """
    few = np.flatnonzero((counts > 0) & (counts < FEW)).tolist()
    if few:
        shown = ", ".join(f"{names[label]} ({counts[label]})" for label in few[:SHOWN])
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        print(f"  few: {len(few)} classes have fewer than {FEW} images: {shown}{more}")


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Writes all problems as CSV, one per line: part, image, problem, detail.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["part", "image", "problem", "detail"])
    table.writerows([(problem.part, problem.image, problem.kind, problem.detail) for problem in problems])
    write_text(path, text.getvalue(), "--check_path")
