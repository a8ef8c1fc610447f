"""From image files to batches, for train.py, eval.py, infer.py and predict.py: the OpenCV pipeline, in worker
processes, and the DALI pipeline, behind one interface.

    images = open_dataset("data/ILSVRC2012", "train", class_dim=1000)
    loader = OpenCVLoader(images, TrainTransform((224, 224)), batch_size=64, training=True, workers=8, seed=0)
    for batch in loader.epoch(0):
        inputs = normalize(batch.images.to(device, non_blocking=True), mean, std)

As a script it shows what the network sees, or checks a dataset:

    python reader.py --data_dir=data/ILSVRC2012 --use_aa=True --show=grid.png
    python reader.py --data_dir=data/ILSVRC2012 --check

Images are uint8, RGB, height x width x channels from the file to the device; `normalize` turns a batch into what a
network takes, on the device. Nothing else touches pixel values, so training's validation, eval.py, infer.py and
predict.py see the same numbers for the same image.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import connection

import cv2
import numpy as np
import torch

from utils import augment
from utils.augment import ImageOperation
from utils.crops import MultiCropTransform
from utils.decode import (
    Jpeg,
    UnreadableImage,
    decode,
    decode_region,
    decode_rows,
    parse_jpeg,
    read_image,
)
from utils.errors import FlagError, UserError, run_script
from utils.flags import parse
from utils.image_list import ImageList, SharedArray, open_dataset
from utils.logger import warn

__all__ = [
    "Batch",
    "DaliLoader",
    "EvalTransform",
    "ImageList",
    "Loader",
    "OpenCVLoader",
    "TrainTransform",
    "UnreadableImage",
    "decode",
    "eval_transform",
    "normalize",
    "open_dataset",
    "random_crop_box",
    "read_image",
    "train_loader",
    "train_transform",
    "val_loader",
]

# Flag numbering of --interpolation; None is bilinear.
INTERPOLATIONS = {
    None: cv2.INTER_LINEAR,
    0: cv2.INTER_NEAREST,
    1: cv2.INTER_LINEAR,
    2: cv2.INTER_CUBIC,
    3: cv2.INTER_AREA,
    4: cv2.INTER_LANCZOS4,
}


# ---------------------------------------------------------------------------------------------------- one image


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Evaluation preprocessing: short side to `resize_short_size`, then the centre crop.

    Attributes:
        image_size: height and width of the crop.
        resize_short_size: length of the short side before the crop.
        interpolation: a key of `INTERPOLATIONS`.
    """

    image_size: tuple[int, int]
    resize_short_size: int = 256
    interpolation: int | None = None

    def __post_init__(self) -> None:
        if self.resize_short_size < max(self.image_size):
            raise FlagError(
                f"--resize_short_size {self.resize_short_size} is smaller than the image "
                f"{self.image_size[0]} x {self.image_size[1]} of --image_shape: the crop would not fit"
            )

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Resizes and crops `rgb`, uint8 (h, w, 3), to `image_size`. Nothing is random: `rng` is not used."""
        height, width = rgb.shape[:2]
        if max(height, width) > 16 * min(height, width):
            # A strip: its far ends are not in the crop, and would take gigabytes to resize.
            top, left = (max(0, side - 16 * min(height, width)) // 2 for side in (height, width))
            return self(rgb[top : height - top, left : width - left][: 16 * width, : 16 * height])
        scale = self.resize_short_size / min(height, width)
        size = round(width * scale), round(height * scale)
        resized = cv2.resize(rgb, size, interpolation=INTERPOLATIONS[self.interpolation])
        top = (size[1] - self.image_size[0]) // 2
        left = (size[0] - self.image_size[1]) // 2
        return resized[top : top + self.image_size[0], left : left + self.image_size[1]]

    def decode(self, data: bytes, path: str, rng: np.random.Generator | None = None) -> np.ndarray:
        """The same from an encoded image; raises `UnreadableImage`."""
        return self(decode(data, path))


def random_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    lower_scale: float = 0.08,
    lower_ratio: float = 3 / 4,
    upper_ratio: float = 4 / 3,
) -> tuple[int, int, int, int]:
    """Draws the box of a training crop, as the original does.

    The sides are side * a and side / a with a = sqrt(U(lower_ratio, upper_ratio)); side^2 is a share of the image's
    area drawn from U(lower_scale, 1), both ends of which are lowered to the largest share that fits this aspect
    ratio. The position is uniform.

    Returns:
        top, left, height, width.
    """
    ratio_draw, share_draw, top_draw, left_draw = rng.random(4)
    aspect = math.sqrt(lower_ratio + (upper_ratio - lower_ratio) * ratio_draw)
    largest = min(width / height / aspect**2, height / width * aspect**2)
    smallest = min(lower_scale, largest)
    side = math.sqrt(height * width * (smallest + (min(1.0, largest) - smallest) * share_draw))
    # Rounding may put a side one pixel past the image, or at 0 in a tiny one.
    crop_width = min(width, max(1, int(side * aspect)))
    crop_height = min(height, max(1, int(side / aspect)))
    left = int(left_draw * (width - crop_width + 1))
    top = int(top_draw * (height - crop_height + 1))
    return top, left, crop_height, crop_width


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Training preprocessing: random crop, resize, horizontal flip with probability 1/2, augmentation.

    Attributes:
        image_size: height and width of the result.
        lower_scale: smallest share of the image's area.
        lower_ratio, upper_ratio: range of the crop's aspect ratio; see `random_crop_box`.
        interpolation: a key of `INTERPOLATIONS`.
        operations: augmentations of the resized image, in this order; see `utils.augment`.
        decoder: of JPEG regions; see `decode_region`.
    """

    image_size: tuple[int, int]
    lower_scale: float = 0.08
    lower_ratio: float = 3 / 4
    upper_ratio: float = 4 / 3
    interpolation: int | None = None
    operations: tuple[ImageOperation, ...] = ()
    decoder: str = "auto"

    def __post_init__(self) -> None:
        if self.lower_ratio > self.upper_ratio:
            raise FlagError(f"--lower_ratio {self.lower_ratio:g} is above --upper_ratio {self.upper_ratio:g}")

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crops `rgb`, uint8 (h, w, 3), at random to `image_size`."""
        top, left, height, width = self._draw_box(*rgb.shape[:2], rng)
        return self._finish(self._resize(rgb[top : top + height, left : left + width]), rng)

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """The same from an encoded image, of which no more is decoded than the crop needs.

        The pixels are those of a full decode. Only where a crop is at least twice as large as `image_size` is the
        file decoded at a reduced size, not below `image_size`: averages then take the place of single pixels, which
        is what interpolation alone would pick. (Not with nearest interpolation, which is meant to pick, nor with
        area interpolation, which averages anyway.)

        Raises:
            UnreadableImage: see `utils.decode`.
        """
        jpeg = parse_jpeg(data, path)
        if jpeg is None:
            return self(decode(data, path), rng)
        box = self._draw_box(jpeg.height, jpeg.width, rng)
        shrink = min(box[2] / self.image_size[0], box[3] / self.image_size[1])
        if shrink < 2 or INTERPOLATIONS[self.interpolation] in (cv2.INTER_NEAREST, cv2.INTER_AREA):
            resized = self._resize(decode_region(jpeg, box, self.decoder))
        else:
            resized = self._resize_reduced(jpeg, box, 2 if shrink < 4 else 4 if shrink < 8 else 8)
        return self._finish(resized, rng)

    def _draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        return random_crop_box(height, width, rng, self.lower_scale, self.lower_ratio, self.upper_ratio)

    def _resize(self, crop: np.ndarray) -> np.ndarray:
        return cv2.resize(crop, self.image_size[::-1], interpolation=INTERPOLATIONS[self.interpolation])

    def _resize_reduced(self, jpeg: Jpeg, box: tuple[int, int, int, int], reduction: int) -> np.ndarray:
        """`_resize` of a box, from the file decoded at a reduced size, where the box has fractional borders."""
        top, left, height, width = box
        reduced = decode_rows(jpeg, top + height, reduction)
        # Pixel centres: column u of the result looks at column left + (u + 1/2) step of the full size, less 1/2.
        step_y, step_x = height / self.image_size[0], width / self.image_size[1]
        matrix = np.array([[step_x, 0, left + step_x / 2], [0, step_y, top + step_y / 2]]) / reduction
        matrix[:, 2] -= 0.5
        flags = INTERPOLATIONS[self.interpolation] | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(reduced, matrix, self.image_size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _finish(self, resized: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """From the resized crop on, where images are small."""
        image = cv2.flip(resized, 1) if rng.random() < 0.5 else resized
        for operation in self.operations:
            image = operation(image, rng)
        return image


# ------------------------------------------------------------------------------------------------ on the device


@functools.lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """`normalize` as one multiplication and one addition, for pixels in 0..255; each (1, 3, 1, 1) on `device`."""
    mean64, std64 = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
    return (1 / (255 * std64)).to(device, torch.float32), (-mean64 / std64).to(device, torch.float32)


def normalize(
    images: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Turns a batch of the reader's images into a network's input, on the device where the batch is.

    Args:
        images: uint8 (N, height, width, 3), RGB.
        mean, std: per channel, for pixels scaled to 0..1.
        memory_format: of the result; `torch.channels_last` costs no transposition.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (pixel / 255 - mean) / std as (N, 3, height, width).
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format)
    return planes.mul_(scale).add_(shift).to(dtype)


# ------------------------------------------------------------------------------------------------------ batches


@dataclasses.dataclass
class Batch:
    """What the loader yields.

    Attributes:
        images: uint8 (n, height, width, 3), RGB.
        labels: int64 (n,); -1 where there is no label.
        indices: int64 (n,), the images' positions in the list.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def available_processors() -> int:
    """Processors that this process may use, its share if several training processes are on this machine."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class Loader:
    """The batches of a list of images. Here: which images they hold; the subclasses make the pixels.

    Training: shuffled by (seed, epoch); every process gets the same number of full batches, and the images left over
    at the end of an epoch are left out, as in the original. The sequence of global batches depends on the seed, the
    epoch and batch_size * world_size, not on world_size, `workers` or the step that an epoch is resumed at.

    Evaluation: in order; over all processes each image is there exactly once. Processes may get different numbers of
    batches, and the last batch may be smaller.

    Args:
        images: the list.
        transform: what is done to an image.
        batch_size: images per batch in this process.
        training: see above.
        workers: worker processes or threads, at most one per processor.
        read_ahead_images: images made before they are asked for.
        seed: of the shuffling and of everything random in `transform`.
        rank, world_size: this process among those that share the list.
        pin_memory: the batches are for a GPU.

    Attributes:
        unreadable: path -> reason of the unreadable images met so far in this process.

    Raises:
        UserError: the list is empty or, in training, smaller than a batch.
    """

    def __init__(
        self,
        images: ImageList,
        transform: EvalTransform | TrainTransform | MultiCropTransform,
        batch_size: int,
        training: bool,
        workers: int = 8,
        read_ahead_images: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if not len(images):
            raise UserError("the list of images is empty")
        if training and len(images) < batch_size * world_size:
            raise UserError(
                f"--batch_size {batch_size * world_size} is larger than the {len(images)} training images: lower it"
            )
        self.images = images
        self.transform = transform
        self.batch_size = batch_size
        self.training = training
        self.workers = min(workers, available_processors())
        self.read_ahead_images = read_ahead_images
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        """Steps per epoch in this process."""
        if self.training:
            return len(self.images) // (self.batch_size * self.world_size)
        return -(-len(range(self.rank, len(self.images), self.world_size)) // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start_step` on. A new epoch ends an unfinished one.

        Raises:
            UserError: images cannot be read, or a worker was killed.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the workers. A later epoch starts new ones."""

    def _steps(self, epoch: int, start_step: int) -> Iterator[np.ndarray]:
        """The images of each step of this process, int (batch_size,) or, at the end of evaluation, fewer."""
        count = len(self.images)
        if self.training:
            order = self.images.shuffled(self.seed, epoch)[: len(self) * self.world_size * self.batch_size]
            order = order.reshape(-1, self.world_size, self.batch_size)[:, self.rank].reshape(-1)
        else:
            order = np.arange(self.rank, count, self.world_size)
        for step in range(start_step, len(self)):
            yield order[step * self.batch_size : (step + 1) * self.batch_size]

    def _batch(self, images: torch.Tensor, indices: np.ndarray) -> Batch:
        labels = torch.from_numpy(self.images.labels[indices].astype(np.int64))
        return Batch(images, labels.pin_memory() if self.pin_memory else labels, torch.from_numpy(indices))


# ---------------------------------------------------------------------------------------------- the OpenCV pipeline


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


@dataclasses.dataclass
class _Job:
    """What a worker needs to fill rows of batches; everything large in it is shared memory.

    Attributes:
        slots: uint8 (slots, batch, height, width, 3), the batches being made.
        indices: int64 (slots, batch): the images wanted, and when the rows are done those that are there (-1: none).
        generation: int64 (1,): tasks of another generation belong to an epoch that was given up, and are skipped.
    """

    images: ImageList
    transform: EvalTransform | TrainTransform
    training: bool
    seed: int
    slots: SharedArray
    indices: SharedArray
    generation: SharedArray

    def __post_init__(self) -> None:
        self.random = ImageRandom(self.seed)

    def fill(self, slot: int, start: int, stop: int, epoch: int) -> list[tuple[int, str]]:
        """Makes rows start..stop of a batch; returns (index, reason) of each unreadable image met."""
        problems: list[tuple[int, str]] = []
        for row in range(start, stop):
            wanted = int(self.indices.array[slot, row])
            index, pixels = self._readable(wanted, self.random.of_image(epoch, wanted), problems)
            self.indices.array[slot, row] = index
            if pixels is not None:
                self.slots.array[slot, row] = pixels
        return problems

    def _readable(
        self, wanted: int, rng: np.random.Generator, problems: list[tuple[int, str]]
    ) -> tuple[int, np.ndarray | None]:
        """The wanted image; if it is unreadable: in training another one, in evaluation (-1, None)."""
        for index in self._candidates(wanted):
            try:
                return index, self.transform.decode(self.images.read(index), self.images.path(index), rng)
            except UnreadableImage as error:
                problems.append((index, error.reason))
            except cv2.error as error:
                problems.append((index, f"OpenCV cannot process it: {error.err}"))
        if self.training:
            raise UserError(
                f"no readable image among the {len(problems)} tried; "
                f"the first: {self.images.path(problems[0][0])}: {problems[0][1]}"
            )
        return -1, None

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


def _work(
    job: _Job,
    tasks: multiprocessing.SimpleQueue,
    results: connection.Connection,
    results_lock: multiprocessing.synchronize.Lock,
) -> None:
    """A worker process: takes tasks, fills rows, reports. Runs until it is terminated."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    cv2.setNumThreads(0)  # the workers are the parallelism
    while True:
        generation, slot, start, stop, epoch = tasks.get()
        problems, failure = [], None
        if generation == job.generation.array[0]:
            try:
                problems = job.fill(slot, start, stop, epoch)
            except UserError as error:
                failure = error
            except Exception:
                failure = RuntimeError("in a reader worker:\n" + traceback.format_exc())
        with results_lock:
            results.send((slot, problems, failure))


def _terminate(processes: list[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


class OpenCVLoader(Loader):
    """Batches made by worker processes with OpenCV; see `Loader`. With no workers they are made in this process.

    In training an unreadable image is replaced by another one of the list; in evaluation it is left out.

    The workers start with the first epoch and stay. A batch's images are the memory that the workers wrote (page-locked
    if they are for a GPU), lent: when the tensor is freed, and the copies queued on the current CUDA stream by then are
    done, the memory is used for another batch. At least three batches are ahead of the caller or with it.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # One batch in use, one ready, one being made. Tasks are messages in a pipe, whose number must be limited.
        slots = max(3, min(256, len(self), self.read_ahead_images // self.batch_size)) if self.workers else 1
        share = -(-self.batch_size // (2 * max(1, self.workers)))
        self._task_size = max(1, min(16, share), slots * self.batch_size // 512)
        self._job = _Job(
            self.images,
            self.transform,
            self.training,
            self.seed,
            SharedArray((slots, self.batch_size, *self.transform.image_size, 3), np.uint8),
            SharedArray((slots, self.batch_size), np.int64),
            SharedArray((1,), np.int64),
        )
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._stop_workers = weakref.finalize(self, _terminate, self._processes)
        self._tasks_left = [0] * slots
        self._page_locked = False
        # Slots whose batch the caller holds; those it freed; those freed whose copy to the GPU may be under way.
        self._lent: set[int] = set()
        self._returned: deque[int] = deque()
        self._being_copied: deque[tuple[torch.cuda.Event, list[int]]] = deque()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        steps = self._steps(epoch, start_step)
        self._job.generation.array[0] += 1
        generation = int(self._job.generation.array[0])
        tried = delivered = 0
        try:
            for images, indices in (self._made_by_workers if self.workers else self._made_here)(steps, epoch):
                there = indices >= 0
                tried += len(indices)
                if not there.all():
                    images, indices = images[torch.from_numpy(there)], indices[there]
                if not len(indices):
                    continue
                delivered += len(indices)
                yield self._batch(images, indices)
                if generation != self._job.generation.array[0]:
                    raise RuntimeError("this epoch's iterator was ended by a later call of epoch()")
        except UserError:
            self.close()
            raise
        finally:
            if generation == self._job.generation.array[0]:
                self._job.generation.array[0] += 1  # what is still queued is not wanted any more
        if tried and not delivered:
            path, reason = next(iter(self.unreadable.items()))
            raise UserError(f"none of the {tried} images can be read; the first: {path}: {reason}")

    def close(self) -> None:
        self._stop_workers()
        self._processes = []
        self._stop_workers = weakref.finalize(self, _terminate, self._processes)

    def _made_here(self, steps: Iterator[np.ndarray], epoch: int) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """(images, indices) of each step, made in this process."""
        pixels, indices = self._job.slots.array[0], self._job.indices.array[0]
        for rows in steps:
            indices[: len(rows)] = rows
            self._note(self._job.fill(0, 0, len(rows), epoch))
            yield torch.from_numpy(pixels[: len(rows)].copy()), indices[: len(rows)].copy()

    def _made_by_workers(self, steps: Iterator[np.ndarray], epoch: int) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """(images, indices) of each step, made by the workers, as many steps ahead as there are slots."""
        self._start()
        while any(self._tasks_left):  # of an epoch that was given up
            self._receive()
        self._free = [slot for slot in range(len(self._tasks_left)) if slot not in self._lent]
        ahead: deque[tuple[int, int]] = deque()
        while True:
            self._take_back()
            for slot, rows in zip(self._free.copy(), steps, strict=False):
                self._free.remove(slot)
                self._submit(slot, rows, epoch)
                ahead.append((slot, len(rows)))
            if not ahead:
                return
            slot, count = ahead.popleft()
            while self._tasks_left[slot]:
                self._receive()
            yield self._lend(slot, count), self._job.indices.array[slot, :count].copy()

    def _start(self) -> None:
        """Starts the workers, unless they run."""
        if self._processes:
            return
        context = multiprocessing.get_context()
        self._tasks = context.SimpleQueue()
        # The sending end and its lock must outlive this call: a spawned worker opens them when it comes up.
        self._results, *self._reporting = *context.Pipe(duplex=False), context.Lock()
        self._tasks_left = [0] * len(self._tasks_left)
        # A forked worker must not collect this process's garbage: objects with threads (a DALI pipeline) would wait for
        # threads that it does not have.
        gc.freeze()
        try:
            for _ in range(self.workers):
                process = context.Process(target=_work, args=(self._job, self._tasks, *self._reporting), daemon=True)
                process.start()
                self._processes.append(process)
        finally:
            gc.unfreeze()
        if self.pin_memory and not self._page_locked:
            self._lock_pages()

    def _lock_pages(self) -> None:
        """Page-locks the slots, so that a GPU copies straight from them."""
        slots = self._job.slots.array
        cuda = torch.cuda.cudart()
        error = int(cuda.cudaHostRegister(slots.ctypes.data, slots.nbytes, 0))
        if error:
            warn(f"the reader's memory cannot be page-locked (CUDA error {error}): copies to the GPU take longer")
        else:
            weakref.finalize(self, cuda.cudaHostUnregister, slots.ctypes.data)
        self._page_locked = True

    def _submit(self, slot: int, rows: np.ndarray, epoch: int) -> None:
        """Has the workers make a batch."""
        self._job.indices.array[slot, : len(rows)] = rows
        generation = int(self._job.generation.array[0])
        for start in range(0, len(rows), self._task_size):
            self._tasks.put((generation, slot, start, min(start + self._task_size, len(rows)), epoch))
            self._tasks_left[slot] += 1

    def _receive(self) -> None:
        """Waits for a worker's report."""
        ready = connection.wait([self._results, *(process.sentinel for process in self._processes)])
        if self._results not in ready:
            dead = next(process for process in self._processes if process.sentinel in ready)
            dead.join()
            how = f"killed by signal {-dead.exitcode}" if dead.exitcode < 0 else f"ended with code {dead.exitcode}"
            raise UserError(f"a reader worker was {how}; if memory ran out, lower --reader_buf_size or --reader_thread")
        slot, problems, failure = self._results.recv()
        self._tasks_left[slot] -= 1
        self._note(problems)
        if failure:
            raise failure

    def _note(self, problems: list[tuple[int, str]]) -> None:
        for index, reason in problems:
            self.unreadable[self.images.path(index)] = reason

    def _lend(self, slot: int, count: int) -> torch.Tensor:
        """The first `count` images of a slot, which comes back when the tensor is freed."""
        rows = self._job.slots.array[slot, :count]
        if len(self._lent) + 2 > len(self._tasks_left):
            # The caller keeps many batches (list(loader.epoch(0))): leave the workers a slot to write into.
            self._free.append(slot)
            return torch.from_numpy(rows.copy())
        self._lent.add(slot)
        weakref.finalize(rows, self._returned.append, slot)  # the tensor below is what keeps `rows` alive
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


# ------------------------------------------------------------------------------------------------ the DALI pipeline

# Interpolations that DALI has, by the numbers of INTERPOLATIONS.
DALI_INTERPOLATIONS = {None: "LINEAR", 0: "NN", 1: "LINEAR", 2: "CUBIC", 4: "LANCZOS3"}


class DaliLoader(Loader):
    """Batches made by NVIDIA DALI: on the GPU if they are for one (decoding included), else on the CPU; see `Loader`.

    The images, their order, the crops and the flips are those of `OpenCVLoader`, drawn from the same numbers; pixels
    differ by the rounding of another resampler. DALI does the reading and everything after it, in its own threads.
    A file that it cannot read ends the run.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        transform = self.transform
        if transform.interpolation not in DALI_INTERPOLATIONS:
            raise FlagError(
                f"--interpolation {transform.interpolation} cannot be had with --use_dali: take 0, 1, 2 or 4"
            )
        if getattr(transform, "operations", ()):
            flags = ", ".join(f"--{augment.FLAGS[type(operation)]}" for operation in transform.operations)
            raise FlagError(f"--use_dali has no augmentation of single images: leave out {flags}, or --use_dali")
        if type(self.images) is not ImageList:
            raise FlagError("--use_dali reads loose files, not tar shards: unpack them, or leave --use_dali out")
        self._random = ImageRandom(self.seed)
        self._steps_to_feed: Iterator[tuple[int, np.ndarray]] = iter(())
        self._fed: deque[np.ndarray] = deque()
        self._pipe = self._build()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        if self._pipe is None:
            self._pipe = self._build()
        self._steps_to_feed = iter(())
        while self._run() is not None:  # what is left of an unfinished epoch
            pass
        steps = self._steps_to_feed = ((epoch, rows) for rows in self._steps(epoch, start_step))
        while (images := self._run()) is not None:
            yield self._batch(images, self._fed.popleft().astype(np.int64))
            if steps is not self._steps_to_feed:
                raise RuntimeError("this epoch's iterator was ended by a later call of epoch()")

    def close(self) -> None:
        self._pipe = None

    def _feed(self) -> tuple[list[np.ndarray], ...]:
        """The paths of the next batch's images and, in training, their random numbers, for the pipeline."""
        epoch, rows = next(self._steps_to_feed)  # its StopIteration ends the pipeline's epoch
        self._fed.append(rows)
        paths = [np.frombuffer(os.fsencode(self.images.path(row)), np.uint8) for row in rows]
        if not self.training:
            return (paths,)
        return paths, [self._random.of_image(epoch, int(row)).random(5) for row in rows]

    def _run(self) -> torch.Tensor | None:
        """The images of the next batch fed; None when there is none."""
        try:
            (images,) = self._pipe.run()
        except StopIteration:
            self._pipe.reset()
            self._fed.clear()
            return None
        except RuntimeError as error:
            self.close()
            reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
            raise UserError(
                f"DALI cannot make a batch; `python reader.py --check` finds unreadable files, and without --use_dali "
                f"they are skipped. DALI says: {reason}"
            ) from None
        if self.pin_memory:
            return torch.from_dlpack(images.as_tensor()).clone()  # DALI writes the next batches over it
        return torch.from_numpy(np.array(images.as_array()))

    def _build(self):
        """The pipeline: paths and random numbers in, images out."""
        try:
            from nvidia.dali import Pipeline, fn, math, types
        except ImportError:
            raise FlagError("--use_dali needs NVIDIA DALI: pip install nvidia-dali-cuda120") from None

        def pixels(first, second):
            """Two whole numbers, rows before columns."""
            return fn.cast(fn.stack(first, second), dtype=types.INT32)

        transform = self.transform
        height, width = transform.image_size
        resizing = {
            "interp_type": getattr(types, f"INTERP_{DALI_INTERPOLATIONS[transform.interpolation]}"),
            "antialias": False,  # as OpenCV
        }
        decoding = {"device": "mixed" if self.pin_memory else "cpu", "jpeg_fancy_upsampling": True}
        pipe = Pipeline(
            batch_size=self.batch_size,
            num_threads=max(1, self.workers),
            device_id=torch.cuda.current_device() if self.pin_memory else None,
            prefetch_queue_depth=max(2, min(8, self.read_ahead_images // self.batch_size)),
        )
        with pipe:
            kinds = [types.UINT8, types.FLOAT64][: 1 + self.training]
            paths, *draws = fn.external_source(self._feed, num_outputs=len(kinds), dtype=kinds, ndim=1, batch=True)
            data = fn.io.file.read(paths)
            shape = fn.peek_image_shape(data, dtype=types.FLOAT64)
            rows, columns = shape[0], shape[1]
            if self.training:
                # `random_crop_box`, in DALI's arithmetic.
                (draws,) = draws
                aspect = math.sqrt(transform.lower_ratio + (transform.upper_ratio - transform.lower_ratio) * draws[0])
                largest = math.min(columns / rows / (aspect * aspect), rows / columns * (aspect * aspect))
                smallest = math.min(largest, transform.lower_scale)
                side = math.sqrt(rows * columns * (smallest + (math.min(largest, 1.0) - smallest) * draws[1]))
                crop_height = math.min(rows, math.max(1.0, math.floor(side / aspect)))
                crop_width = math.min(columns, math.max(1.0, math.floor(side * aspect)))
                top = math.floor(draws[2] * (rows - crop_height + 1))
                left = math.floor(draws[3] * (columns - crop_width + 1))
                crop = fn.decoders.image_slice(
                    data, start=pixels(top, left), shape=pixels(crop_height, crop_width), axes=[0, 1], **decoding
                )
                images = fn.resize(crop, size=[height, width], **resizing)
                images = fn.flip(images, horizontal=fn.cast(draws[4] < 0.5, dtype=types.INT32))
            else:
                scale = transform.resize_short_size / math.min(rows, columns)
                # Rounded as Python's round() but for exact halves.
                resized_height, resized_width = math.floor(rows * scale + 0.5), math.floor(columns * scale + 0.5)
                whole = fn.decoders.image(data, **decoding)
                resized = fn.resize(
                    whole, size=fn.cast(fn.stack(resized_height, resized_width), dtype=types.FLOAT), **resizing
                )
                start = pixels(math.floor((resized_height - height) / 2), math.floor((resized_width - width) / 2))
                images = fn.slice(resized, start=start, shape=[height, width], axes=[0, 1])
            pipe.set_outputs(images)
        pipe.build()
        return pipe


# --------------------------------------------------------------------------------------------- loaders by flags


def share_of_batch(flag: str, batch_size: int, world_size: int) -> int:
    """Images per process of a global batch; raises `FlagError` if they do not divide evenly."""
    if batch_size % world_size:
        raise FlagError(f"--{flag} {batch_size} does not divide evenly over {world_size} processes")
    return batch_size // world_size


def eval_transform(args: Namespace) -> EvalTransform:
    """Evaluation preprocessing by the flags image_shape, resize_short_size and interpolation."""
    return EvalTransform(tuple(args.image_shape[1:]), args.resize_short_size, args.interpolation)


def train_transform(args: Namespace) -> TrainTransform:
    """Training preprocessing by the flags."""
    return TrainTransform(
        tuple(args.image_shape[1:]),
        args.lower_scale,
        args.lower_ratio,
        args.upper_ratio,
        args.interpolation,
        augment.image_operations(args),
    )


def training_images(args: Namespace) -> ImageList:
    """The training list, followed by that of --unlabeled_list if there is one."""
    images = open_dataset(args.data_dir, "train", args.class_dim)
    if not args.unlabeled_list:
        return images
    unlabeled = ImageList.find(os.path.join(args.data_dir, args.unlabeled_list))
    # Its paths are relative to --data_dir, those of the training list may be to a folder in it.
    prefix = os.path.relpath(args.data_dir, images.root)
    return images.with_unlabeled(
        os.path.normpath(os.path.join(prefix, unlabeled.name(index))) for index in range(len(unlabeled))
    )


def _pipeline(args: Namespace) -> type[Loader]:
    """The pipeline that --use_dali chooses."""
    return DaliLoader if args.use_dali else OpenCVLoader


def train_loader(args: Namespace, seed: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> Loader:
    """The training loader that train.py's flags ask for."""
    return _pipeline(args)(
        training_images(args),
        train_transform(args),
        share_of_batch("batch_size", args.batch_size, world_size),
        training=True,
        workers=args.reader_thread,
        read_ahead_images=args.reader_buf_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def val_loader(args: Namespace, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> Loader:
    """The validation loader of train.py (--test_batch_size) and eval.py (--batch_size)."""
    flag = "test_batch_size" if hasattr(args, "test_batch_size") else "batch_size"
    return _pipeline(args)(
        open_dataset(args.data_dir, "val", args.class_dim),
        eval_transform(args),
        share_of_batch(flag, getattr(args, flag), world_size),
        training=False,
        workers=args.reader_thread,
        read_ahead_images=args.reader_buf_size,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def crop_loader(
    args: Namespace, transform: MultiCropTransform, rank: int = 0, world_size: int = 1, pin_memory: bool = False
) -> Loader:
    """The validation loader of eval.py for many crops per image, uint8 (images, crops, height, width, 3).

    --batch_size and --reader_buf_size count crops, so that they need the memory of as many single images.
    """
    share = share_of_batch("batch_size", args.batch_size, world_size)
    return OpenCVLoader(
        open_dataset(args.data_dir, "val", args.class_dim),
        transform,
        max(1, share // args.crop_num),
        training=False,
        workers=args.reader_thread,
        read_ahead_images=2 * args.reader_buf_size // args.crop_num,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def infer_loader(args: Namespace, images: ImageList, transform: EvalTransform, pin_memory: bool = False) -> Loader:
    """The loader of infer.py and predict.py. A single batch is read in this process: workers take longer to start."""
    return OpenCVLoader(
        images,
        transform,
        min(args.batch_size, len(images)),
        training=False,
        workers=args.reader_thread if len(images) > args.batch_size else 0,
        read_ahead_images=args.reader_buf_size,
        pin_memory=pin_memory,
    )


# ------------------------------------------------------------------------------------------------ the command line


def show(args: Namespace) -> None:
    """Writes the first training batch, as the network gets it, to a picture with the labels below the images."""
    loader = train_loader(args, args.random_seed or 0)
    batch = next(loader.epoch(0))
    inputs = normalize(batch.images, args.image_mean, args.image_std)
    alphas = args.use_mixup * args.mixup_alpha, args.use_cutmix * args.cutmix_alpha
    inputs, targets = augment.mix(
        inputs, batch.labels.to(inputs.device), *alphas, np.random.default_rng(args.random_seed or 0)
    )
    mean, std = (
        torch.tensor(values, device=inputs.device).view(3, 1, 1) for values in (args.image_mean, args.image_std)
    )
    pixels = ((inputs * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()

    names = loader.images.class_names or [str(label) for label in range(args.class_dim)]
    captions = [names[label] for label in targets.labels.tolist()]
    if targets.mixed_labels is not None:
        captions = [
            f"{targets.weight:.2f} {caption} + {names[label]}"
            for caption, label in zip(captions, targets.mixed_labels.tolist(), strict=True)
        ]
    write_grid(args.show, pixels, captions, columns=math.ceil(math.sqrt(2 * len(pixels))))
    print(f"{args.show}: {len(pixels)} images")


def write_grid(path: str, pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> None:
    """Writes pictures of one size, uint8 (h, w, 3) RGB, in rows of `columns`, with a line of text below each."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * (height + 24), columns * (width + 4), 3), 255, np.uint8)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top, left = number // columns * (height + 24), number % columns * (width + 4)
        grid[top : top + height, left : left + width] = picture
        # OpenCV's fonts know ASCII only.
        text = caption.encode("ascii", "replace").decode()
        cv2.putText(
            grid, text, (left + 2, top + height + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA
        )
    suffix = os.path.splitext(path)[1].lower() or ".png"
    options = [cv2.IMWRITE_JPEG_QUALITY, 85] if suffix in (".jpg", ".jpeg") else []
    try:
        data = cv2.imencode(suffix, grid[..., ::-1], options)[1].tobytes()
        with open(path, "wb") as file:
            file.write(data)
    except (cv2.error, OSError) as error:
        raise UserError(f"{path}: the picture cannot be written ({error})") from None


@dataclasses.dataclass(frozen=True)
class _Measure:
    """In place of a transform: the size of the image, three bytes each for its height and its width."""

    image_size: tuple[int, int] = (1, 2)

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        height, width = decode(data, path).shape[:2]
        return np.frombuffer(height.to_bytes(3, "big") + width.to_bytes(3, "big"), np.uint8).reshape(1, 2, 3)


def check(args: Namespace, part: str) -> None:
    """Reads every image of a part of the dataset once and reports what is there."""
    images = open_dataset(args.data_dir, part, args.class_dim)
    loader = OpenCVLoader(images, _Measure(), 64, False, args.reader_thread, args.reader_buf_size)
    sizes = [batch.images.numpy().astype(np.int64) @ [65536, 256, 1] for batch in loader.epoch(0)]
    heights, widths = np.concatenate(sizes)[:, 0].T

    print(f"{part}: {len(images)} images, {len(loader.unreadable)} of them unreadable")
    for path, reason in loader.unreadable.items():
        print(f"  unreadable: {path}: {reason}")
    counts = np.bincount(images.labels, minlength=args.class_dim)
    print(f"  classes: {np.count_nonzero(counts)} of {args.class_dim} have images, {_spread(counts[counts > 0])} each")
    ranked = np.argsort(counts, kind="stable")
    for what, labels in (("fewest", ranked[:5]), ("most", ranked[::-1][:5])):
        print(f"  {what} images: " + ", ".join(f"class {label} has {counts[label]}" for label in labels))
    print(f"  height: {_spread(heights)} pixels")
    print(f"  width: {_spread(widths)} pixels")


def _spread(values: np.ndarray) -> str:
    low, first, median, last, high = np.percentile(values, [0, 5, 50, 95, 100], method="nearest")
    return f"{low} to {high} (5%: {first}, median: {median}, 95%: {last})"


def main() -> None:
    args = parse("reader")
    if args.check not in (None, "*", "train", "val"):
        raise FlagError(f"--check={args.check}: give train or val, or nothing for both")
    if not args.show and not args.check:
        raise FlagError("nothing to do: give --show=FILE.png or --check")
    if args.show:
        show(args)
    if args.check:
        for part in ("train", "val") if args.check == "*" else (args.check,):
            check(args, part)


if __name__ == "__main__":
    run_script(main)
