"""Writes tables of numbers to files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.files import write_text

Cell = int | float | str | None


def write_table(path: Path, rows: Sequence[Mapping[str, Cell]], flag: str) -> None:
    """Writes rows as CSV, with five decimals, or as JSON, a list of objects, by the suffix of `path`.

    Args:
        path: the file.
        rows: one or more, with the same keys; None is a cell without a value.
        flag: the flag that gave the file, for errors.

    Raises:
        UserError: it cannot be written.
    """
    if path.suffix.lower() == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    else:
        cells = [[f"{value:.5f}" if isinstance(value, float) else value for value in row.values()] for row in rows]
        text = as_csv([list(rows[0]), *cells])
    write_text(path, text, flag)


def as_csv(rows: Sequence[Sequence[object]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def share(part: int, whole: int) -> float | None:
    """A part divided by the whole, with five decimals; None if the whole is 0."""
    return round(part / whole, 5) if whole else None
