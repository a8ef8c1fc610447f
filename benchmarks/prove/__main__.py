"""Proves a GPU machine in 14 minutes: tests, training, inference, and CIFAR-10 to 95%.

    bash run.sh prove                     or, without bash, python -m benchmarks.prove
    bash run.sh prove --part=tests,step --minutes=7 --output=prove_7
    bash run.sh prove --cpu               as on a machine without a GPU: small versions of what a CPU can run

The most important items come first. A failure does not stop the rest. Each command has a time limit, and the next one
gets the time that it does not use. Items that cannot be run are listed with the reason. Nothing is downloaded or
installed. One GPU is used. The folder --output always has the current prove.json (everything), prove.md (a table) and
files/ (emptied at the start), with the commands' files and output.

Exit codes: 0 everything passed on a GPU; 1 something failed, missed its aim or ran out of time; 2 a command-line error;
3 there is no GPU, and everything that runs without one passed.
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

# Folders in which an archive of CIFAR-10 is searched.
ARCHIVES = ("cifar-10-python.tar.gz", "cifar10.tar.xz")
FOLDERS = (ROOT / "data" / "cifar10", ROOT, ROOT / "shared" / "data", ROOT.parent / "shared" / "data")
# An item that would get less than this share of its time is not started.
LEAST_SHARE = 0.5

Runner = Callable[[list[str], float, Path, dict[str, str]], Outcome]


def parts(text: str) -> list[str]:
    """Parses a list of `PARTS`."""
    words = text.split(",")
    if wrong := [word for word in words if word not in PARTS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not a part: give some of {','.join(PARTS)}")
    return words


def read_flags() -> argparse.Namespace:
    parser = LineParser(__doc__, prog="prove")
    parser.add_argument("--part", type=parts, default=list(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument(
        "--minutes", type=number(float, 0.1, 1440), default=14.0, help="time for everything (default 14)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "prove", help="folder (default output/prove)")
    parser.add_argument("--cifar10", type=Path, help="archive of CIFAR-10 that data/cifar10/prepare.py takes")
    parser.add_argument("--cpu", action="store_true", help="do not use the GPU")
    return parser.parse_args()


def find_archive(given: Path | None) -> Path | None:
    """The archive of CIFAR-10 that is given or found in a usual folder; None if there is none.

    Raises:
        FlagError: the given file does not exist.
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
        items: the items, the most important first.
        report: collects the rows, and has the time limit in minutes.
        environment: environment variables for the commands.
        start: runs a command.
        clock: returns seconds.
    """
    began = clock()
    due = 0.0  # when the item must end, in seconds from the start, if all items before it used their whole time
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
    """Runs an item and returns its rows; `left` are its seconds."""
    if item.missing:
        needed = item.needed and report.machine.gpu is not None
        return [Row(item.part, item.name, "failed" if needed else "skipped", item.missing)]
    if before := [name for name in item.after if name in broken]:
        return [Row(item.part, item.name, "skipped", f"needs {before[0]}, which failed")]
    if left < item.seconds * LEAST_SHARE:
        text = f"{max(left, 0.0):.0f} s were left of the {report.minutes:g} minutes: raise --minutes or choose a --part"
        return [Row(item.part, item.name, "no time", text)]
    log = report.folder / "files" / f"{item.part}_{item.name}.log".replace(" ", "_").replace(",", "").replace("%", "")
    print(f"{item.part}: {item.name}, at most {left:.0f} s", flush=True)
    outcome = start(item.command, left, log, environment)
    rows = [Row(item.part, item.name, "ok")] if item.read is None and not outcome.cut and not outcome.code else []
    try:
        rows += item.read(outcome.seconds) if item.read is not None else []
    except (OSError, ValueError, LookupError) as error:  # it ended before it wrote them
        if not outcome.cut and not outcome.code:
            rows = [Row(item.part, item.name, "failed", f"its figures cannot be read ({error!r}), see {log}")]
    if outcome.cut:
        rows.append(Row(item.part, item.name, "no time", f"ended after {outcome.seconds:.0f} s, see {log}"))
    # pytest exits with 1 for failed tests, which have their own rows.
    elif outcome.code and not (outcome.code == 1 and any(row.status == "failed" for row in rows)):
        rows.append(Row(item.part, item.name, "failed", f"{_last_line(log)} (exit code {outcome.code}, see {log})"))
    for row in rows:
        row.seconds = row.seconds or outcome.seconds
    return rows or [Row(item.part, item.name, "failed", f"it found nothing to do, see {log}")]


def _last_line(log: Path) -> str:
    """The last line of a command's output."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "it printed nothing"


def _show(rows: list[Row]) -> None:
    """Prints the rows that have something to report, and the number of the others."""
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
    files = folder / "files"  # an earlier run's files must not be taken for this one's
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
        print(f"no GPU ({why}): running small versions of what a CPU can run, which prove nothing about a GPU")
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
