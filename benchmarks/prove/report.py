"""The results of a proof: rows, prove.json, and a table to read."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.prove.machine import Machine
from utils.files import write_text

# Status of a row -> its meaning. Problems come first.
STATUSES = {
    "failed": "went wrong",
    "missed": "ran, but did not reach its aim",
    "no time": "did not run or finish in the given time",
    "skipped": "needs something that this machine lacks",
    "ok": "ran, and reached its aim if it has one",
}
NOT_PROVEN = ("failed", "missed", "no time")
ALL_PROVEN, SOMETHING_WRONG, NO_GPU = 0, 1, 3


@dataclass
class Row:
    """One result.

    Attributes:
        part: the part that it belongs to.
        name: its name.
        status: one of `STATUSES`.
        text: its figures, or why it failed or was skipped, in one line.
        value: the main figure, if there is one.
        aim: the lowest value that passes (with `at_most`, the highest).
        at_most: see `aim`.
        seconds: the time that it took.
    """

    part: str
    name: str
    status: str
    text: str = ""
    value: float | None = None
    aim: float | None = None
    at_most: bool = False
    seconds: float = 0.0

    def line(self) -> str:
        return f"{self.status:8} {self.part}: {self.name}" + (f": {self.text}" if self.text else "")


def measured(part: str, name: str, text: str, value: float, aim: float | None = None, at_most: bool = False) -> Row:
    """A row for a figure, with a status that says whether it reached its aim."""
    reached = aim is None or (value <= aim if at_most else value >= aim)
    wanted = "" if aim is None else f" (aim: {'at most' if at_most else 'at least'} {aim:g})"
    return Row(part, name, "ok" if reached else "missed", text + wanted, value, aim, at_most)


class Report:
    """The rows so far; every change is saved immediately, so that nothing is lost if the machine disappears.

    Args:
        folder: the folder for prove.json and prove.md.
        machine: the machine that was tested.
        minutes: the time limit.
    """

    def __init__(self, folder: Path, machine: Machine, minutes: float) -> None:
        self.folder = folder
        self.machine = machine
        self.minutes = minutes
        self.rows: list[Row] = []
        self._started, self._when = time.monotonic(), time.strftime("%Y-%m-%d %H:%M:%S %z")

    @property
    def code(self) -> int:
        """The exit code: 0 everything is proven, 1 something failed or was not done, 3 there is no GPU to prove."""
        if any(row.status in NOT_PROVEN for row in self.rows):
            return SOMETHING_WRONG
        return ALL_PROVEN if self.machine.gpu else NO_GPU

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        self.write()

    def verdict(self) -> str:
        """Summary in one line."""
        count = Counter(row.status for row in self.rows)
        numbers = ", ".join(f"{count[status]} {status}" for status in STATUSES if count[status])
        where = self.machine.gpu or "no GPU: nothing is proven about one"
        return (
            f"{where}; {numbers or 'nothing was run'}; {time.monotonic() - self._started:.0f} s; exit code {self.code}"
        )

    def write(self) -> None:
        """Writes prove.json and prove.md.

        Raises:
            UserError: they cannot be written.
        """
        content = {
            "verdict": self.verdict(),
            "exit_code": self.code,
            "started": self._when,
            "seconds": round(time.monotonic() - self._started, 1),
            "minutes": self.minutes,
            "machine": asdict(self.machine),
            "rows": [asdict(row) for row in self.rows],
        }
        write_text(self.folder / "prove.json", json.dumps(content, indent=1) + "\n", "--output")
        write_text(self.folder / "prove.md", self.table(), "--output")

    def table(self) -> str:
        """The report in Markdown: problems, figures, then skipped items by reason, and items that passed."""
        lines = [f"# {self.verdict()}", ""]
        lines += [f"{name} {version}  " for name, version in self.machine.versions.items()]
        lines += [f"{self.machine.processors} processors, {self.machine.gpus} GPUs", ""]
        lines += ["| | part | what | result | s |", "|---|---|---|---|--:|"]
        for row in sorted(self.rows, key=lambda row: list(STATUSES).index(row.status)):
            if row.status in NOT_PROVEN or (row.status == "ok" and row.text):
                lines.append(f"| {row.status} | {row.part} | {row.name} | {_cell(row.text)} | {row.seconds:.1f} |")
        for status, title in (("skipped", "Skipped"), ("ok", "In order")):
            lines += ["", f"## {title}: what {STATUSES[status]}", ""]
            by_reason: dict[tuple[str, str], list[str]] = {}
            for row in self.rows:
                if row.status == status and (status == "skipped" or not row.text):
                    by_reason.setdefault((row.part, row.text), []).append(row.name)
            for (part, reason), names in by_reason.items():
                lines.append(f"- {part}{f', {reason}' if reason else ''} ({len(names)}): {', '.join(names)}")
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
