"""Answers --list_models and --recommend: which network?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import choosing
from models.choosing import COSTS, Row
from utils.errors import FlagError
from utils.files import written_whole

# Flags that select networks, for --list_models and --recommend.
DETAILS = ("max_params", "max_macs", "max_latency", "sort", "cost", "measure")
PICTURES = (".png", ".svg", ".pdf")


def is_asked(typed: dict[str, Any]) -> bool:
    """Whether a command line asks for networks; raises `FlagError` if it only selects some."""
    if typed.get("list_models") or typed.get("recommend"):
        return True
    if alone := next((name for name in DETAILS if name in typed), None):
        raise FlagError(f"--{alone} selects networks for --list_models or --recommend: give one of them")
    return False


def answer(typed: dict[str, Any]) -> None:
    """Prints the networks that a command line asks for.

    Raises:
        FlagError: no network matches, or the flags cannot work together.
        UserError: the picture cannot be written.
    """
    picture = typed.get("recommend")
    alone = {"sort": "--list_models", "cost": "--recommend"}
    for flag, other in alone.items():
        if flag in typed and bool(picture) != (other == "--recommend"):
            raise FlagError(f"--{flag} only works with {other}: leave it out")
    if picture and picture != "*" and not picture.lower().endswith(PICTURES):
        raise FlagError(f"--recommend {picture}: give a file name ending in {', '.join(PICTURES)}")
    try:
        rows = choosing.candidates(
            typed.get("list_models") or "*", typed.get("max_params"), typed.get("max_macs"), typed.get("max_latency")
        )
    except ValueError as error:
        raise FlagError(f"{'--recommend' if picture else '--list_models'}: {error}") from None
    if picture:
        _recommend(rows, typed, None if picture == "*" else Path(picture))
    else:
        rows = choosing.sorted_by(rows, typed.get("sort", "name"))
        print("\n".join(choosing.lines(_timed(rows, typed))))


def _timed(rows: list[Row], typed: dict[str, Any]) -> list[Row]:
    """The rows; with --measure, the first ones have measured times."""
    if not typed.get("measure"):
        return rows
    found = choosing.measured(rows, typed["measure"])
    print(f"measured here: {len(found)} of {len(rows)} networks, one image, one thread, float32", flush=True)
    return [*found, *rows[len(found) :]]


def _recommend(rows: list[Row], typed: dict[str, Any], picture: Path | None) -> None:
    """Prints and plots the networks on the Pareto front."""
    cost = typed.get("cost") or ("time" if typed.get("measure") else "macs")
    if (cost == "time") != bool(typed.get("measure")):
        raise FlagError("--cost=time needs --measure, and --measure needs --cost=time: give both or neither")
    if cost == "time":
        chosen = choosing.to_measure(rows)
        rows = [row for row in _timed(chosen, typed) if row.time is not None]
    best = choosing.front(rows, cost)
    if not best:
        raise FlagError(f"--recommend: no network within the budget has a known {cost} and accuracy: widen the budget")
    heading = COSTS[cost][0]
    print(f"the best published top-1 over {heading}, of {len(rows)} networks; the cheapest first:")
    print("\n".join(choosing.lines(best)))
    if picture is not None:
        with written_whole(picture, "--recommend") as temporary:
            choosing.plot(temporary, rows, best, cost)
        print(f"{picture}: top-1 over {heading}")
