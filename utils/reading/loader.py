"""Batches of a list of images: which images, and in what order."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import torch

from utils.errors import UserError
from utils.reading.balance import balanced_order
from utils.reading.content import Content
from utils.reading.image_list import ImageList
from utils.reading.varying import Varying
from utils.reading.workers import LabellingTransform, Transform
from utils.system import usable_processors


@dataclasses.dataclass
class Batch:
    """A batch from the loader.

    Attributes:
        images: uint8 (n, height, width, 3), RGB.
        labels: int64 (n,); -1 without a label.
        indices: int64 (n,), the images' positions in the list.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def available_processors() -> int:
    """Processors that this process may use; with several training processes on this machine, its share."""
    return max(1, usable_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class Loader:
    """The batches of a list of images. This class chooses the images; subclasses make the pixels.

    Training: shuffled by (seed, epoch); every process gets the same number of full batches, and the images left over at
    the end of an epoch are dropped, as in the original, or make a smaller batch, filled up with the first images so
    that all processes get equally many. The sequence of global batches depends on the seed, the epoch and batch_size *
    world_size, but not on world_size, `workers` or the step at which an epoch is resumed.

    Evaluation: in order; over all processes, each image appears exactly once. Processes may get different numbers of
    batches, and the last batch may be smaller.

    Args:
        images: the list.
        transform: what is done to an image.
        batch_size: images per batch in this process.
        training: see above.
        workers: worker processes or threads, at most one per processor.
        read_ahead_images: images to prepare in advance.
        seed: for shuffling and for `transform`.
        rank, world_size: this process among those that share the list.
        pin_memory: whether batches are for a GPU.
        drop_last: training: drop the images that do not fill a batch.
        shuffle: training: use a new random order each epoch instead of the list's.
        repeats: training: how often an image appears, with different random numbers, in an epoch of unchanged length
            (repeated augmentation, Hoffer et al., arXiv:1901.09335, as in DeiT: in multiples of 256 images).
        balance: training: sample images by class, with this power (see `utils.reading.balance.balanced_order`); None:
            each image appears once.
        varying: training: alternating transforms instead of `transform`. With batch sizes other than `batch_size`, the
            first images fill up the last batch, and `drop_last` has no effect.

    Attributes:
        transforms: `transform`, or those in `varying`.
        batch_sizes: images per batch in this process, by transform.
        unreadable: path -> reason, of unreadable images found so far in this process.
        damaged: path -> decoder's message, of damaged but decodable ones.
        contents: path -> content beyond 8-bit colours, if any, from the first epoch.

    Raises:
        UserError: the list is empty or, in training, smaller than a batch.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Transform,
        batch_size: int,
        training: bool,
        workers: int = 8,
        read_ahead_images: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        drop_last: bool = True,
        shuffle: bool = True,
        repeats: int = 1,
        balance: float | None = None,
        varying: Varying | None = None,
    ) -> None:
        if not len(images):
            raise UserError("the list of images is empty")
        self.images = images
        self.transform = transform
        self.batch_size = batch_size
        self.transforms = (transform,) if varying is None else varying.transforms
        self.batch_sizes = (batch_size,) if varying is None else varying.batch_sizes
        self.training = training
        self.workers = min(workers, available_processors())
        self.read_ahead_images = read_ahead_images
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.repeats = repeats
        self.balance = balance
        self._varying = varying
        self.unreadable: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self.contents: dict[str, Content] = {}
        smallest = min(self.batch_sizes) * world_size
        if training and drop_last and self.count < smallest:
            raise UserError(
                f"--batch_size {batch_size * world_size} is larger than the {self.count} training images: lower it"
            )

    @property
    def count(self) -> int:
        """Images of an epoch, over all processes."""
        images = len(self.images)
        return images // 256 * 256 or images if self.training and self.repeats > 1 else images

    def __len__(self) -> int:
        """Steps per epoch in this process."""
        if self._varying is not None:
            return len(self.transforms_of(0))
        if self.training:
            steps, rest = divmod(self.count, self.batch_size * self.world_size)
            return steps + bool(rest and not self.drop_last)
        return -(-len(range(self.rank, len(self.images), self.world_size)) // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start_step` on. A new epoch ends an unfinished one.

        Raises:
            UserError: a worker was killed, or in training no image can be read. In evaluation the caller, which knows
                of the other processes, decides: `utils.console.check_readable`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the workers. A later epoch starts new ones."""

    def transforms_of(self, epoch: int) -> np.ndarray:
        """The index of each step's transform, int (steps,)."""
        if self._varying is None:
            return np.zeros(len(self), np.int64)
        return self._varying.of_steps(epoch, self.seed, -(-self.count // self.world_size))

    def _steps(self, epoch: int, start_step: int) -> Iterator[tuple[int, np.ndarray]]:
        """For each step of this process the transform's index and the images: int (batch size,) or, at the end of an
        epoch, fewer.
        """
        chosen = self.transforms_of(epoch)
        sizes = np.array(self.batch_sizes)[chosen]
        ends = np.cumsum(sizes)
        order = self._order(epoch) if self.training else np.arange(self.rank, self.count, self.world_size)
        for step in range(start_step, len(chosen)):
            size = int(sizes[step])
            rows = (
                self._share(order, int(ends[step]) - size, size) if self.training else order[ends[step] - size :][:size]
            )
            yield int(chosen[step]), rows

    def _share(self, order: np.ndarray, start: int, size: int) -> np.ndarray:
        """This process's images in a training step, `size` of them or, in the last step, fewer; `start` images come
        before.
        """
        rows = order[start * self.world_size : (start + size) * self.world_size]
        whole = size if len(set(self.batch_sizes)) > 1 else -(-len(rows) // self.world_size)
        rows = np.concatenate((rows, np.resize(order, whole * self.world_size - len(rows))))
        return rows.reshape(self.world_size, -1)[self.rank]

    def _order(self, epoch: int) -> np.ndarray:
        """The images of a training epoch, as in `Job.indices`. Repeats of an image are adjacent, so that the processes
        get them at the same time.
        """
        images = len(self.images)
        if self.balance is not None:
            return balanced_order(self.images.labels, self.balance, self.seed, epoch)
        order = self.images.shuffled(self.seed, epoch) if self.shuffle else np.arange(images)
        if self.repeats == 1:
            return order
        again = images * np.arange(self.repeats)
        return (order.astype(np.int64)[:, None] + again).reshape(-1)[: self.count]

    def _batch(self, images: torch.Tensor, indices: np.ndarray, drawn: np.ndarray | None = None) -> Batch:
        """A batch; its labels come from the transform if it sets them, else from the list."""
        if drawn is None or not isinstance(self.transform, LabellingTransform):
            drawn = self.images.labels[indices].astype(np.int64)
        labels = torch.from_numpy(drawn)
        return Batch(images, labels.pin_memory() if self.pin_memory else labels, torch.from_numpy(indices))
