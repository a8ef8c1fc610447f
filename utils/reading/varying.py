"""Training images of more than one size: drawn for each batch, or growing through the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from utils.reading.workers import Transform


class Varying(Protocol):
    """Several transforms, of which one makes the images of a batch."""

    @property
    def transforms(self) -> tuple[Transform, ...]: ...

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Images per batch of one process, by transform."""
        ...

    def of_steps(self, epoch: int, seed: int, images: int) -> np.ndarray:
        """The numbers of the transforms that make an epoch's batches, int (steps,).

        Args:
            epoch: counted from 0.
            seed: of the run.
            images: of the epoch in one process.
        """
        ...


@dataclass(frozen=True)
class Scales:
    """Batches of random sizes (PaddleClas's MultiScaleSampler; Mehta & Rastegari, arXiv:2110.02178, section 4.1).

    The sizes of an epoch's batches are drawn once, and are the same in every epoch, which so has always as many steps.
    The last batch is a whole one.

    Attributes:
        transforms, batch_sizes: see `Varying`.
    """

    transforms: tuple[Transform, ...]
    batch_sizes: tuple[int, ...]

    def of_steps(self, epoch: int, seed: int, images: int) -> np.ndarray:
        rng = np.random.default_rng((seed, len(self.transforms)))
        sizes = np.array(self.batch_sizes)
        drawn = rng.integers(len(sizes), size=-(-images // int(sizes.min())))
        needed = int(np.searchsorted(np.cumsum(sizes[drawn]), images)) + 1
        return drawn[:needed]


@dataclass(frozen=True)
class Stages:
    """A run in parts of about as many epochs, each with a transform of its own (Tan & Le, arXiv:2104.00298).

    Attributes:
        transforms: of the parts.
        batch_size: images per batch of one process.
        num_epochs: of the run.
        drop_last: leave out the images that do not fill a batch.
    """

    transforms: tuple[Transform, ...]
    batch_size: int
    num_epochs: int
    drop_last: bool = True

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return (self.batch_size,) * len(self.transforms)

    def of_steps(self, epoch: int, seed: int, images: int) -> np.ndarray:
        steps = images // self.batch_size if self.drop_last else -(-images // self.batch_size)
        return np.full(steps, stage_of(epoch, self.num_epochs, len(self.transforms)))


def stage_of(epoch: int, num_epochs: int, stages: int) -> int:
    """The part, from 0, that an epoch, from 0, is in if a run has so many parts; as PaddleClas rounds it."""
    return sum(epoch >= num_epochs * (number + 1) // stages for number in range(stages - 1))


def scaled_batches(sizes: Sequence[tuple[int, int]], factor: int, batch_size: int) -> list[tuple[tuple[int, int], int]]:
    """The sizes of --multi_scale, rounded down, and images per batch at each: as many pixels as at the first size.

    Args:
        sizes: heights and widths.
        factor: what heights and widths are rounded down to a multiple of.
        batch_size: images of the first size.
    """
    pixels = sizes[0][0] * sizes[0][1] * batch_size
    rounded = [(height // factor * factor, width // factor * factor) for height, width in sizes]
    return [((height, width), max(1, pixels // (height * width))) for height, width in rounded]
