"""The one loop that validates a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import main_output
from utils.evaluation.metrics import Meter


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], meter: Meter) -> Iterator[int]:
    """Evaluates a network, or any function of images, in float32.

    Args:
        model: in evaluation mode.
        batches: normalised images (N, 3, H, W) and labels (N,), on the device.
        meter: takes in the loss and the hits.

    Yields:
        The number of each batch done, from 0.
    """
    for number, (images, labels) in enumerate(batches):
        logits = main_output(model(images)).float()
        meter.add(F.cross_entropy(logits, labels), logits, labels, number)
        yield number
