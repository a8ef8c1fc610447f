"""Writes docs/flags.md, the flags of every program, and the tables of docs/other_programs.md, what flags and scripts of
other programs are called here.

python docs/make_flags.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.flags import habits
from utils.flags.line_parser import LineParser
from utils.flags.parsing import CONFIGURED, as_typed
from utils.flags.table import SCRIPTS, Flag, flags_of

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "docs/flags.md"
OTHER_PROGRAMS = "docs/other_programs.md"
FOLDERS = ("", "utils/", "utils/acnet/")  # where programs are

TITLE = """# Flags

Written by docs/make_flags.py: every flag of every program, with its default. `python train.py --help` prints those of
train.py, and so on.

- Write `--topk=5` or `--topk 5`. Booleans: True or False, 1 or 0, yes or no, on or off; the flag alone is
  True. Lists: with blanks or commas between the values, `--image_shape 3 224 224`.
- A flag that a program does not know ends it with one line that names the nearest one, or what the flag of another
  toolbox is called here ([other_programs.md](other_programs.md)).
- `-c FILE.yaml` and `-o KEY=VALUE` take a configuration of PaddleClas ([configurations.md](configurations.md)); flags
  beside it win.
- The commands `train`, `eval`, `infer` and `predict` of run.sh hand flags on. Its other commands print theirs:
  `bash run.sh verify --help`.
"""


def path(script: str) -> str:
    """The file of a program, from the repository's root."""
    return next(name for folder in FOLDERS if (ROOT / (name := f"{folder}{script}.py")).is_file())


def default(flag: Flag, script: str) -> str:
    """The default of a flag in a program, as its cell has it."""
    value = flag.default_for(script)
    return "required" if script in flag.required else "" if value is None else f"`{as_typed(value)}`"


def as_cell(text: str) -> str:
    """A text as a cell shows it, letter by letter: a bar would begin another cell, stars and underscores emphasis."""
    parts = text.split("`")
    parts[::2] = [part.replace("*", "\\*").replace("__", "\\_\\_") for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


def row(flag: Flag, script: str) -> str:
    """The line of a flag in a program's table."""
    meaning = flag.help
    if flag.choices:
        meaning += f" One of: {', '.join(map(str, flag.choices))}."
    if flag.aliases:
        meaning += f" Also: {', '.join(f'`--{alias}`' for alias in flag.aliases)}."
    cells = (f"`--{flag.name}`", default(flag, script), meaning)
    return f"| {' | '.join(map(as_cell, cells))} |"


def section(script: str) -> str:
    """A program's flags, a table for each group."""
    lines = [f"## {path(script)}", "", SCRIPTS[script]]
    if script in CONFIGURED:
        lines[-1] += " Takes `-c` and `-o`, too."
    for group, flags in flags_of(script).items():
        lines += ["", f"**{group}**", "", "| flag | default | meaning |", "|---|---|---|"]
        lines += [row(flag, script) for flag in flags]
    return "\n".join(lines) + "\n"


def contents() -> str:
    """The programs with the number of their flags, each a link to its section."""
    lines = ["| program | flags | what it does |", "|---|--:|---|"]
    for script, does in SCRIPTS.items():
        anchor = path(script).replace("/", "").replace(".", "")
        count = sum(map(len, flags_of(script).values()))
        lines.append(f"| [{path(script)}](#{anchor}) | {count} | {does} |")
    return "\n".join(lines) + "\n"


def generated(document: str) -> str:
    """The text of one of the two documents, with today's tables in it."""
    if document == FLAGS:
        return "\n".join([TITLE, contents(), *map(section, SCRIPTS)])
    begin, end = "<!-- habits: written by docs/make_flags.py -->", "<!-- end of habits -->"
    before, rest = (ROOT / document).read_text(encoding="utf-8").split(begin)
    return f"{before}{begin}\n\n{habits.table()}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    LineParser(__doc__).parse_args()
    for document in (FLAGS, OTHER_PROGRAMS):
        (ROOT / document).write_text(generated(document), encoding="utf-8")


if __name__ == "__main__":
    main()
