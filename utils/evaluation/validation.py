"""The loop that validates a network: in train.py after each epoch, in eval.py once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from models.network import main_output
from utils.console import check_readable, log, progress
from utils.evaluation.metrics import Meter, describe, means, total
from utils.processes import gather_dict, gather_objects
from utils.reading.loader import Batch, Loader
from utils.reading.to_device import copies_of_first, to_device


def never() -> bool:
    """Never interrupts a validation."""
    return False


@torch.no_grad()
def validate(
    network: Callable[[Tensor], Tensor],
    loader: Loader,
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    meter: Meter,
    *,
    print_step: int | None = None,
    epoch: int = 0,
    title: str = "eval",
    same_feed: int = 0,
    interrupted: Callable[[], bool] = never,
    watch: Callable[[Tensor, Tensor, Tensor, Batch], None] | None = None,
    in_step: bool = False,
) -> dict[str, float]:
    """Validates a network in float32. Every process must call it, even one without images.

    Args:
        network: images to logits (N, classes); a module must be in evaluation mode.
        loader: for this process's share of the validation images.
        prepare: maps the loader's uint8 images (N, H, W, 3) and labels (N,), both on the meter's device, to the
            network's input and targets.
        meter: sums losses and hits.
        print_step: batches between log lines; None: no lines.
        epoch: for those lines.
        title: of the progress bar.
        same_feed: use that many copies of the very first image in each batch; 0: use the images.
        interrupted: called before each batch: whether this process skips the rest.
        watch: called with each batch: the images passed to `prepare`, the logits (N, classes) in float32, the labels,
            and the batch as read.
        in_step: for sharded networks: every process runs the network equally often, if necessary on dummy images.

    Returns:
        The metrics over all processes, as from `utils.evaluation.metrics.total`, and the meter's own.

    Raises:
        UserError: in every process, if there are images but none can be read.
    """
    batches = to_device(loader.epoch(0), meter.sums.device)
    if same_feed:
        batches = copies_of_first(batches, same_feed)
    clock = time.perf_counter()
    with progress(len(loader), title) as bar:
        lines = print_step if bar.disable or not sys.stdout.isatty() else None  # the bar is on stderr
        for number, read in enumerate(_rounds(batches, interrupted, in_step)):
            if read is None:
                network(prepare(*_nothing(loader, meter))[0])
                continue
            images, labels, batch = read
            inputs, labels = prepare(images, labels)
            logits = main_output(network(inputs)).float()
            meter.add(meter.loss(logits, labels), logits, labels, number)
            if watch is not None:
                watch(images, logits, labels, batch)
            bar.update()
            if lines and number % lines == 0:
                fields, elapsed = describe(means(meter.sums), meter.names), time.perf_counter() - clock
                log(f"[Pass {epoch}, test  batch {number}]  {fields}, elapse {elapsed:.4f} sec")
                clock = time.perf_counter()
    values = {**total(meter.sums), **meter.figures()}
    if not values["images"] and not any(gather_objects(interrupted())):
        check_readable(gather_dict(loader.unreadable), 0)
    return values


def _rounds(
    batches: Iterable[tuple[Tensor, Tensor, Batch]], interrupted: Callable[[], bool], in_step: bool
) -> Iterator[tuple[Tensor, Tensor, Batch] | None]:
    """The batches, until interrupted. In step with others, yields None while they have more; one interruption ends it
    for all.
    """
    remaining = iter(batches)
    while True:
        batch = next(remaining, None)
        cut_short = interrupted()
        if in_step:
            shares = gather_objects((batch is not None, cut_short))
            if not any(there for there, _ in shares) or any(cut for _, cut in shares):
                return
        elif batch is None or cut_short:
            return
        yield batch


def _nothing(loader: Loader, meter: Meter) -> tuple[Tensor, Tensor]:
    """A black image and a label, as from the loader."""
    device = meter.sums.device
    size = loader.transforms[0].image_size
    return torch.zeros(1, *size, 3, dtype=torch.uint8, device=device), torch.zeros(1, dtype=torch.int64, device=device)
