"""The reader's worker processes: what they are told, what they write into shared memory, how they end."""

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

# Seconds that a forked worker has to come up, which takes it milliseconds, and how many are tried.
PATIENCE = 10.0
ATTEMPTS = 3


class Transform(Protocol):
    """What is done to an image, as `utils.reading.transforms`, `.pipeline` and `.crops` have it."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of what it makes."""
        ...

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """Makes uint8 pixels of an encoded image; raises `UnreadableImage`."""
        ...


@runtime_checkable
class LabellingTransform(Transform, Protocol):
    """A transform that draws the labels of the images, in place of those of their list."""

    def decode_labelled(self, data: bytes, path: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Makes uint8 pixels of an encoded image, and its label; raises `UnreadableImage`."""
        ...


class ImageRandom:
    """The random numbers of each image, by (seed, epoch, image): they depend on neither the worker nor the resume.

    Philox is counter-based (Salmon et al., 2011): the image's place is the upper half of the counter, so no state has
    to be derived from it. Building a generator instead would cost a twentieth of decoding a photograph.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=seed)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def of_image(self, epoch: int, index: int) -> np.random.Generator:
        """The generator of an image, the same object every time, set to that image's numbers."""
        self._state["state"]["counter"][:] = 0, 0, epoch, index
        self._bits.state = self._state
        return self._generator


# From an encoded image, its path and random numbers to pixels and a label.
Decode = Callable[[bytes, str, np.random.Generator], tuple[np.ndarray, int]]


def without_label(decode: Callable[[bytes, str, np.random.Generator], np.ndarray]) -> Decode:
    """A transform's `decode` with the label -1, which stands for the list's."""
    return lambda data, path, rng: (decode(data, path, rng), -1)


@dataclasses.dataclass
class Report:
    """What is said of the files of a task, each by its place in the list.

    Attributes:
        unreadable: why a file was left out, or replaced.
        damaged: what its decoder said of one that it decoded all the same.
        contents: what one has beside colours of 8 bits.
    """

    unreadable: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    damaged: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    contents: list[tuple[int, Content]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Job:
    """What a worker needs to fill rows of batches; everything large in it is shared memory.

    Attributes:
        transforms: of which each batch has one.
        slots: uint8 (slots, bytes), the batches being made; see `pixels`.
        indices: int64 (slots, batch): the images wanted, plus the length of the list for each time that one comes
            again, with other random numbers; and when the rows are done those that are there (-1: none).
        labels: int64 (slots, batch): what a transform drew to be the images' labels, where it does; see `Pipeline`.
        generation: int64 (1,): tasks of another generation belong to an epoch that was given up, and are skipped.
        sizes: int32 (images of the list, 2), where the heights and widths of the files' images are noted; None:
            nowhere. It takes a transform that has `decode_whole`.
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
        """The first `count` images of a slot, uint8 (count, height, width, 3), of the size that a transform makes."""
        shape = (count, *self.transforms[transform].image_size, 3)
        return self.slots.array[slot, : math.prod(shape)].reshape(shape)

    def fill(self, slot: int, start: int, stop: int, epoch: int, look: bool = False, transform: int = 0) -> Report:
        """Makes rows start..stop of a batch by one of the transforms; with `look`, what files have beside colours of 8
        bits is looked at."""
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
        """The wanted image, its pixels and its drawn label; if it is unreadable: in training another one, in evaluation
        (-1, None)."""
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
        """What the transform of an evaluation makes of an image, whose size is noted; raises `UnreadableImage`."""
        (transform,) = self.transforms
        assert self.sizes is not None and isinstance(transform, EvalTransform), "training decodes parts of images"
        whole = transform.decode_whole(data, path)
        self.sizes.array[index] = whole.shape[:2]
        return transform(whole)

    def _candidates(self, wanted: int) -> Iterator[int]:
        """The wanted image, then in training others spread over the list, always the same for the same image."""
        yield wanted
        if self.training:
            count = len(self.images)
            stride = max(1, int(count * 0.618))
            while math.gcd(stride, count) > 1:
                stride += 1
            for step in range(1, min(count, 1000)):
                yield (wanted + step * stride) % count


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """Ends this worker when its parent has ended, however that came."""
    parent.join()
    os._exit(1)


def work(
    up: multiprocessing.synchronize.Semaphore | None,
    job: Job,
    tasks: multiprocessing.SimpleQueue,
    results: connection.Connection,
    results_lock: multiprocessing.synchronize.Lock,
) -> None:
    """A worker process: says that it is up, takes tasks, fills rows, reports. Runs until it is killed."""
    ignore_interrupts()
    if up is not None:
        up.release()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    cv2.setNumThreads(0)  # the workers are the parallelism
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
    """Starts a process that does `work(..., *arguments)`, and appends it to `processes`.

    A fork copies locks as they are. One of the interpreter's that another thread holds at that moment (PyTorch's, which
    tidies up after a collective) is never released in the copy, which then waits for ever before it runs a line
    (Python 3.11 and before). Such a worker is given up, and another one started.

    Raises:
        UserError: no worker comes up.
    """
    for _ in range(ATTEMPTS):
        # A spawned worker has no such locks, and takes its time to come up.
        up = context.Semaphore(0) if context.get_start_method() == "fork" else None
        process = context.Process(target=work, args=(up, *arguments), daemon=True)
        processes.append(process)  # before it starts: whatever comes in between, it will be ended
        # Who stops a run often tells its whole process group. What that means is the main process's to decide, and it
        # may need one more batch: the workers are deaf to it, from their first moment on.
        with signals_kept_from_children(signal.SIGINT, signal.SIGTERM), without_script():
            process.start()
        if up is None or up.acquire(timeout=PATIENCE):
            return
        terminate([process])
        processes.remove(process)
    raise UserError(
        f"no reader worker came up within {PATIENCE:g} seconds, {ATTEMPTS} times over: lower --reader_thread, or free "
        "the machine of other work"
    )


def terminate(processes: list[multiprocessing.process.BaseProcess]) -> None:
    """Ends worker processes, and waits until they have ended."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.kill()
    for process in started:
        process.join()


def terminate_with(owner: object, processes: list[multiprocessing.process.BaseProcess]) -> Callable[[], None]:
    """Has worker processes ended when the object is freed, or at exit; returns what ends them at once.

    At exit before multiprocessing ends what is left: it would wait for ever for SIGTERM to do so.
    """
    return util.Finalize(owner, terminate, args=(processes,), exitpriority=10)
