"""What networks leave out so that the converters of phones' engines can take them (docs/mobile.md)."""

from __future__ import annotations

import math

import pytest
import torch
from test_every_network import build, quick_size
from torch.utils._python_dispatch import TorchDispatchMode

from models.network import shapes_only

# ncnn's tensors have four dimensions at most.
DIMENSIONS = 4


class Watch(TorchDispatchMode):
    """Notes the dimensions of the tensors that are computed, and what is padded."""

    def __init__(self) -> None:
        super().__init__()
        self.dimensions = 0
        self.pads: list[tuple[list[int], float]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (list, tuple)) else [results]:
            if isinstance(result, torch.Tensor):
                self.dimensions = max(self.dimensions, result.ndim)
        if func is torch.ops.aten.constant_pad_nd.default:
            self.pads.append((args[1], float(args[2]) if len(args) > 2 else 0.0))
        return results


@pytest.mark.parametrize(
    "name",
    [
        "DARTS_4M",
        "DeiT_tiny_patch16_224",
        "PPHGNetV2_B0",
        "PVT_V2_B0",
        "UniFormer_small",
    ],
)
def test_no_more_than_four_dimensions_and_no_odd_padding(name):
    size = quick_size(name)
    model = shapes_only(build(name, size).eval())
    with Watch() as seen, torch.no_grad():
        model(torch.empty(1, 3, size, size, device="meta"))
    assert 3 <= seen.dimensions <= DIMENSIONS
    # ExecuTorch can neither crop by padding nor write an infinite number down.
    assert all(min(widths) >= 0 and math.isfinite(value) for widths, value in seen.pads)
