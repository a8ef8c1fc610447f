"""Proves a GPU machine in 14 minutes: tests, training, inference, and CIFAR-10 to 95%.

    bash run.sh prove                     or, where there is no bash, python -m benchmarks.prove
    bash run.sh prove --part=tests,step --minutes=7 --output=prove_7
    bash run.sh prove --cpu               as on a machine without a GPU: what can be run on a CPU, in small

The most important comes first. What fails does not stop the rest; each command has a limit, and what one leaves of its
time is the next one's. What cannot be run is named with the reason. Nothing is downloaded or installed. One GPU is
used. In the folder --output are, at any time, prove.json (everything), prove.md (a table) and, in files/, which is
emptied at the start, what the commands have written and said.

Exit codes: 0 all went well on a GPU; 1 something failed, missed its aim or was not done in time; 2 the command line;
3 there is no GPU, and what can be run without one went well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.prove.items import PARTS, Item, plan
from benchmarks.prove.machine import ROOT, Machine, find_machine
from benchmarks.prove.report import Report, Row
from benchmarks.prove.runner import Outcome, run
from utils.errors import FlagError, run_script
from utils.files import check_can_write
from utils.flags.kinds import number
from utils.flags.line_parser import LineParser

# Where an archive of CIFAR-10 is looked for.
ARCHIVES = ("cifar-10-python.tar.gz", "cifar10.tar.xz")
FOLDERS = (ROOT / "data" / "cifar10", ROOT, ROOT / "shared" / "data", ROOT.parent / "shared" / "data")
# An item that would get less than this share of its time is not begun.
LEAST_SHARE = 0.5

Runner = Callable[[list[str], float, Path, dict[str, str]], Outcome]


def parts(text: str) -> list[str]:
    """Some of `PARTS`."""
    words = text.split(",")
    if wrong := [word for word in words if word not in PARTS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is no part: give some of {','.join(PARTS)}")
    return words


def read_flags() -> argparse.Namespace:
    parser = LineParser(__doc__, prog="prove")
    parser.add_argument("--part", type=parts, default=list(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--minutes", type=number(float, 0.1, 1440), default=14.0, help="for all of it (default 14)")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "prove", help="folder (default output/prove)")
    parser.add_argument("--cifar10", type=Path, help="archive of CIFAR-10 that data/cifar10/prepare.py takes")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    return parser.parse_args()


def find_archive(given: Path | None) -> Path | None:
    """The archive of CIFAR-10 that is given, or one that is in its place; None if there is none.

    Raises:
        FlagError: the one that is given is not there.
    """
    if given is not None:
        if not given.is_file():
            raise FlagError(f"--cifar10 {given}: there is no such file; docs/training.md says where to get it")
        return given.resolve()
    return next((folder / name for folder in FOLDERS for name in ARCHIVES if (folder / name).is_file()), None)


def prove(
    items: list[Item],
    report: Report,
    environment: dict[str, str],
    start: Runner = run,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs the items in turn and adds their rows to the report.

    Args:
        items: the most important first.
        report: takes in the rows, and says how many minutes there are.
        environment: variables for the commands.
        start: runs a command.
        clock: seconds.
    """
    began = clock()
    due = 0.0  # when the item has to be over, in seconds from the start: as if all before had taken all their time
    broken: set[str] = set()
    for item in items:
        due = min(due + item.seconds, report.minutes * 60)
        left = due - (clock() - began)
        rows = _run_item(item, left, broken, report, environment, start)
        if any(row.status != "ok" for row in rows if row.name == item.name):
            broken.add(item.name)
        report.add(rows)
        _show(rows)


def _run_item(
    item: Item, left: float, broken: set[str], report: Report, environment: dict[str, str], start: Runner
) -> list[Row]:
    """An item's rows; `left` are the seconds that it has."""
    if item.missing:
        needed = item.needed and report.machine.gpu is not None
        return [Row(item.part, item.name, "failed" if needed else "skipped", item.missing)]
    if before := [name for name in item.after if name in broken]:
        return [Row(item.part, item.name, "skipped", f"needs {before[0]}, see there")]
    if left < item.seconds * LEAST_SHARE:
        text = (
            f"{max(left, 0.0):.0f} s were left of the {report.minutes:g} minutes: raise --minutes, or choose by --part"
        )
        return [Row(item.part, item.name, "no time", text)]
    log = report.folder / "files" / f"{item.part}_{item.name}.log".replace(" ", "_").replace(",", "").replace("%", "")
    print(f"{item.part}: {item.name}, at most {left:.0f} s", flush=True)
    outcome = start(item.command, left, log, environment)
    rows = [Row(item.part, item.name, "ok")] if item.read is None and not outcome.cut and not outcome.code else []
    try:
        rows += item.read(outcome.seconds) if item.read is not None else []
    except (OSError, ValueError, LookupError) as error:  # it has not come so far as to write them
        if not outcome.cut and not outcome.code:
            rows = [Row(item.part, item.name, "failed", f"its figures cannot be read ({error!r}), see {log}")]
    if outcome.cut:
        rows.append(Row(item.part, item.name, "no time", f"ended after {outcome.seconds:.0f} s, see {log}"))
    # pytest's code for failed tests is 1, and they have rows of their own.
    elif outcome.code and not (outcome.code == 1 and any(row.status == "failed" for row in rows)):
        rows.append(Row(item.part, item.name, "failed", f"{_last_line(log)} (exit code {outcome.code}, see {log})"))
    for row in rows:
        row.seconds = row.seconds or outcome.seconds
    return rows or [Row(item.part, item.name, "failed", f"it has found nothing to do, see {log}")]


def _last_line(log: Path) -> str:
    """What a command said last."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "it said nothing"


def _show(rows: list[Row]) -> None:
    """Prints rows: each that has something to say, and of the others how many there are."""
    quiet = [row for row in rows if row.status == "ok" and not row.text]
    skipped: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == "skipped":
            skipped.setdefault(row.text, []).append(row)
        elif row.text or row.status != "ok":
            print(f"  {row.line()}", flush=True)
    for reason, same in skipped.items():
        print(f"  {same[0].line()}" if len(same) == 1 else f"  skipped  {len(same)}: {reason}", flush=True)
    if quiet:
        print(f"  ok       {len(quiet)}" if len(quiet) > 1 else f"  {quiet[0].line()}", flush=True)


def main() -> None:
    args = read_flags()
    archive = find_archive(args.cifar10)
    check_can_write(args.output / "prove.json", "--output")
    folder = args.output.resolve()
    files = folder / "files"  # an earlier run's must not be taken for this one's
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    environment = {"CUDA_VISIBLE_DEVICES": ""} if args.cpu else {}
    machine: Machine = find_machine(environment)
    # The test suite takes one thread for each of its processes; here one process has the machine, and 12 networks to
    # answer for in float64 on the CPU.
    environment.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(min(8, machine.processors))))
    if machine.gpu:
        print(f"{machine.gpu}, {machine.gpu_memory / 2**30:.0f} GiB; {machine.processors} processors")
    else:
        why = "--cpu" if args.cpu else machine.why_no_gpu
        print(f"no GPU ({why}): nothing of one can be proven; what runs on a CPU is run, in small")
    report = Report(folder, machine, args.minutes)
    items = [item for item in plan(machine, files, archive) if item.part in args.part]
    try:
        prove(items, report, environment)
    finally:
        report.write()
        print(f"\n{report.verdict()}\n{folder / 'prove.json'} {folder / 'prove.md'}", flush=True)
    sys.exit(report.code)


if __name__ == "__main__":
    run_script(main)
