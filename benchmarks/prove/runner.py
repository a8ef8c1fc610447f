"""Runs a command with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.prove.machine import ROOT
from utils.system import WINDOWS

# Seconds that a command gets to end after a signal: train.py saves a checkpoint.
GRACE = 10.0


@dataclass
class Outcome:
    """The outcome of a command: its exit code, its seconds, and whether it was ended by the time limit."""

    code: int
    seconds: float
    cut: bool = False


def run(command: list[str], seconds: float, log: Path, environment: dict[str, str]) -> Outcome:
    """Runs a command, and ends it with all its children if it exceeds the time limit.

    Args:
        command: program and arguments.
        seconds: the time limit.
        log: file for its stdout and stderr.
        environment: variables in addition to those of this process.
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
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows only
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
            os.killpg(process.pid, number)  # the group exists as long as any process in it
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
