"""Helps to choose a network: lists networks by their facts, and finds those that no other beats at the same cost.

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

# What networks can be sorted by, and the costs that accuracy can be plotted against: heading, unit.
COSTS = {
    "macs": ("multiply-adds", "G"),
    "params": ("parameters", "M"),
    "latency": ("latency on a Tesla P4, TensorRT, published", "ms"),
    "time": ("time measured here", "ms"),
}
SORTS = ("name", "accuracy", "params", "macs", "latency")
# Timed runs of a network, and about how many seconds they may take together.
RUNS, ENOUGH = 5, 2.0


class Row(NamedTuple):
    """The facts of a network.

    Attributes:
        name: the network's name.
        params: its parameters, in millions.
        macs: its multiply-adds for one image, in billions.
        size: height and width of its input.
        accuracies: top-1 in percent and its source, the best first; empty if nothing was published.
        latency: published latency in milliseconds (`published.Published`); None if not published.
        time: time measured here, in milliseconds; None if not measured.
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
        """The best published top-1; -1 if there is none."""
        return self.accuracies[0][0] if self.accuracies else -1.0

    def cost(self, name: str) -> float:
        """Its cost by a key of `COSTS`; infinite if unknown."""
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
        pattern: shell pattern of their names; if none matches, capitals are ignored.
        max_params, max_macs, max_latency: most parameters in millions, multiply-adds in billions, and published
            milliseconds (which leaves out networks without a published latency); None: no limit.

    Raises:
        ValueError: no network matches.
    """
    known = catalogue.read()
    names = list_models(pattern) or [name for name in known if fnmatchcase(name.lower(), pattern.lower())]
    if not names:
        raise ValueError(f"no network's name matches {pattern!r}: leave the pattern out to list all")
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
        raise ValueError(f"no network is within {budget}; the lowest values are {has or 'unknown'}")
    return within


def sorted_by(rows: Iterable[Row], key: str) -> list[Row]:
    """Sorts rows by a word of `SORTS`: accuracy in descending, all else in ascending order; unknown values last."""
    if key == "name":
        return sorted(rows, key=lambda row: row.name)
    if key == "accuracy":
        return sorted(rows, key=lambda row: (-row.top1, row.macs))
    return sorted(rows, key=lambda row: (row.cost(key), -row.top1))


def front(rows: Iterable[Row], cost: str) -> list[Row]:
    """The Pareto front: each row is more accurate than all rows that cost no more; the cheapest first.

    Args:
        rows: rows of networks; those without a published accuracy or a known cost are left out.
        cost: a key of `COSTS`.
    """
    best, found = 0.0, []
    for row in sorted(rows, key=lambda row: (row.cost(cost), -row.top1)):
        if row.cost(cost) < math.inf and row.top1 > best:
            best = row.top1
            found.append(row)
    return found


def measured(rows: Sequence[Row], seconds: float) -> list[Row]:
    """The rows with each network's time for one image on one thread of this machine: the median of a few float32 runs
    after a warm-up.

    Args:
        rows: rows of networks, the most important first.
        seconds: time limit, after which the remaining networks are left out; at least one network is measured.
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
    """The networks that may be on the front of measured times: those on the first and second fronts of all other
    costs; the cheapest first."""
    chosen: dict[str, Row] = {}
    for cost in ("macs", "params", "latency"):
        first = front(rows, cost)
        second = front([row for row in rows if row not in first], cost)
        chosen |= {row.name: row for row in (*first, *second)}
    return sorted_by(chosen.values(), "macs")


def lines(rows: Sequence[Row]) -> list[str]:
    """One line with the facts of a network."""
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
    """Plots accuracy over a cost: all networks as points, the front as a numbered line, with the names in a legend.

    Raises:
        OSError: the picture cannot be written.
        ValueError: its suffix is not a picture's.
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
    # Names would overlap, so the points have numbers.
    for number, row in enumerate(best, 1):
        axes.annotate(
            str(number), (row.cost(cost), row.top1), (-4, 5), textcoords="offset points", fontsize=8, ha="right"
        )
    axes.set(xlabel=f"{heading} ({unit})", ylabel="published top-1 on ImageNet (%)")
    names = "\n".join(f"{number:>2}  {row.top1:.2f}  {row.name}" for number, row in enumerate(best, 1))
    beside.axis("off")
    beside.text(0, 1, names, va="top", fontsize=8, linespacing=1.5)
    figure.savefig(path, dpi=110)
