"""Normalises batches of uint8 pixels on the device.

It is a separate module so that the reader's workers need not import PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch


@functools.lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """`normalize` as one multiplication and one addition, for pixels in 0..255; each (1, 3, 1, 1) on `device`."""
    mean64, std64 = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
    return (1 / (255 * std64)).to(device, torch.float32), (-mean64 / std64).to(device, torch.float32)


def normalize(
    images: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Turns a batch of the reader's images into a network's input, on the device where the batch is.

    Args:
        images: uint8 (N, height, width, 3).
        mean, std: per channel, in the images' order, for pixels scaled to 0..1.
        memory_format: of the result; `torch.channels_last` needs no transposition.
        dtype: of the result; the arithmetic is in float32.

    Returns:
        (pixel / 255 - mean) / std as (N, 3, height, width).
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format)
    return planes.mul_(scale).add_(shift).to(dtype)
