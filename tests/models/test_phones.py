"""What networks leave out so that the converters of phones' engines can take them (docs/mobile.md)."""

from __future__ import annotations

import math

import pytest
import torch
from test_every_network import build, quick_size
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models import cswin
from models.network import shapes_only
from models.transformer import join_windows

# ncnn's tensors have four dimensions at most.
DIMENSIONS = 4


class Watch(TorchDispatchMode):
    """Notes the operators, the dimensions of the tensors that are computed, and what is padded."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[object] = []
        self.dimensions = 0
        self.pads: list[tuple[list[int], float]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.operators.append(func)
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


def test_vertical_stripes_are_not_permuted_for_their_convolution():
    attention = cswin.StripeAttention(8, 2, 1, vertical=True)
    with Watch() as seen, torch.no_grad():
        attention(*torch.randn(3, 1, 4, 4, 8))
    # LiteRT's converter loses the transposition of square maps to stripes where a permutation follows.
    before = seen.operators[: seen.operators.index(torch.ops.aten.convolution.default)]
    assert torch.ops.aten.permute.default not in before


def test_horizontal_stripes_join_by_a_view(monkeypatch):
    def attend(q, k, v):
        """As ExecuTorch computes it: the result lies in memory as (L, N, heads, D)."""
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        return (weights @ v).permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)

    def join(x, *sizes):
        assert x.is_contiguous(), "ExecuTorch cannot view it as a map"
        return join_windows(x, *sizes)

    attention = cswin.StripeAttention(8, 2, 2, vertical=False)
    maps = torch.randn(3, 1, 4, 4, 8)
    with torch.no_grad():
        expected = attention(*maps)
        monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
        monkeypatch.setattr(cswin, "join_windows", join)
        torch.testing.assert_close(attention(*maps), expected)
