"""The figures of the README, read from the documents that have them in full: benchmarks.md, reader.md, parity.md,
paddle_parity.md and configurations.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent
BAR = 1e-5
EAGER = ("eager", "channels_last", "torchvision", "timm")  # contestants that are networks as PyTorch runs them
# In the titles of paddle_parity.md's sections of a whole zoo -> what exported it
EXPORTERS = {"fluid 1.8.5": "fluid 1.8.5", "2.6.2": "PaddlePaddle 2.6", "3.3.1": "PaddlePaddle 3.3"}


class Speed(NamedTuple):
    """How fast ours is, and what it was measured beside.

    Attributes:
        what: predict.py, exported, train.py or reader.py.
        network: whose; None for the reader.
        ours, theirs: images per second, as the document has them.
        times: how many times as fast ours is.
    """

    what: str
    network: str | None
    ours: str
    theirs: str
    times: str


class Exactness(NamedTuple):
    """How far answers are from the originals', as a share of the largest logit or in probabilities.

    Attributes:
        what: fluid or PaddleClas for networks; what exported them, a value of `EXPORTERS`, for programs.
        count: of networks or programs.
        within: those that differ by less than `BAR`.
        largest: difference.
        worst: whose that is.
    """

    what: str
    count: int
    within: int
    largest: float
    worst: str


def rows(text: str) -> dict[str, dict[str, str]]:
    """The rows of the Markdown tables of a text, by their first cells, each by the heads of its columns.

    Of two rows with the same first cell the first one counts.
    """
    found: dict[str, dict[str, str]] = {}
    heads: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = []
        elif not heads:
            heads = cells(line)
        elif not re.fullmatch(r"[|:-]+", line):
            values = cells(line)
            found.setdefault(values[0], dict(zip(heads, values, strict=True)))
    return found


def cells(line: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def document(name: str) -> str:
    """The text of a document."""
    return (DOCS / name).read_text(encoding="utf-8")


def race(name: str) -> dict[str, dict[str, str]]:
    """The rows of a race, which its program wrote into benchmarks.md between marks of that name."""
    return rows(document("benchmarks.md").split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0])


def speeds() -> Iterator[Speed]:
    """What benchmarks.md and reader.md measured, one image at a time where there is a choice."""
    for title, row in race("inference").items():
        network, _, rest = title.partition(", ")
        others = [row[name] for name in EAGER if row.get(name)]
        if rest == "float32, batch 1" and others:
            theirs = max(others, key=float)
            times = float(row["predict.py"]) / float(theirs)
            yield Speed("predict.py", network, row["predict.py"], theirs, f"{times:.2f}")
    for title, row in race("paddle_inference").items():
        network, _, rest = title.partition(", ")
        others = [row[name] for name in ("Paddle Inference", "paddle", "paddle_plain") if row.get(name)]
        if rest == "batch 1":
            theirs = max(others, key=float)
            yield Speed("exported", network, row["predict.py"], theirs, row["predict.py over Paddle"])
    for title, row in rows(document("benchmarks.md")).items():
        if "bare loop" in row and title.endswith("NHWC, float32"):
            yield Speed("train.py", title.partition(",")[0], row["train.py"], row["bare loop"], list(row.values())[-1])
    readers = rows(document("reader.md"))
    ours = next(row for title, row in readers.items() if "nvImageCodec" in title)
    theirs = next(row for title, row in readers.items() if title.startswith("torchvision"))
    yield Speed("reader.py", None, ours["median"], theirs["median"], list(theirs.values())[-1])


def exactness() -> Iterator[Exactness]:
    """What parity.md and paddle_parity.md have, section by section; PaddleClas's networks as one."""
    networks: dict[str, dict[str, float]] = {"fluid": {}, "PaddleClas": {}}
    for title, text in sections("parity.md"):
        original = "fluid" if "fluid" in title else "PaddleClas"
        networks[original] |= {name: float(row["error"]) for name, row in rows(text).items()}
    programs = {}
    for title, text in sections("paddle_parity.md"):
        exporter = next((name for version, name in EXPORTERS.items() if version in title), None)
        if exporter:
            errors = {name: float(row["logits"] or row["probabilities"]) for name, row in rows(text).items()}
            programs[exporter] = errors
    for what, errors in (networks | programs).items():
        worst = max(errors, key=errors.__getitem__)
        within = sum(error < BAR for error in errors.values())
        yield Exactness(what, len(errors), within, errors[worst], worst)


def sections(name: str) -> Iterator[tuple[str, str]]:
    """The titles and texts of a document's sections."""
    for section in document(name).split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        yield title, text


def configurations() -> int:
    """How many of PaddleClas's configurations are accepted."""
    table = [row for row in rows(document("configurations.md")).values() if "accepted" in row]
    if any(row["refused"] != "0" for row in table):
        raise ValueError("the README says that all configurations are accepted")
    return sum(int(row["accepted"]) for row in table)
