"""Moves batches to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from utils.reading.loader import Batch


def to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Tensor, Tensor, Batch]]:
    """Moves batches to the device, each while the previous one is being processed.

    Yields:
        Images, labels (both on the device), and the batch they came from.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.images.to(device), batch.labels.to(device), batch
        return
    copies = torch.cuda.Stream(device)
    compute = torch.cuda.current_stream(device)

    def ready(images: Tensor, labels: Tensor, copied: torch.Event) -> tuple[Tensor, Tensor]:
        compute.wait_event(copied)
        images.record_stream(compute)
        labels.record_stream(compute)
        return images, labels

    batches = iter(batches)
    waiting: tuple[Batch, tuple[Tensor, Tensor, torch.Event]] | None = None
    while True:
        # This stream includes the reader's own GPU work: it reuses memory once earlier copies are done, and on the
        # other stream it would wait for the network.
        with torch.cuda.stream(copies):
            batch, copy = next(batches, None), None
            if batch is not None:
                images = batch.images.to(device, non_blocking=True)
                labels = batch.labels.to(device, non_blocking=True)
                copy = images, labels, copies.record_event()
        if waiting is not None:
            yield *ready(*waiting[1]), waiting[0]
        if batch is None or copy is None:
            return
        waiting = batch, copy


def copies_of_first(
    batches: Iterable[tuple[Tensor, Tensor, Batch]], copies: int
) -> Iterator[tuple[Tensor, Tensor, Batch]]:
    """The same number of batches, each with that many copies of the very first image (--same_feed)."""
    first = None
    for images, labels, batch in batches:
        if first is None:
            first = images[:1].repeat(copies, 1, 1, 1), labels[:1].repeat_interleave(copies, 0)
        yield *first, batch
