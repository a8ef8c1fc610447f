"""Writes the table of operators in docs/paddle_models.md, between its markers.

python docs/make_paddle_operators.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.programs.paddle_ops
from utils.flags.line_parser import LineParser
from utils.programs.paddle_ops.registry import DESC, PIR, Operator

FILE = Path(__file__).with_name("paddle_models.md")
BEGIN, END = "<!-- operators: written by docs/make_paddle_operators.py -->\n", "<!-- end of operators -->\n"


def names(table: dict[str, Operator], topic: str) -> list[str]:
    """The operators of a table that a module of utils/programs/paddle_ops/ has; those that end in _ work in place."""
    found = [kind for kind, entry in table.items() if entry.function.__module__.rpartition(".")[2] == topic]
    return sorted(kind for kind in found if not (kind.endswith("_") and kind.rstrip("_") in table))


def table() -> str:
    """The operators by topic, as Markdown."""
    counts = [sum(len(names(kinds, topic)) for topic in utils.programs.paddle_ops.__all__) for kinds in (DESC, PIR)]
    lines = [
        f"{counts[0]} operators of ProgramDesc and {counts[1]} of PIR, not counting those that work in place.",
        "",
        "| topic | ProgramDesc | PIR |",
        "|---|---|---|",
    ]
    for topic in utils.programs.paddle_ops.__all__:
        lines.append(f"| {topic} | {', '.join(names(DESC, topic))} | {', '.join(names(PIR, topic))} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """A text with the table between its markers."""
    return re.sub(
        f"({re.escape(BEGIN)}).*({re.escape(END)})", lambda found: found[1] + table() + found[2], text, flags=re.S
    )


def main() -> None:
    LineParser(__doc__).parse_args()
    FILE.write_text(with_table(FILE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
