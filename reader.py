"""From image files to batches, for train.py, eval.py, infer.py and predict.py: the OpenCV pipeline, in worker
processes, and the DALI pipeline, behind one interface.

    images = open_dataset("data/ILSVRC2012", "train", class_dim=1000)
    loader = OpenCVLoader(images, TrainTransform((224, 224)), batch_size=64, training=True, workers=8, seed=0)
    for batch in loader.epoch(0):
        inputs = normalize(batch.images.to(device, non_blocking=True), mean, std)

As a script it shows what the network sees, or checks a dataset:

    python reader.py --data_dir=data/ILSVRC2012 --use_aa=True --show=grid.png
    python reader.py --data_dir=data/ILSVRC2012 --check

What is done to an image is in utils/reading/transforms.py, what a worker process does in utils/reading/workers.py. No
floating point image crosses a process or the bus.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from multiprocessing import connection
from typing import Any

import numpy as np
import torch

from utils.console import check_readable, warn
from utils.errors import FlagError, UserError, run_script
from utils.flags import parse
from utils.flags.idle import note_idle_flags
from utils.reading import augment
from utils.reading.crops import MultiCropTransform
from utils.reading.dataset_report import Measure, describe_dataset, draw_batch
from utils.reading.image_list import ImageList, SharedArray, open_dataset
from utils.reading.transforms import INTERPOLATIONS, EvalTransform, TrainTransform
from utils.reading.workers import ImageRandom, Job, Transform, start_worker, terminate_with

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
        transform: Transform,
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
            UserError: a worker was killed, or in training no image can be read. In evaluation it is for the caller to
                judge, who knows of other processes: `utils.console.check_readable`.
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


class OpenCVLoader(Loader):
    """Batches made by worker processes with OpenCV; see `Loader`. With no workers they are made in this process.

    In training an unreadable image is replaced by another one of the list; in evaluation it is left out.

    The workers start with the first epoch and stay. A batch's images are the memory that the workers wrote (page-locked
    if they are for a GPU), lent: when the tensor is freed, and the copies queued on the current CUDA stream by then are
    done, the memory is used for another batch. At least three batches are ahead of the caller or with it, four
    if they are for a GPU.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # One batch in use, one on its way to the GPU if there is one, one ready, one being made. Tasks are messages in
        # a pipe, whose number must be limited.
        least = 4 if self.pin_memory else 3
        slots = max(least, min(256, len(self), self.read_ahead_images // self.batch_size)) if self.workers else 1
        share = -(-self.batch_size // (2 * max(1, self.workers)))
        self._task_size = max(1, min(16, share), slots * self.batch_size // 512)
        self._job = Job(
            self.images,
            self.transform,
            self.training,
            self.seed,
            SharedArray((slots, self.batch_size, *self.transform.image_size, 3), np.uint8),
            SharedArray((slots, self.batch_size), np.int64),
            SharedArray((1,), np.int64),
        )
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._stop_workers = terminate_with(self, self._processes)
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
        try:
            for images, indices in (self._made_by_workers if self.workers else self._made_here)(steps, epoch):
                there = indices >= 0
                if not there.all():
                    images, indices = images[torch.from_numpy(there)], indices[there]
                if not len(indices):
                    continue
                yield self._batch(images, indices)
                if generation != self._job.generation.array[0]:
                    raise RuntimeError("this epoch's iterator was ended by a later call of epoch()")
        except UserError:
            self.close()
            raise
        finally:
            if generation == self._job.generation.array[0]:
                self._job.generation.array[0] += 1  # what is still queued is not wanted any more

    def close(self) -> None:
        self._stop_workers()
        self._processes = []
        self._stop_workers = terminate_with(self, self._processes)

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
                start_worker(self._processes, context, self._job, self._tasks, *self._reporting)
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
            with contextlib.suppress(RuntimeError):  # CUDA keeps the error for the next kernel: let it be this one
                torch.zeros(1, device="cuda")
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
        from nvidia.dali.plugin.pytorch import feed_ndarray

        # DALI writes the next batches over this one. On a GPU the copy is only queued; feed_ndarray, given the stream,
        # has DALI's own stream wait for it.
        batch = images.as_tensor()
        stream = torch.cuda.current_stream() if self.pin_memory else None
        pixels = torch.empty(batch.shape(), dtype=torch.uint8, device="cuda" if self.pin_memory else "cpu")
        return feed_ndarray(batch, pixels, cuda_stream=stream)

    def _build(self) -> Any:
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


def crop_loader(args: Namespace, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> Loader:
    """The validation loader of eval.py for many crops per image, uint8 (images, crops, height, width, 3).

    --batch_size and --reader_buf_size count crops, so that they need the memory of as many single images.
    """
    height, width = args.image_shape[1:]
    if height != width:
        raise FlagError(f"--crop_num={args.crop_num} takes squares: {height} x {width} of --image_shape is none")
    transform = MultiCropTransform(args.crop_num, height, args.resize_short_size, INTERPOLATIONS[args.interpolation])
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
    """Draws the first training batch."""
    loader = train_loader(args, args.random_seed or 0)
    batch = next(loader.epoch(0))
    draw_batch(args, batch.images, batch.labels, loader.images.class_names)


def check(args: Namespace, part: str) -> None:
    """Reads every image of a part of the dataset once and reports what is there."""
    images = open_dataset(args.data_dir, part, args.class_dim)
    loader = OpenCVLoader(images, Measure(), 64, False, args.reader_thread, args.reader_buf_size)
    sizes = [Measure.sizes(batch.images) for batch in loader.epoch(0)]
    check_readable(loader.unreadable, len(sizes))
    describe_dataset(part, images, args.class_dim, np.concatenate(sizes), loader.unreadable)


def main() -> None:
    args = parse("reader")
    if args.check not in (None, "*", "train", "val"):
        raise FlagError(f"--check={args.check}: give train or val, or nothing for both")
    if not args.show and not args.check:
        raise FlagError("nothing to do: give --show=FILE.png or --check")
    note_idle_flags(args)
    if args.show:
        show(args)
    if args.check:
        for part in ("train", "val") if args.check == "*" else (args.check,):
            check(args, part)


if __name__ == "__main__":
    run_script(main)
