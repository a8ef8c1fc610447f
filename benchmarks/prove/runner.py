"""A command that has to be over by a certain time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.prove.machine import ROOT
from utils.system import WINDOWS

# Seconds that a command gets to end in, once it is told to: train.py saves a checkpoint.
GRACE = 10.0


@dataclass
class Outcome:
    """What came of a command: its exit code, the seconds it took, and whether it was ended because time was up."""

    code: int
    seconds: float
    cut: bool = False


def run(command: list[str], seconds: float, log: Path, environment: dict[str, str]) -> Outcome:
    """Runs a command, and ends it and all that it has started when it takes longer than so many seconds.

    Args:
        command: program and arguments.
        seconds: that it may take.
        log: where its stdout and stderr go.
        environment: variables beside those of this process.
    """
    started = time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=not WINDOWS,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # of Windows only
        )
        cut = False
        try:
            process.wait(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            cut = True
        finally:  # Ctrl-C as well
            _end(process)
    return Outcome(process.returncode, time.monotonic() - started, cut)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its children: asks, waits, and kills what is left. Nothing happens if all are gone."""
    if WINDOWS:
        if process.poll() is None:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
            process.wait()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)  # the group lives on while any of it does
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
