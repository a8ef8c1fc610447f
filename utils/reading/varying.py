"""Training with several image sizes: random per batch, or growing during the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from utils.reading.workers import Transform


class Varying(Protocol):
    """Several transforms, one of which makes the images of a batch."""

    @property
    def transforms(self) -> tuple[Transform, ...]: ...

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Images per batch of one process, by transform."""
        ...

    def of_steps(self, epoch: int, seed: int, images: int) -> np.ndarray:
        """The index of each batch's transform in an epoch, int (steps,).

        Args:
            epoch: counted from 0.
            seed: of the run.
            images: of the epoch in one process.
        """
        ...


@dataclass(frozen=True)
class Scales:
    """Batches of random sizes (PaddleClas's MultiScaleSampler; Mehta & Rastegari, arXiv:2110.02178, section 4.1).

    The batch sizes are drawn once and are the same in every epoch, so epochs have equally many steps. The last batch is
    full.

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
    """A run in parts of about equal length, each with its own transform (Tan & Le, arXiv:2104.00298).

    Attributes:
        transforms: one per part.
        batch_size: images per batch of one process.
        num_epochs: of the run.
        drop_last: drop the images that do not fill a batch.
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
    """The part of an epoch, both counted from 0, for a number of parts; rounded as in PaddleClas."""
    return sum(epoch >= num_epochs * (number + 1) // stages for number in range(stages - 1))


def scaled_batches(sizes: Sequence[tuple[int, int]], factor: int, batch_size: int) -> list[tuple[tuple[int, int], int]]:
    """The sizes of --multi_scale, rounded down, and images per batch at each, for about the same number of pixels.

    Args:
        sizes: heights and widths.
        factor: round heights and widths down to multiples of this.
        batch_size: for the first size.
    """
    pixels = sizes[0][0] * sizes[0][1] * batch_size
    rounded = [(height // factor * factor, width // factor * factor) for height, width in sizes]
    return [((height, width), max(1, pixels // (height * width))) for height, width in rounded]
