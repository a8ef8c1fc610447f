"""Draws docs/parity.png from the figures of docs/parity.md and docs/paddle_parity.md: every network, every program.

python docs/make_parity_plot.py
"""

from __future__ import annotations

import math
import re
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.flags.line_parser import LineParser

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).resolve().parent
PICTURE = DOCS / "parity.png"
LIMIT = 1e-5
# The distance between neighbouring float32 numbers, as a share of them.
ROUNDING = 2.0**-23

# The rows of the picture: what they are called, and the sections of the document whose tables they have.
NETWORKS = (
    ("the fluid 1.8.5 zoo", ("PaddlePaddle's fluid 1.8.5 zoo",)),
    ("the same networks\nin PaddleClas 2.6", ("The same networks in PaddleClas 2.6.0",)),
    ("PaddleClas's\nother networks", ("Networks that PaddleClas added", "Other networks of PaddleClas 2.6")),
)
PROGRAMS = (
    ("fluid 1.8.5\n__model__", ("PaddlePaddle's fluid 1.8.5 zoo (`model`)",)),
    ("PaddlePaddle 2.6\n.pdmodel", ("PaddleClas 2.6.0, exported by PaddlePaddle 2.6.2 (`inference.pdmodel`)",)),
    ("PaddlePaddle 3.3\n.json", ("PaddleClas 2.6.0, exported by PaddlePaddle 3.3.1 (`inference.json`)",)),
)
# Stacks of dots for each power of ten.
STEPS = 20
COLOURS = ("#2f5fb3", "#1f8a70", "#c2571a")


class Difference(NamedTuple):
    """How far a network or a program is from the original.

    Attributes:
        error: of ours; for a program that of the logits, where the document has it, or else of the probabilities.
        exact: how far the original's float32 is from exact arithmetic; None where the document does not say.
    """

    error: float
    exact: float | None


def sections(document: Path) -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## ", document.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


def cells(text: str) -> list[list[str]]:
    """The rows of a table, without its heading."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def networks(titles: tuple[str, ...]) -> list[Difference]:
    """The differences in sections of docs/parity.md."""
    known = sections(DOCS / "parity.md")
    rows = [row for title in titles for row in cells(known[title])]
    return [Difference(float(error), float(exact) if exact else None) for _, _, error, exact in rows]


def programs(titles: tuple[str, ...]) -> list[Difference]:
    """The differences in sections of docs/paddle_parity.md; the second of its figures in float64 is the original's."""
    known = sections(DOCS / "paddle_parity.md")
    rows = [row for title in titles for row in cells(known[title])]
    return [
        Difference(float(logits or probabilities), float(exact.split()[-1]) if exact else None)
        for _, probabilities, logits, exact, _ in rows
    ]


def source() -> str:
    """A checksum of the figures, noted in the picture: a test tells by it that the picture is today's."""
    figures = [networks(titles) for _, titles in NETWORKS] + [programs(titles) for _, titles in PROGRAMS]
    return f"{zlib.crc32(repr(figures).encode()):08x}"


def draw(axes: Axes, rows: list[tuple[str, list[Difference]]], least: float, label: str) -> None:
    """Stacks the dots of each group in a row of its own, a stack for each range of differences; from `least` on."""

    def step(difference: Difference) -> int:
        return math.floor(math.log10(max(difference.error, least)) * STEPS)

    tallest = max(max(Counter(map(step, differences)).values()) for _, differences in rows)
    height = 0.92 / tallest
    for number, ((name, differences), colour) in enumerate(zip(rows, COLOURS, strict=True)):
        bottom = len(rows) - 1 - number
        stacked: Counter[int] = Counter()
        for difference in differences:
            at = step(difference)
            x, y = 10 ** ((at + 0.5) / STEPS), bottom + height * (stacked[at] + 0.5)
            stacked[at] += 1
            axes.plot(x, y, "o", color=colour, markersize=3.3, markeredgewidth=0)
            if difference.error >= LIMIT:
                axes.plot(x, y, "o", color="none", markeredgecolor="#222222", markersize=7.5, markeredgewidth=0.9)
        axes.axhline(bottom, color="#cccccc", linewidth=0.6, zorder=0)
        axes.text(
            -0.02,
            bottom + 0.3,
            f"{name}\n{len(differences)}",
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            linespacing=1.3,
        )
    most, top = 3e-4, len(rows) + 0.06
    axes.axvspan(LIMIT, most, color="#f6efec", zorder=0)
    axes.axvline(LIMIT, color="#b02a2a", linewidth=1.3)
    axes.axvline(ROUNDING, color="#777777", linewidth=1, linestyle=":")
    axes.text(LIMIT * 1.2, top, "limit", color="#b02a2a", va="top")
    axes.text(ROUNDING / 1.2, top, "float32's step", color="#666666", ha="right", va="top")
    axes.set_xscale("log")
    axes.set(xlim=(least / 1.5, most), ylim=(-0.05, top), yticks=[])
    axes.set_xlabel(label)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    LineParser(__doc__).parse_args()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ours = [(name, networks(titles)) for name, titles in NETWORKS]
    exported = [(name, programs(titles)) for name, titles in PROGRAMS]
    count = [sum(len(differences) for _, differences in rows) for rows in (ours, exported)]
    with rc_context({"font.size": 10}):
        figure = Figure(figsize=(11, 5), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        draw(left, ours, 2e-8, "largest difference of the logits, as a share of the largest logit")
        draw(right, exported, 1e-10, "largest difference of the probabilities*")
        left.set_title(f"{count[0]} networks, the same weights on both sides", fontsize=12)
        right.set_title(f"{count[1]} programs that PaddlePaddle exported", fontsize=12)
        figure.supxlabel(
            "circled: PaddlePaddle's own rounding is of this size        *of the logits where probabilities say little",
            fontsize=10,
        )
        figure.savefig(PICTURE, dpi=110, metadata={"Source": source()})


if __name__ == "__main__":
    main()
