"""Tests for a GPU. Their bodies run on a CPU as well where they can, which shows that they are right."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

# For the parameter `device`: on a GPU and, with --all, on a CPU.
WITH_ALL = [pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("cpu", marks=pytest.mark.full)]


def distance(values: Tensor, reference: Tensor) -> float:
    """How far logits (N, classes) are from others, relative to how far those of an image lie apart."""
    reference = reference.double().cpu()
    spread = (reference - reference.mean(1, keepdim=True)).norm()
    return float((values.double().cpu() - reference).norm() / spread)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 on a GPU may be multiplied with 10 bits of mantissa, for the block."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def nothing_waits(device: str) -> Iterator[None]:
    """On a GPU, PyTorch refuses whatever would wait for it."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def memory_limited(share: float) -> Iterator[None]:
    """This process may have that share of the GPU's memory, for the block."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
