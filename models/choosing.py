"""Which network? Lists by what is known of them, and those that no other beats within a budget.

for row in front(candidates(max_params=5), "macs"):
    print(row.name, row.top1)
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from models import catalogue, list_models, published

# What networks can be sorted by, and what accuracy can be set against: the heading, the unit.
COSTS = {
    "macs": ("multiply-adds", "G"),
    "params": ("parameters", "M"),
    "latency": ("latency on a Tesla P4, TensorRT, published", "ms"),
    "time": ("time measured here", "ms"),
}
SORTS = ("name", "accuracy", "params", "macs", "latency")
# Runs of a network that are timed, and about how many seconds they take together.
RUNS, ENOUGH = 5, 2.0


class Row(NamedTuple):
    """What is known of a network.

    Attributes:
        name: of the network.
        params: its parameters, in millions.
        macs: its multiply-adds for one image, in thousand millions.
        size: height and width of its input.
        accuracies: top-1 in percent and whose it is, the best first; none where nothing was published.
        latency: published, in milliseconds (`published.Published`); None where there is none.
        time: measured here, in milliseconds; None where it was not.
    """

    name: str
    params: float
    macs: float
    size: int
    accuracies: tuple[tuple[float, str], ...]
    latency: float | None
    time: float | None = None

    @property
    def top1(self) -> float:
        """The best published top-1; -1 where there is none."""
        return self.accuracies[0][0] if self.accuracies else -1.0

    def cost(self, name: str) -> float:
        """What it costs by a key of `COSTS`; infinite where that is not known."""
        value = getattr(self, name)
        return math.inf if value is None else value


def candidates(
    pattern: str = "*",
    max_params: float | None = None,
    max_macs: float | None = None,
    max_latency: float | None = None,
) -> list[Row]:
    """The networks within a budget, by name.

    Args:
        pattern: shell pattern of their names; where none matches, of their names in any capitals.
        max_params, max_macs, max_latency: most parameters in millions, multiply-adds in thousand millions, and
            published milliseconds (which leaves out networks of which none were published); None: any number.

    Raises:
        ValueError: there is none.
    """
    known = catalogue.read()
    names = list_models(pattern) or [name for name in known if fnmatchcase(name.lower(), pattern.lower())]
    if not names:
        raise ValueError(f"no network's name matches {pattern!r}; without a pattern all are listed")
    rows = []
    for name in names:
        facts, of = known[name], published.by_network().get(name, ())
        accuracies = tuple((weights.top1, weights.said) for weights in of if weights.top1 is not None)
        latency = min((weights.latency for weights in of if weights.latency), default=None)
        rows.append(Row(name, facts.parameters / 1e6, facts.multiply_adds / 1e9, facts.image_size, accuracies, latency))
    limits = {"params": max_params, "macs": max_macs, "latency": max_latency}
    within = [row for row in rows if all(limit is None or row.cost(cost) <= limit for cost, limit in limits.items())]
    if not within:
        budget = " ".join(f"--max_{cost}={limit:g}" for cost, limit in limits.items() if limit is not None)
        least = {cost: min(row.cost(cost) for row in rows) for cost, limit in limits.items() if limit is not None}
        has = ", ".join(f"{value:.3g} {COSTS[cost][1]} {cost}" for cost, value in least.items() if value < math.inf)
        raise ValueError(f"no network is within {budget}; the least of those named: {has or 'none is known'}")
    return within


def sorted_by(rows: Iterable[Row], key: str) -> list[Row]:
    """Rows by a word of `SORTS`: the highest accuracy first, the least of all else; what is not known comes last."""
    if key == "name":
        return sorted(rows, key=lambda row: row.name)
    if key == "accuracy":
        return sorted(rows, key=lambda row: (-row.top1, row.macs))
    return sorted(rows, key=lambda row: (row.cost(key), -row.top1))


def front(rows: Iterable[Row], cost: str) -> list[Row]:
    """The Pareto front: each row is more accurate than all that cost no more; the cheapest first.

    Args:
        rows: of networks; those without a published accuracy, or whose cost is not known, are left out.
        cost: a key of `COSTS`.
    """
    best, found = 0.0, []
    for row in sorted(rows, key=lambda row: (row.cost(cost), -row.top1)):
        if row.cost(cost) < math.inf and row.top1 > best:
            best = row.top1
            found.append(row)
    return found


def measured(rows: Sequence[Row], seconds: float) -> list[Row]:
    """The rows with the time of each network for one image, on one thread of this machine's processor: the median of a
    few runs in float32, after one that does not count.

    Args:
        rows: of networks, the most important first.
        seconds: when they are over, the others are left out; one network at least is measured.
    """
    import torch

    from models import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    end = time.perf_counter() + seconds
    found = []
    try:
        for row in rows:
            if found and time.perf_counter() > end:
                break
            model = build(row.name).eval()
            images = torch.zeros(1, 3, row.size, row.size)
            with torch.inference_mode():
                model(images)
                times: list[float] = []
                while not times or (len(times) < RUNS and sum(times) < ENOUGH):
                    started = time.perf_counter()
                    model(images)
                    times.append(time.perf_counter() - started)
            found.append(row._replace(time=1000 * statistics.median(times)))
    finally:
        torch.set_num_threads(threads)
    return found


def to_measure(rows: Sequence[Row]) -> list[Row]:
    """The networks that may be on the front of measured times: those on the fronts of all other costs, and on the
    second fronts behind them; the cheapest first."""
    chosen: dict[str, Row] = {}
    for cost in ("macs", "params", "latency"):
        first = front(rows, cost)
        second = front([row for row in rows if row not in first], cost)
        chosen |= {row.name: row for row in (*first, *second)}
    return sorted_by(chosen.values(), "macs")


def lines(rows: Sequence[Row]) -> list[str]:
    """A line for each network: what is known of it."""
    found = []
    for row in rows:
        accuracy = ", ".join(f"{top1:.2f} {said}" for top1, said in row.accuracies)
        costs = f"{row.latency:6.1f} ms P4" if row.latency is not None else " " * 12
        if any(other.time is not None for other in rows):
            costs += f" {row.time:8.1f} ms here" if row.time is not None else " " * 17
        found.append(
            f"{row.name:32}{row.params:7.2f} M parameters {row.macs:7.3f} G multiply-adds "
            f"{row.size:4} x {row.size:<4} {costs}  {f'top-1 {accuracy}' if accuracy else ''}".rstrip()
        )
    return found


def plot(path: Path, rows: Sequence[Row], best: Sequence[Row], cost: str) -> None:
    """Draws accuracy over a cost: all networks as points, those of the front joined, with numbers, and names beside.

    Raises:
        OSError: the picture cannot be written.
        ValueError: its suffix is that of no picture.
    """
    from matplotlib.figure import Figure

    heading, unit = COSTS[cost]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=(4, 1))
    shown = [row for row in rows if row.top1 > 0 and row.cost(cost) < math.inf]
    axes.scatter([row.cost(cost) for row in shown], [row.top1 for row in shown], s=12, color="#aab2bf")
    axes.plot([row.cost(cost) for row in best], [row.top1 for row in best], "o-", color="#2f5fb3", markersize=5)
    axes.set_xscale("log")
    axes.grid(color="#e6e9ee")
    axes.set_axisbelow(True)
    # Names would lie on each other: the points have numbers.
    for number, row in enumerate(best, 1):
        axes.annotate(
            str(number), (row.cost(cost), row.top1), (-4, 5), textcoords="offset points", fontsize=8, ha="right"
        )
    axes.set(xlabel=f"{heading} ({unit})", ylabel="published top-1 on ImageNet (%)")
    names = "\n".join(f"{number:>2}  {row.top1:.2f}  {row.name}" for number, row in enumerate(best, 1))
    beside.axis("off")
    beside.text(0, 1, names, va="top", fontsize=8, linespacing=1.5)
    figure.savefig(path, dpi=110)
