"""Batches made by NVIDIA DALI."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from utils.errors import FlagError, UserError
from utils.reading import augment
from utils.reading.image_list import ImageList
from utils.reading.loader import Batch, Loader
from utils.reading.workers import ImageRandom

# DALI's interpolations, by the numbers in INTERPOLATIONS.
DALI_INTERPOLATIONS = {None: "LINEAR", 0: "NN", 1: "LINEAR", 2: "CUBIC", 4: "LANCZOS3"}


class DaliLoader(Loader):
    """Batches made by NVIDIA DALI, on the GPU (including decoding) if they are for a GPU, else on the CPU; see
    `Loader`.

    Images, order, crops and flips equal those of `OpenCVLoader`, drawn from the same random numbers; pixels differ by
    the resampler's rounding. DALI does everything in its own threads. An unreadable file ends the run.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        _check(self.transform, self.training)
        if type(self.images) is not ImageList:
            raise FlagError("--use_dali reads loose files, not tar shards: unpack them, or leave --use_dali out")
        self._random = ImageRandom(self.seed)
        self._steps_to_feed: Iterator[tuple[int, np.ndarray]] = iter(())
        self._fed: deque[np.ndarray] = deque()
        self._pipe: Any = self._build()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        if self._pipe is None:
            self._pipe = self._build()
        self._steps_to_feed = iter(())
        while self._run() is not None:  # the rest of an unfinished epoch
            pass
        steps = self._steps_to_feed = ((epoch, rows) for _, rows in self._steps(epoch, start_step))
        while (images := self._run()) is not None:
            yield self._batch(images, self._fed.popleft().astype(np.int64))
            if steps is not self._steps_to_feed:
                raise RuntimeError("a later call of epoch() ended this epoch's iterator")

    def close(self) -> None:
        self._pipe = None

    def _feed(self) -> tuple[list[np.ndarray], ...]:
        """The paths of the next batch's images and, in training, their random numbers, for the pipeline."""
        epoch, rows = next(self._steps_to_feed)  # its StopIteration ends the pipeline's epoch
        self._fed.append(rows)
        paths = [np.frombuffer(os.fsencode(self.images.path(row)), np.uint8) for row in rows]
        if not self.training:
            return (paths,)
        transform: Any = self.transform
        count = 6 if transform.vertical_flip_prob else 5  # as many as in `TrainTransform`
        return paths, [self._random.of_image(epoch, int(row)).random(count) for row in rows]

    def _run(self) -> torch.Tensor | None:
        """The images of the next batch; None at the end."""
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
                f"--use_dali: DALI failed to make a batch: {reason}. Find unreadable files with `python reader.py "
                "--check`; the default reader skips them"
            ) from None
        from nvidia.dali.plugin.pytorch import feed_ndarray  # pyright: ignore[reportMissingImports] (optional)

        # DALI overwrites this batch with later ones. On a GPU the copy is only queued; feed_ndarray, given the stream,
        # makes DALI's stream wait for it.
        batch = images.as_tensor()
        stream = torch.cuda.current_stream() if self.pin_memory else None
        pixels = torch.empty(batch.shape(), dtype=torch.uint8, device="cuda" if self.pin_memory else "cpu")
        return feed_ndarray(batch, pixels, cuda_stream=stream)

    def _build(self) -> Any:
        """The pipeline: paths and random numbers in, images out."""
        try:
            from nvidia.dali import Pipeline, fn, types  # pyright: ignore[reportMissingImports] (optional)
        except ImportError:
            raise FlagError("--use_dali needs NVIDIA DALI: pip install nvidia-dali-cuda120") from None

        pipe = Pipeline(
            batch_size=self.batch_size,
            num_threads=max(1, self.workers),
            device_id=torch.cuda.current_device() if self.pin_memory else None,
            prefetch_queue_depth=max(2, min(8, self.read_ahead_images // self.batch_size)),
        )
        transform: Any = self.transform
        with pipe:
            kinds = [types.UINT8, types.FLOAT64][: 1 + self.training]
            paths, *draws = fn.external_source(self._feed, num_outputs=len(kinds), dtype=kinds, ndim=1, batch=True)
            data = fn.io.file.read(paths)
            decoding = {
                "device": "mixed" if self.pin_memory else "cpu",
                "jpeg_fancy_upsampling": True,
                "output_type": {"rgb": types.RGB, "bgr": types.BGR}[transform.channel_order],
            }
            resizing = {
                "interp_type": getattr(types, f"INTERP_{DALI_INTERPOLATIONS[transform.interpolation]}"),
                "antialias": False,  # as OpenCV
            }
            make: Callable[..., Any] = _training_images if self.training else _evaluation_images
            pipe.set_outputs(make(transform, data, *draws, decoding, resizing))
        pipe.build()
        return pipe


def _check(transform: Any, training: bool) -> None:
    """Raises `FlagError` for settings that DALI does not support."""
    for flag, value, does in (
        ("resize_backend", transform.resize_backend, "resizes"),
        ("decode_backend", transform.decode_backend, "decodes"),
    ):
        if value != "cv2":
            raise FlagError(
                f"--{flag}={value} (given, or the network's own) means Pillow, but DALI {does} like OpenCV: give "
                f"--{flag}=cv2, or leave out --use_dali"
            )
    for flag, value, word in (
        ("background", transform.background, "drop"),
        ("image_depth_range", transform.image_depth_range, "full"),
    ):
        if value is not None:
            raise FlagError(
                f"--{flag}={' '.join(map(str, value))}, given or saved in the weights, is not supported by DALI: "
                f"give --{flag}={word}, or leave out --use_dali"
            )
    if transform.resize_mode != "short" and (not training or transform.whole):
        raise FlagError(f"--resize_mode={transform.resize_mode} does not work with --use_dali: leave out one of them")
    if transform.interpolation not in DALI_INTERPOLATIONS:
        raise FlagError(f"--interpolation {transform.interpolation} does not work with --use_dali: give 0, 1, 2 or 4")
    if training and transform.operations:
        flags = ", ".join(f"--{augment.FLAGS[type(operation)]}" for operation in transform.operations)
        raise FlagError(f"--use_dali does not support augmentation of single images: leave out {flags}, or --use_dali")


def _pixels(first: Any, second: Any) -> Any:
    """Two integers of a pipeline, rows before columns."""
    from nvidia.dali import fn, types  # pyright: ignore[reportMissingImports] (optional)

    return fn.cast(fn.stack(first, second), dtype=types.INT32)


def _training_images(transform: Any, data: Any, draws: Any, decoding: dict[str, Any], resizing: dict[str, Any]) -> Any:
    """`TrainTransform` in DALI's operators: encoded images and five or six random numbers each to images."""
    from nvidia.dali import fn, math, types  # pyright: ignore[reportMissingImports] (optional)

    shape = fn.peek_image_shape(data, dtype=types.FLOAT64)
    rows, columns = shape[0], shape[1]
    # `random_crop_box`, in DALI's arithmetic.
    aspect = math.sqrt(transform.lower_ratio + (transform.upper_ratio - transform.lower_ratio) * draws[0])
    largest = math.min(columns / rows / (aspect * aspect), rows / columns * (aspect * aspect))
    smallest = math.min(largest, transform.lower_scale)
    side = math.sqrt(rows * columns * (smallest + (math.min(largest, 1.0) - smallest) * draws[1]))
    crop_height = math.min(rows, math.max(1.0, math.floor(side / aspect)))
    crop_width = math.min(columns, math.max(1.0, math.floor(side * aspect)))
    top = math.floor(draws[2] * (rows - crop_height + 1))
    left = math.floor(draws[3] * (columns - crop_width + 1))
    crop = fn.decoders.image_slice(
        data, start=_pixels(top, left), shape=_pixels(crop_height, crop_width), axes=[0, 1], **decoding
    )
    images = fn.resize(crop, size=list(transform.image_size), **resizing)
    flips = {"horizontal": fn.cast(draws[4] < transform.flip_prob, dtype=types.INT32)}
    if transform.vertical_flip_prob:
        flips["vertical"] = fn.cast(draws[5] < transform.vertical_flip_prob, dtype=types.INT32)
    return fn.flip(images, **flips)


def _evaluation_images(transform: Any, data: Any, decoding: dict[str, Any], resizing: dict[str, Any]) -> Any:
    """`EvalTransform` in DALI's operators: encoded images to images."""
    from nvidia.dali import fn, math, types  # pyright: ignore[reportMissingImports] (optional)

    height, width = transform.image_size
    shape = fn.peek_image_shape(data, dtype=types.FLOAT64)
    rows, columns = shape[0], shape[1]
    scale = math.max(transform.resize_short_size / math.min(rows, columns), math.max(height / rows, width / columns))
    # Rounds like Python's round(), except for exact halves.
    resized_height, resized_width = math.floor(rows * scale + 0.5), math.floor(columns * scale + 0.5)
    whole = fn.decoders.image(data, **decoding)
    resized = fn.resize(whole, size=fn.cast(fn.stack(resized_height, resized_width), dtype=types.FLOAT), **resizing)
    start = _pixels(math.floor((resized_height - height) / 2), math.floor((resized_width - width) / 2))
    return fn.slice(resized, start=start, shape=[height, width], axes=[0, 1])
