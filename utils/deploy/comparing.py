"""How one form of a network is made of another, and compared with it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

# Share of the largest logit by which an exported network may differ from the one it was made of.
TOLERANCE = 1e-4


def test_images(image_shape: list[int]) -> Tensor:
    """Two images as a normalization leaves them. (A batch of one would be exported as one of exactly one.)"""
    return torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest absolute value expected; NaN if there is one anywhere."""
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
    """Exports a network in evaluation mode, for any number of images of the size of `images`."""
    return torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch")},))
