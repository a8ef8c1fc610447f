"""Runs contestants in separate processes, all of them stopped except one, so that they do not slow each other down.

An engine's threads may keep spinning after a call, waiting for the next one. With all contestants in one process that
would slow down the next turn. This module only needs NumPy, as a contestant may use another Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

import numpy as np


class Contestant:
    """A process that runs `serve`, stopped between its turns.

    Attributes:
        name: its name.
        error: the last line that it wrote to stderr, if it could not start.
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        """Starts the process and waits until it has loaded its network."""
        self.name = name
        self.error: str | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (a pipe that nobody reads would fill)
        self._process = subprocess.Popen(
            command,
            text=True,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        if "ready\n" in _stream(self._process.stdout):  # after its output while loading
            self._process.send_signal(signal.SIGSTOP)
        else:
            code = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            self.error = lines[-1] if lines else f"exit code {code}"

    def turn(self, seconds: float) -> float:
        """Lets it run for `seconds`, at least once; returns its best time, in seconds."""
        self._process.send_signal(signal.SIGCONT)
        print(seconds, file=self._process.stdin, flush=True)
        best = float(_stream(self._process.stdout).readline())
        self._process.send_signal(signal.SIGSTOP)
        return best

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def race(contestants: list[Contestant], rounds: int, seconds: float) -> dict[str, float]:
    """The best time of each, in seconds, as other load on the machine can only make a run slower.

    Args:
        contestants: the contestants that started; they are ended.
        rounds: turns of each, after one turn to warm up.
        seconds: length of a turn.
    """
    best = {contestant.name: float("inf") for contestant in contestants}
    try:
        for number in range(rounds + 1):
            for contestant in contestants:
                taken = contestant.turn(seconds)
                if number:
                    best[contestant.name] = min(best[contestant.name], taken)
    finally:
        for contestant in contestants:
            contestant.close()
    return best


def start(commands: dict[str, list[str]], environment: dict[str, str]) -> list[Contestant]:
    """Starts contestants one after the other; prints which cannot take part, and why."""
    contestants = []
    for name, words in commands.items():
        contestant = Contestant(name, words, environment)
        if contestant.error is None:
            contestants.append(contestant)
        else:
            print(f"  {name:<15} left out: {contestant.error}", flush=True)
    return contestants


def rates(contestants: list[Contestant], batch_size: int, rounds: int, seconds: float) -> dict[str, float]:
    """Runs a race; prints and returns the images per second of each contestant, the fastest first."""
    best = race(contestants, rounds, seconds)
    for name, taken in sorted(best.items(), key=lambda item: item[1]):
        print(f"  {name:<15} {batch_size / taken:8.1f} ({taken * 1000:.1f})", flush=True)
    return {name: batch_size / taken for name, taken in best.items()}


def pixels(batch_size: int, image_size: int) -> np.ndarray:
    """Normalized images, (N, 3, H, W), float32."""
    return np.random.RandomState(7).uniform(-2, 2, (batch_size, 3, image_size, image_size)).astype(np.float32)


def serve(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> None:
    """A contestant's side: for every line with a number of seconds, calls `run` repeatedly for that long and answers
    with the best time of a call."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines may print to stdout, where the answers go
    run()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        end, best = time.perf_counter() + float(line), float("inf")
        while best == float("inf") or time.perf_counter() < end:
            start = clock()
            run()
            best = min(best, clock() - start)
        print(best, file=answers, flush=True)


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
