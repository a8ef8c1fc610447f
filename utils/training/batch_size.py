"""--batch_size=auto: finds the largest batch that fits into GPU memory, or the fastest one on a CPU."""

from __future__ import annotations

import argparse
import copy
import gc
import math
import time
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import torch

from models.network import Network
from utils.console import log
from utils.devices import memory_format
from utils.errors import FlagError, UserError, of_the_machine
from utils.flags.kinds import AUTO, sides
from utils.processes import gather_objects, world_size
from utils.reading.normalize import normalize
from utils.system import free_memory
from utils.training.build import build_train_step
from utils.training.loss import Targets
from utils.training.step import TrainStep
from utils.weights.network import build_model

# Images per process to try first, and the minimum number of steps per epoch.
FIRST, STEPS_AT_LEAST = 8, 10
# On a CPU: the speed-up per image that doubling the batch must bring, the time limit for all tries in seconds, and the
# share of free memory that a step may keep.
GAIN, SECONDS, MEMORY_SHARE = 1.05, 20.0, 0.4
# On a GPU: the share of memory that PyTorch may use, as validation and other image sizes need some too.
GPU_SHARE = 0.9


class Choice(NamedTuple):
    """The choice: images per process, and why not more."""

    images: int
    why: str


# From a number of images to images per second in this process; 0 if they do not fit.
Attempt = Callable[[int], float]


def check_auto(args: Namespace) -> None:
    """Raises `FlagError` if --batch_size=auto cannot work with the other flags."""
    if args.batch_size != AUTO:
        return
    if args.accumulate_steps > 1:
        raise FlagError(
            "--batch_size=auto finds what fits without splitting batches: leave out --accumulate_steps and "
            "--update_freq"
        )
    if args.same_feed:
        raise FlagError(f"--same_feed={args.same_feed} already sets the batch size: leave out --batch_size=auto")


def choose_batch_size(args: Namespace, device: torch.device, images: int) -> int:
    """Tries training steps on random images, in all processes at once; all reach the same result.

    Args:
        args: train.py's flags.
        device: of this process.
        images: of the training list.

    Returns:
        The batch size over all processes.

    Raises:
        UserError: not a single image fits.
    """
    processes = world_size()
    limit = max(1, images // (processes * STEPS_AT_LEAST))
    probe = Probe(args, device)
    try:
        choice = search(limit, probe.attempt, by_speed=device.type == "cpu")
    finally:
        probe.close()
    shares = f", {choice.images} in each of {processes} processes" if processes > 1 else ""
    log(f"--batch_size=auto: --batch_size={choice.images * processes}{shares}: {choice.why}")
    return choice.images * processes


def search(limit: int, attempt: Attempt, by_speed: bool) -> Choice:
    """Images per process: doubled as long as they fit and, with `by_speed`, pay off.

    Without `by_speed`, the number is then refined to an eighth.

    Raises:
        UserError: not a single image fits.
    """
    began, speeds = time.monotonic(), dict[int, float]()
    size = min(FIRST, limit)
    while not (speed := attempt(size)) and size > 1:
        size //= 2
    if not speed:
        raise UserError("--batch_size=auto: not even one image fits into the memory: choose a smaller network")
    speeds[size], failed = speed, 2 * size if size < min(FIRST, limit) else 0
    while not failed and size < limit:
        larger = min(2 * size, limit)
        slow = by_speed and max(gather_objects(time.monotonic() - began)) > SECONDS
        if slow:
            return Choice(size, f"the time limit of {SECONDS:.0f} seconds is reached ({_listed(speeds)})")
        if not (speed := attempt(larger)):
            failed = larger
            break
        speeds[larger] = speed
        if by_speed and speed < GAIN * speeds[size]:
            return Choice(size, f"larger batches are no faster ({_listed(speeds)})")
        size = larger
    if not failed:
        return Choice(size, f"an epoch must have at least {STEPS_AT_LEAST} steps ({_listed(speeds)})")
    step, finest = 0 if by_speed else size // 2, max(1, size // 8)
    while step >= finest:
        if size + step < failed and (speed := attempt(size + step)):
            size += step
            speeds[size] = speed
        step //= 2
    return Choice(size, f"larger batches do not fit into memory ({_listed(speeds)})")


def _listed(speeds: dict[int, float]) -> str:
    return ", ".join(f"{size}: {speed:.0f} img/s" for size, speed in sorted(speeds.items()))


class Probe:
    """A network and its training step, for trial steps.

    Args:
        args: train.py's flags.
        device: of this process.
    """

    def __init__(self, args: Namespace, device: torch.device) -> None:
        # Compiling for each number of images would take minutes.
        plain = {"use_compile": False, "fuse_elewise_add_act_ops": False, "fuse_bn_act_ops": False, "batch_size": 1}
        self._args = copy.copy(args)
        for name, value in plain.items():
            setattr(self._args, name, value)
        self._device = device
        self._size = _largest_size(args)
        self._kept_per_image = 0.0
        self._step: TrainStep | None = None

    def attempt(self, images: int) -> float:
        """Images per second of the slowest process with this many images; 0 if they do not fit in some process."""
        seconds = gather_objects(self._seconds(images))
        return images / max(seconds) if max(seconds) < math.inf else 0.0

    def close(self) -> None:
        """Frees the memory."""
        self._step = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _seconds(self, images: int) -> float:
        """Seconds of a step in this process; infinite if it does not fit."""
        if self._device.type == "cpu" and images * self._kept_per_image > MEMORY_SHARE * free_memory():
            return math.inf
        try:
            return self._timed(images)
        except (RuntimeError, MemoryError) as error:  # PyTorch's out-of-memory errors are RuntimeErrors
            if of_the_machine(error) is None and "out of memory" not in str(error):
                raise
        self.close()  # outside the handler, as its error keeps the tensors alive
        return math.inf

    def _timed(self, images: int) -> float:
        if self._step is None:
            model: Network = build_model(self._args)
            self._step = build_train_step(self._args, model, self._device, alone=True)
            model.train()
        # The first step of a size is slower; on a CPU it also counts the bytes kept for the gradient.
        kept = _KeptBytes()
        with kept:
            self._once(images)
        if not self._kept_per_image:
            self._kept_per_image = 2 * kept.bytes / images  # gradients of activations, and the layers' workspaces
        began = time.perf_counter()
        self._once(images)
        seconds = time.perf_counter() - began
        if self._device.type == "cuda":
            whole = torch.cuda.get_device_properties(self._device).total_memory
            if torch.cuda.max_memory_reserved(self._device) > GPU_SHARE * whole:
                return math.inf
        return seconds

    def _once(self, images: int) -> None:
        assert self._step is not None
        args, device = self._args, self._device
        pixels = torch.randint(0, 256, (images, *self._size, 3), dtype=torch.uint8, device=device)
        shape = (images, args.class_dim) if args.multi_label else (images,)
        labels = torch.zeros(shape, dtype=torch.int64, device=device)
        batch = normalize(pixels, args.image_mean, args.image_std, memory_format(args, device))
        loss, _ = self._step(batch, Targets(labels))
        loss.item()  # the device has finished


class _KeptBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes kept for the gradient within the block."""

    def __init__(self) -> None:
        self.bytes = 0
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor


def _largest_size(args: argparse.Namespace) -> tuple[int, int]:
    """Height and width of the run's largest images."""
    if args.multi_scale:  # --batch_size applies to the first size, and batches of other sizes have about as many pixels
        return sides(args.multi_scale[0])
    sizes = [sides(size) for size in args.progressive_sizes or ()] or [(args.image_shape[1], args.image_shape[2])]
    return max(sizes, key=math.prod)
