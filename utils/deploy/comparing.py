"""Exports a network with torch.export, and compares one form of a network with another."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

# Allowed difference between an exported network and its source, relative to the largest logit.
TOLERANCE = 1e-4


def test_images(image_shape: list[int]) -> Tensor:
    """Two images with normalized values. (torch.export would fix the batch size if it were 1.)"""
    return torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest absolute expected value; NaN if either tensor has a NaN."""
    return ((logits - expected).abs().max() / expected.abs().max()).item()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of their own parts; what they write is checked by its answers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def export_program(model: nn.Module, images: Tensor) -> ExportedProgram:
    """Exports a network in evaluation mode, for any batch size and images of the size of `images`."""
    return torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch")},))
