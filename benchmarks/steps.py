"""train.py's loop on synthetic batches or a reader's batches, for benchmarks, and the speed of a loop."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable

import torch

import models
from models.network import Network
from utils.devices import place
from utils.evaluation.metrics import Meter, means
from utils.reading.loader import Batch
from utils.reading.normalize import normalize
from utils.reading.to_device import to_device
from utils.system import keep_freed_memory
from utils.training.loss import Targets
from utils.training.optimizer import build_optimizer
from utils.training.schedule import Schedule
from utils.training.step import TrainStep

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
PRINT_STEP = 10


def choose_device(on_cpu: bool) -> tuple[torch.device, torch.dtype]:
    """The device, set up as in train.py, and the type of its mixed precision."""
    if torch.cuda.is_available() and not on_cpu:
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda"), torch.float16
    keep_freed_memory()  # both loops share the C library's allocator
    return torch.device("cpu"), torch.bfloat16


def build(args: argparse.Namespace, device: torch.device, data_format: str) -> Network:
    """The network for both loops, always with the same weights."""
    torch.manual_seed(0)
    model = place(models.build(args.model), device, FORMATS[data_format]).train()
    if args.compile:
        model.compile()
    return model


def our_loop(
    args: argparse.Namespace,
    device: torch.device,
    data_format: str,
    dtype: torch.dtype | None,
    read: Callable[[int], Iterable[Batch]] | None = None,
) -> Callable[[int], None]:
    """train.py's loop as a function of the number of steps, on the batches that `read` returns for this number; None:
    on the same batch in every step."""
    model = build(args, device, data_format)
    optimizer = build_optimizer(model, "piecewise_decay", 0.001, 1e-4)
    step = TrainStep(
        model, optimizer, Schedule("piecewise_decay", 0.001, 1000, 100), amp_dtype=dtype, loss_scale=1024.0
    )
    images = torch.randint(256, (args.batch_size, args.image_size, args.image_size, 3), dtype=torch.uint8)
    labels = torch.randint(1000, (args.batch_size,))
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    batch = Batch(images, labels, torch.arange(args.batch_size))

    def run(steps: int) -> None:
        meter = Meter(device)
        for pixels, targets, _ in to_device([batch] * steps if read is None else read(steps), device):
            loss, logits = step(normalize(pixels, MEAN, STD, FORMATS[data_format]), Targets(targets))
            meter.add(loss, logits, targets, step.step)
            if step.step % PRINT_STEP == 0:
                means(meter.take())

    return run


def rate(run: Callable[[int], None], steps: int, batch_size: int, device: torch.device) -> float:
    """Images per second over a number of steps."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * batch_size / (time.perf_counter() - start)
