"""Collects the inputs of several requests into batches for one engine, which computes them without a pause.

A batch starts when the engine is free and the batch is full, or its first input has waited long enough, or no other
input is on its way (being decoded). While the engine computes, one more full batch may wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class _Waiting:
    """An input that waits for a batch."""

    values: np.ndarray
    arrived: float
    row: asyncio.Future[Tensor]


class Batcher:
    """Hands inputs to an engine in batches.

    Args:
        forward: maps any number of inputs to a row of logits for each, on the CPU; it runs in its own thread.
        largest: most inputs in a batch.
        longest_wait: most seconds that an input waits for others.
        on_batch: called after each batch, with its size and its seconds.
    """

    def __init__(
        self,
        forward: Callable[[Sequence[np.ndarray]], Tensor],
        largest: int,
        longest_wait: float,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._forward, self._largest, self._longest_wait, self._on_batch = forward, largest, longest_wait, on_batch
        self._thread = ThreadPoolExecutor(1, "engine")
        self._waiting: deque[_Waiting] = deque()
        self._expected = 0
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Number of inputs that wait for a batch."""
        return len(self._waiting)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While an input is on its way, waiting inputs may wait for it."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            # After the caller has submitted the input, as a batch may be waiting for it.
            asyncio.get_running_loop().call_soon(self._start)

    async def __call__(self, values: np.ndarray) -> Tensor:
        """The logits of an input, (classes,); raises the engine's errors."""
        row: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(values, perf_counter(), row))
        self._start()
        return await row

    def _start(self) -> None:
        """Starts the batches that are due."""
        while self._waiting:
            full = len(self._waiting) >= self._largest
            if self._running >= 2 or (self._running and not full):
                return
            left = self._waiting[0].arrived + self._longest_wait - perf_counter()
            if not full and self._expected and left > 0:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = asyncio.get_running_loop().call_later(left, self._start)
                return
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < self._largest:
                waiting = self._waiting.popleft()
                if not waiting.row.done():  # its request is gone
                    batch.append(waiting)
            if batch:
                self._launch(batch)

    def _launch(self, batch: list[_Waiting]) -> None:
        self._running += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._timed, [each.values for each in batch])

        def finish(done: asyncio.Future[tuple[Tensor, float]]) -> None:
            self._running -= 1
            error = done.exception()
            if error is None:
                rows, seconds = done.result()
                self._on_batch(len(batch), seconds)
                for waiting, row in zip(batch, rows, strict=True):
                    if not waiting.row.done():
                        waiting.row.set_result(row)
            else:
                for waiting in batch:
                    if not waiting.row.done():
                        waiting.row.set_exception(error)
            self._start()

        future.add_done_callback(finish)

    def _timed(self, inputs: Sequence[np.ndarray]) -> tuple[Tensor, float]:
        start = perf_counter()
        return self._forward(inputs), perf_counter() - start
