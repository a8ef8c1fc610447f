"""Batches made by worker processes."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import weakref
from collections import deque
from collections.abc import Iterator
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from utils.console import warn
from utils.errors import UserError
from utils.reading.loader import Batch, Loader
from utils.reading.shared_array import SharedArray
from utils.reading.workers import Job, Report, start_worker, terminate_with

if TYPE_CHECKING:
    import multiprocessing.process

# The images of a batch, their indices, and the labels set by the transform.
Made = tuple[torch.Tensor, np.ndarray, np.ndarray]


class OpenCVLoader(Loader):
    """Batches made by worker processes with OpenCV; see `Loader`. Without workers, this process makes them.

    In training, an unreadable image is replaced by another one from the list; in evaluation it is left out.

    The workers start with the first epoch and stay. A batch's images are borrowed memory written by the workers
    (page-locked if for a GPU): once the tensor is freed and the copies queued by then on the current CUDA stream are
    done, the memory is reused for another batch. At least three batches are ready, in the making or with the caller;
    four for a GPU.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # One batch in use, one on its way to the GPU if any, one ready, one being made. Tasks are messages in a pipe,
        # so their number must be limited.
        least = 4 if self.pin_memory else 3
        batch = max(self.batch_sizes)
        slots = max(least, min(256, len(self), self.read_ahead_images // batch)) if self.workers else 1
        share = -(-batch // (2 * max(1, self.workers)))
        self._task_size = max(1, min(16, share), slots * batch // 512)
        bytes_of = [
            math.prod((count, *t.image_size, 3)) for t, count in zip(self.transforms, self.batch_sizes, strict=True)
        ]
        self._job = Job(
            self.images,
            self.transforms,
            self.training,
            self.seed,
            SharedArray((slots, max(bytes_of)), np.uint8),
            SharedArray((slots, batch), np.int64),
            SharedArray((slots, batch), np.int64),
            SharedArray((1,), np.int64),
        )
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._stop_workers = terminate_with(self, self._processes)
        self._tasks_left = [0] * slots
        self._page_locked = False
        # Whether an earlier epoch was completed with its files examined; whether this one examines them.
        self._looked = self._look = False
        # Slots whose batch the caller holds; freed slots; freed slots whose copy to the GPU may be pending.
        self._lent: set[int] = set()
        self._returned: deque[int] = deque()
        self._being_copied: deque[tuple[torch.cuda.Event, list[int]]] = deque()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        steps = self._steps(epoch, start_step)
        self._job.generation.array[0] += 1
        generation = int(self._job.generation.array[0])
        self._look = not self._looked
        try:
            for images, indices, labels in (self._made_by_workers if self.workers else self._made_here)(steps, epoch):
                there = indices >= 0
                if not there.all():
                    images, indices, labels = images[torch.from_numpy(there)], indices[there], labels[there]
                if not len(indices):
                    continue
                yield self._batch(images, indices, labels)
                if generation != self._job.generation.array[0]:
                    raise RuntimeError("a later call of epoch() ended this epoch's iterator")
            self._looked = True
        except UserError:
            self.close()
            raise
        finally:
            if generation == self._job.generation.array[0]:
                self._job.generation.array[0] += 1  # queued tasks are obsolete

    def note_sizes(self) -> np.ndarray:
        """Records the images' heights and widths from the next epoch on; only for evaluation with one crop per image.

        Returns:
            int32 (images of the list, 2), filled gradually; 0 for unread images.
        """
        self._job.sizes = SharedArray((len(self.images), 2), np.int32)
        return self._job.sizes.array

    def close(self) -> None:
        self._stop_workers()
        self._processes = []
        self._stop_workers = terminate_with(self, self._processes)

    def _made_here(self, steps: Iterator[tuple[int, np.ndarray]], epoch: int) -> Iterator[Made]:
        """(images, indices, labels) of each step, made in this process."""
        indices, labels = self._job.indices.array[0], self._job.labels.array[0]
        for transform, rows in steps:
            count = len(rows)
            indices[:count] = rows
            self._note(self._job.fill(0, 0, count, epoch, self._look, transform))
            pixels = torch.from_numpy(self._job.pixels(0, transform, count).copy())
            yield pixels, indices[:count].copy(), labels[:count].copy()

    def _made_by_workers(self, steps: Iterator[tuple[int, np.ndarray]], epoch: int) -> Iterator[Made]:
        """(images, indices, labels) of each step, made by the workers, as many steps ahead as there are slots."""
        self._start()
        while any(self._tasks_left):  # of an abandoned epoch
            self._receive()
        self._free = [slot for slot in range(len(self._tasks_left)) if slot not in self._lent]
        ahead: deque[tuple[int, int, int]] = deque()
        while True:
            self._take_back()
            for slot, (transform, rows) in zip(self._free.copy(), steps, strict=False):
                self._free.remove(slot)
                self._submit(slot, transform, rows, epoch)
                ahead.append((slot, transform, len(rows)))
            if not ahead:
                return
            slot, transform, count = ahead.popleft()
            while self._tasks_left[slot]:
                self._receive()
            indices, labels = (
                array[slot, :count].copy() for array in (self._job.indices.array, self._job.labels.array)
            )
            yield self._lend(slot, transform, count), indices, labels

    def _start(self) -> None:
        """Starts the workers, unless they are running."""
        if self._processes:
            return
        context = multiprocessing.get_context()
        self._tasks = context.SimpleQueue()
        # The sending end and its lock must outlive this call: a spawned worker opens them when it starts.
        self._results, *self._reporting = *context.Pipe(duplex=False), context.Lock()
        self._tasks_left = [0] * len(self._tasks_left)
        # A forked worker must not collect this process's garbage: objects with threads (a DALI pipeline) would wait for
        # threads that do not exist there.
        gc.freeze()
        try:
            for _ in range(self.workers):
                start_worker(self._processes, context, self._job, self._tasks, *self._reporting)
        finally:
            gc.unfreeze()
        if self.pin_memory and not self._page_locked:
            self._lock_pages()

    def _lock_pages(self) -> None:
        """Page-locks the slots, so that a GPU copies straight from them."""
        slots = self._job.slots.array
        cuda: Any = torch.cuda.cudart()
        error = int(cuda.cudaHostRegister(slots.ctypes.data, slots.nbytes, 0))
        if error:
            warn(f"the reader's memory cannot be page-locked (CUDA error {error}): copies to the GPU will be slower")
            with contextlib.suppress(RuntimeError):  # CUDA reports the error again in the next kernel: trigger it here
                torch.zeros(1, device="cuda")
        else:
            weakref.finalize(self, cuda.cudaHostUnregister, slots.ctypes.data)
        self._page_locked = True

    def _submit(self, slot: int, transform: int, rows: np.ndarray, epoch: int) -> None:
        """Lets the workers make a batch by one of the transforms."""
        self._job.indices.array[slot, : len(rows)] = rows
        generation = int(self._job.generation.array[0])
        for start in range(0, len(rows), self._task_size):
            stop = min(start + self._task_size, len(rows))
            self._tasks.put((generation, slot, start, stop, epoch, self._look, transform))
            self._tasks_left[slot] += 1

    def _receive(self) -> None:
        """Waits for a worker's report."""
        ready = connection.wait([self._results, *(process.sentinel for process in self._processes)])
        if self._results not in ready:
            dead = next(process for process in self._processes if process.sentinel in ready)
            dead.join()
            code = dead.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise UserError(f"a reader worker was {how}; if memory ran out, lower --reader_buf_size or --reader_thread")
        slot, report, failure = self._results.recv()
        self._tasks_left[slot] -= 1
        self._note(report)
        if failure:
            raise failure

    def _note(self, report: Report) -> None:
        self.unreadable |= {self.images.path(index): why for index, why in report.unreadable}
        self.damaged |= {self.images.path(index): said for index, said in report.damaged}
        self.contents |= {self.images.path(index): content for index, content in report.contents}

    def _lend(self, slot: int, transform: int, count: int) -> torch.Tensor:
        """The first `count` images of a slot, which returns when the tensor is freed."""
        rows = self._job.pixels(slot, transform, count)
        if len(self._lent) + 2 > len(self._tasks_left):
            # If the caller keeps many batches (list(loader.epoch(0))), leave the workers a slot to write into.
            self._free.append(slot)
            return torch.from_numpy(rows.copy())
        self._lent.add(slot)
        weakref.finalize(rows, self._returned.append, slot)  # the tensor below keeps `rows` alive
        return torch.from_numpy(rows)

    def _take_back(self) -> None:
        """Makes returned slots free again."""
        slots = [self._returned.popleft() for _ in range(len(self._returned))]
        if self.pin_memory:
            if slots:
                copied = torch.cuda.Event()
                copied.record()
                self._being_copied.append((copied, slots))
            slots = []
            while self._being_copied and self._being_copied[0][0].query():
                slots += self._being_copied.popleft()[1]
        self._lent.difference_update(slots)
        self._free += slots
