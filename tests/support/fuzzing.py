"""Runs a check on many cases in forked processes, each held to a share of memory and of processor time."""

from __future__ import annotations

import argparse
import functools
import io
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

# A process makes this many cases, so that a fork costs little and a leak is seen.
BATCH = 250


@dataclass
class Report:
    """What came of the cases.

    Attributes:
        cases: how many were run.
        outcomes: what `check` returned -> how often.
        failures: what else happened, at most a few, each with the number of its case.
        seconds: of the slowest case, on the processor; and which it was.
        megabytes: by which the resident memory of a process grew at most, and the case that did it.
    """

    cases: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: tuple[float, int] = (0.0, -1)
    megabytes: tuple[float, int] = (0.0, -1)


class TooSlow(BaseException):
    """A case has used up its time. Not an `Exception`, so that no reader takes it for its own."""


def _stop(*_: object) -> None:
    raise TooSlow


def _resident() -> float:
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _run_batch(
    check: Callable[[int], str], cases: range, current: mmap.mmap, log: Path, cpu: float, memory: int
) -> None:
    """The work of a forked process: writes a line per case to `log`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    spent = time.process_time()
    # Ends the process where a case is stuck in C, where no signal is heard.
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent + len(cases) * cpu) + 10, -1))
    signal.signal(signal.SIGPROF, _stop)
    os.chdir(tempfile.mkdtemp(dir=log.parent))
    with open(os.devnull, "w") as nowhere:  # for warnings
        os.dup2(nowhere.fileno(), 2)
    sys.stdout = sys.stderr = io.StringIO()
    peak = _resident()
    with open(log, "w") as lines:
        for case in cases:
            current[:8] = struct.pack("<q", case)
            start = time.process_time()
            try:
                try:
                    signal.setitimer(signal.ITIMER_PROF, cpu)
                    outcome = f"ok {check(case)}"
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
            except TooSlow:
                outcome = f"failed took more than {cpu} s of processor time"
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f"failed {type(error).__name__}: {str(error)[:200]!r} ({place.filename}:{place.lineno})"
            seconds = time.process_time() - start
            grown, peak = _resident() - peak, max(peak, _resident())
            print(case, f"{seconds:.3f}", f"{max(grown, 0):.1f}", outcome, sep="\t", file=lines)


def run_cases(
    check: Callable[[int], str], cases: range, cpu: float = 2.0, memory: int = 1 << 30, jobs: int = 1
) -> Report:
    """Runs `check` on every case.

    Args:
        check: takes the number of a case, and returns a word for what came of it. What it raises is a failure.
        cases: their numbers.
        cpu: seconds that one may take on the processor.
        memory: bytes that a process may have beyond what this one has now.
        jobs: processes at a time.
    """
    report = Report()
    batches = [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        running: dict[int, tuple[range, mmap.mmap, Path]] = {}
        while batches or running:
            while batches and len(running) < jobs:
                batch, current = batches.pop(0), mmap.mmap(-1, 8)
                log = Path(folder, str(batch.start))
                pid = os.fork()
                if pid == 0:
                    try:
                        _run_batch(check, batch, current, log, cpu, memory)
                    finally:
                        os._exit(0)
                running[pid] = batch, current, log
            pid = next(iter(running))  # not whichever ends first: that may be another child of the test run
            _, status = os.waitpid(pid, 0)
            batch, current, log = running.pop(pid)
            (case,) = struct.unpack("<q", current[:8])
            _add(report, log, batch)
            if os.WIFSIGNALED(status):
                report.failures.append(f"case {case}: ended by {signal.Signals(os.WTERMSIG(status)).name}")
    return report


def _add(report: Report, log: Path, batch: range) -> None:
    lines = log.read_text().splitlines() if log.exists() else []
    report.cases += len(lines)
    if len(lines) < len(batch):
        report.failures.append(f"cases {batch.start} to {batch.stop - 1}: only {len(lines)} were run")
    for line in lines:
        case, seconds, grown, outcome = line.split("\t", 3)
        word, _, detail = outcome.partition(" ")
        if word == "ok":
            report.outcomes[detail] = report.outcomes.get(detail, 0) + 1
        elif len(report.failures) < 20:
            report.failures.append(f"case {case}: {detail}")
        report.seconds = max(report.seconds, (float(seconds), int(case)))
        report.megabytes = max(report.megabytes, (float(grown), int(case)))


def run_from_the_command_line(
    check: Callable[..., str], prepare: Callable[[], object], count: int, readers: Collection[str] = ()
) -> None:
    """Runs `count` cases, or what the flags say, and prints what came of them.

    Args:
        check: as for `run_cases`; if there are `readers`, it takes the name of one first.
        prepare: is called once before.
        count: of cases, of each reader.
        readers: which there are; --readers chooses some.
    """
    parser = argparse.ArgumentParser()
    if readers:
        parser.add_argument("--readers", nargs="+", choices=sorted(readers), default=sorted(readers))
    parser.add_argument("--cases", type=int, default=count)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    prepare()
    cases = range(options.start, options.start + options.cases)
    for name in options.readers if readers else [""]:
        report = run_cases(functools.partial(check, name) if name else check, cases, jobs=options.jobs)
        print(f"{name} {report.cases} cases: {report.outcomes}, {len(report.failures)} failures".lstrip())
        print(
            "slowest: {:.2f} s (case {}); most memory: {:.0f} MB (case {})".format(*report.seconds, *report.megabytes)
        )
        print(*report.failures, sep="\n", flush=True)
