"""The reader's worker processes: their tasks, their results in shared memory, and their end."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import connection, util
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import cv2
import numpy as np

from utils.errors import UserError
from utils.reading.codec_messages import LISTENING
from utils.reading.content import Content, examine
from utils.reading.decode import UnreadableImage, take_remarks
from utils.reading.image_list import ImageList, SharedArray
from utils.reading.transforms import EvalTransform
from utils.system import ignore_interrupts, signals_kept_from_children, without_script

if TYPE_CHECKING:
    import multiprocessing.context
    import multiprocessing.process
    import multiprocessing.synchronize

# Seconds for a forked worker to start, which takes milliseconds, and the number of attempts.
PATIENCE = 10.0
ATTEMPTS = 3


class Transform(Protocol):
    """The interface of the transforms in `utils.reading.transforms`, `.pipeline` and `.crops`."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its result."""
        ...

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """Converts an encoded image to uint8 pixels; raises `UnreadableImage`."""
        ...


@runtime_checkable
class LabellingTransform(Transform, Protocol):
    """A transform that sets the images' labels, instead of the list."""

    def decode_labelled(self, data: bytes, path: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Converts an encoded image to uint8 pixels and a label; raises `UnreadableImage`."""
        ...


class ImageRandom:
    """The random numbers of each image, from (seed, epoch, image), independent of worker and resuming.

    Philox is counter-based (Salmon et al., 2011): the image's index is the upper half of the counter, which needs no
    seeding. Building a generator instead would cost a twentieth of decoding a photograph.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=seed)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def of_image(self, epoch: int, index: int) -> np.random.Generator:
        """The generator, always the same object, set to an image's numbers."""
        self._state["state"]["counter"][:] = 0, 0, epoch, index
        self._bits.state = self._state
        return self._generator


# Maps an encoded image, its path and random numbers to pixels and a label.
Decode = Callable[[bytes, str, np.random.Generator], tuple[np.ndarray, int]]


def without_label(decode: Callable[[bytes, str, np.random.Generator], np.ndarray]) -> Decode:
    """A transform's `decode` with the label -1, which means the list's label."""
    return lambda data, path, rng: (decode(data, path, rng), -1)


@dataclasses.dataclass
class Report:
    """The report on a task's files, by list index.

    Attributes:
        unreadable: why a file was skipped or replaced.
        damaged: the decoder's message for a damaged but decoded file.
        contents: content beyond 8-bit colours.
    """

    unreadable: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    damaged: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    contents: list[tuple[int, Content]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Job:
    """The data a worker needs to fill rows of batches; all large parts are shared memory.

    Attributes:
        transforms: each batch uses one.
        slots: uint8 (slots, bytes), the batches in the making; see `pixels`.
        indices: int64 (slots, batch): the requested images, plus the list's length for each repeat of an image, which
            gets other random numbers; after the rows are done, the images present (-1: none).
        labels: int64 (slots, batch): labels set by the transform, if it does; see `Pipeline`.
        generation: int64 (1,): tasks of another generation belong to an abandoned epoch and are skipped.
        sizes: int32 (images of the list, 2), to record the images' heights and widths; None: not recorded. It needs a
            transform with `decode_whole`.
    """

    images: ImageList
    transforms: tuple[Transform, ...]
    training: bool
    seed: int
    slots: SharedArray
    indices: SharedArray
    labels: SharedArray
    generation: SharedArray
    sizes: SharedArray | None = None

    def __post_init__(self) -> None:
        self.random = ImageRandom(self.seed)

    def pixels(self, slot: int, transform: int, count: int) -> np.ndarray:
        """The first `count` images of a slot, uint8 (count, height, width, 3), in the transform's size."""
        shape = (count, *self.transforms[transform].image_size, 3)
        return self.slots.array[slot, : math.prod(shape)].reshape(shape)

    def fill(self, slot: int, start: int, stop: int, epoch: int, look: bool = False, transform: int = 0) -> Report:
        """Makes rows start..stop of a batch by one of the transforms; `look`: also examine content beyond 8-bit
        colours.
        """
        report = Report()
        rows, chosen = self.pixels(slot, transform, stop), self.transforms[transform]
        decode = chosen.decode_labelled if isinstance(chosen, LabellingTransform) else without_label(chosen.decode)
        self.images.expect(int(wanted) % len(self.images) for wanted in self.indices.array[slot, start:stop])
        with LISTENING:
            for row in range(start, stop):
                wanted = int(self.indices.array[slot, row])
                rng = self.random.of_image(epoch, wanted)
                index, made = self._readable(decode, wanted % len(self.images), rng, report, look)
                self.indices.array[slot, row] = index
                if made is not None:
                    rows[row], self.labels.array[slot, row] = made
        return report

    def _readable(
        self, decode: Decode, wanted: int, rng: np.random.Generator, report: Report, look: bool
    ) -> tuple[int, tuple[np.ndarray, int] | None]:
        """The requested image, its pixels and its label; if unreadable, another image in training, (-1, None) in
        evaluation.
        """
        problems = report.unreadable
        for index in self._candidates(wanted):
            try:
                data = self.images.read(index)
                if self.sizes is not None:
                    decode = without_label(partial(self._measured, index))
                made = decode(data, self.images.path(index), rng)
            except UnreadableImage as error:
                problems.append((index, error.reason))
            except cv2.error as error:
                if error.code == cv2.Error.StsNoMem:  # the machine's fault, not the image's
                    raise MemoryError(error.err) from None
                problems.append((index, f"OpenCV cannot process it: {error.err}"))
            else:
                report.damaged += [(index, said) for _, said in take_remarks()]
                if look and (content := examine(data)) is not None:
                    report.contents.append((index, content))
                return index, made
        if self.training:
            raise UserError(
                f"no readable image among the {len(problems)} tried; "
                f"the first: {self.images.path(problems[0][0])}: {problems[0][1]}"
            )
        return -1, None

    def _measured(self, index: int, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """Applies an evaluation transform, and records the image's size; raises `UnreadableImage`."""
        (transform,) = self.transforms
        assert self.sizes is not None and isinstance(transform, EvalTransform), "only evaluation records sizes"
        whole = transform.decode_whole(data, path)
        self.sizes.array[index] = whole.shape[:2]
        return transform(whole)

    def _candidates(self, wanted: int) -> Iterator[int]:
        """The requested image, then in training others spread over the list, always the same for the same image."""
        yield wanted
        if self.training:
            count = len(self.images)
            stride = max(1, int(count * 0.618))
            while math.gcd(stride, count) > 1:
                stride += 1
            for step in range(1, min(count, 1000)):
                yield (wanted + step * stride) % count


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """Ends this worker when its parent has ended for any reason."""
    parent.join()
    os._exit(1)


def work(
    up: multiprocessing.synchronize.Semaphore | None,
    job: Job,
    tasks: multiprocessing.SimpleQueue,
    results: connection.Connection,
    results_lock: multiprocessing.synchronize.Lock,
) -> None:
    """A worker process: reports its start, takes tasks, fills rows, reports results. Runs until it is killed."""
    ignore_interrupts()
    if up is not None:
        up.release()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    cv2.setNumThreads(0)  # workers already run in parallel
    while True:
        generation, slot, start, stop, epoch, look, transform = tasks.get()
        report, failure = Report(), None
        if generation == job.generation.array[0]:
            try:
                report = job.fill(slot, start, stop, epoch, look, transform)
            except (UserError, MemoryError) as error:
                failure = error
            except Exception:
                failure = RuntimeError("in a reader worker:\n" + traceback.format_exc())
        with results_lock:
            results.send((slot, report, failure))


def start_worker(
    processes: list[multiprocessing.process.BaseProcess],
    context: multiprocessing.context.DefaultContext,
    *arguments: object,
) -> None:
    """Starts a process that runs `work(..., *arguments)`, and appends it to `processes`.

    A fork copies locks in their current state. An interpreter lock that another thread holds at that moment (such as
    PyTorch's thread cleaning up after a collective) is never released in the copy, which then waits forever before it
    runs a line (up to Python 3.11). Such a worker is abandoned, and another one started.

    Raises:
        UserError: no worker starts.
    """
    for _ in range(ATTEMPTS):
        # A spawned worker has no such locks, and starts slowly.
        up = context.Semaphore(0) if context.get_start_method() == "fork" else None
        process = context.Process(target=work, args=(up, *arguments), daemon=True)
        processes.append(process)  # before it starts, so that it is ended whatever happens
        # Stop signals often go to the whole process group. The main process decides what to do, and may need one more
        # batch, so the workers ignore them from their first moment on.
        with signals_kept_from_children(signal.SIGINT, signal.SIGTERM), without_script():
            process.start()
        if up is None or up.acquire(timeout=PATIENCE):
            return
        terminate([process])
        processes.remove(process)
    raise UserError(
        f"no reader worker started within {PATIENCE:g} seconds in {ATTEMPTS} attempts: lower --reader_thread, or "
        "reduce the load on this machine"
    )


def terminate(processes: list[multiprocessing.process.BaseProcess]) -> None:
    """Ends worker processes and waits for them."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.kill()
    for process in started:
        process.join()


def terminate_with(owner: object, processes: list[multiprocessing.process.BaseProcess]) -> Callable[[], None]:
    """Ends worker processes when the object is freed, or at exit; returns a function that ends them at once.

    At exit this runs before multiprocessing's cleanup, which would wait forever for SIGTERM to work.
    """
    return util.Finalize(owner, terminate, args=(processes,), exitpriority=10)
