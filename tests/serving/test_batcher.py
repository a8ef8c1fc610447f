"""Batches: which inputs share one, which wait, and what happens to errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.serving.batcher import Batcher

HANG = 60  # seconds that only a hang reaches


class Engine:
    """Doubles its inputs when allowed to; records the sizes of batches."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, inputs: Sequence[np.ndarray]) -> Tensor:
        self.sizes.append(len(inputs))
        assert self.may.wait(HANG)
        if any(each[0] < 0 for each in inputs):
            raise ValueError("below zero")
        return torch.from_numpy(np.stack(inputs)) * 2


def value(number: float) -> np.ndarray:
    return np.array([number], np.float32)


def test_what_comes_while_the_engine_computes_shares_batches():
    engine = Engine()

    async def ask() -> list[float]:
        batcher = Batcher(engine, 4, HANG)
        tasks = [asyncio.ensure_future(batcher(value(number))) for number in range(7)]
        await asyncio.sleep(0)
        engine.may.set()
        return [row.item() for row in await asyncio.wait_for(asyncio.gather(*tasks), HANG)]

    assert asyncio.run(ask()) == [2.0 * number for number in range(7)]
    assert engine.sizes == [1, 4, 2]  # nothing else was on its way, then a full batch, then the rest


def test_it_waits_for_an_input_that_is_on_its_way():
    engine = Engine()
    engine.may.set()

    async def ask() -> None:
        batcher = Batcher(engine, 4, HANG)
        with batcher.expecting():
            first = asyncio.ensure_future(batcher(value(1)))
            await asyncio.sleep(0.01)
            assert not engine.sizes and batcher.waiting == 1
        await asyncio.wait_for(first, HANG)  # and no longer than that

    asyncio.run(ask())
    assert engine.sizes == [1]


def test_it_waits_no_longer_than_it_may():
    engine = Engine()
    engine.may.set()

    async def ask() -> None:
        batcher = Batcher(engine, 4, 0.01)
        with batcher.expecting():
            await asyncio.wait_for(batcher(value(1)), HANG)

    asyncio.run(ask())


def test_an_error_is_that_of_its_batch_alone():
    engine = Engine()
    engine.may.set()

    async def ask() -> None:
        batcher = Batcher(engine, 1, 0)
        bad, good = await asyncio.gather(batcher(value(-1)), batcher(value(1)), return_exceptions=True)
        assert isinstance(bad, ValueError) and isinstance(good, Tensor)

    asyncio.run(ask())


def test_who_has_gone_is_not_computed():
    engine = Engine()

    async def ask() -> None:
        batcher = Batcher(engine, 4, HANG)
        first = asyncio.ensure_future(batcher(value(1)))
        gone = asyncio.ensure_future(batcher(value(2)))
        last = asyncio.ensure_future(batcher(value(3)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        engine.may.set()
        await asyncio.wait_for(asyncio.gather(first, last), HANG)
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(ask())
    assert engine.sizes == [1, 1]
