"""Swin V2: cosine attention, positions by a network, layer norms after the branches (Liu et al., arXiv:2111.09883).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath
from models.names import override_l2_decay
from models.swin import PatchMerging, ShiftedWindows, SwinTransformer
from models.transformer import Mlp, dense, merge_heads, split_heads

# Upper bound of the logarithm of the cosines' factor.
LARGEST_LOGIT_SCALE = math.log(100.0)


def log_positions(window: int, trained_window: int) -> Tensor:
    """The relative positions of a window's tokens, on a logarithmic scale, ((2 w - 1)^2, 2).

    Args:
        trained_window: the windows of the pretraining, whose positions are -8 to 8 before the logarithm.
    """
    offsets = torch.arange(1 - window, window, dtype=torch.float32)
    places = torch.cartesian_prod(offsets, offsets) * (8 / (trained_window - 1))
    return places.sign() * torch.log2(places.abs() + 1.0) / math.log2(8)


class WindowAttention(ShiftedWindows):
    """Self-attention within windows by the cosines of queries and keys; a small network computes the position bias.

    Args:
        window, shift, size: as in `ShiftedWindows.set_windows`.
        trained_window: as in `log_positions`.
    """

    def __init__(self, channels: int, heads: int, *, window: int, shift: int, size: int, trained_window: int) -> None:
        super().__init__()
        self.set_windows(window, shift, size)
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(dense(2, 512), nn.ReLU(inplace=True), dense(512, heads, bias=False))
        self.qkv = dense(channels, 3 * channels, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.proj = dense(channels, channels)
        override_l2_decay(self, logit_scale=0.0)
        self.register_buffer("places", log_positions(window, trained_window), persistent=False)

    def bias(self) -> Tensor:
        return 16 * torch.sigmoid(self.cpb_mlp(self.places)[self.positions].permute(2, 0, 1))

    def attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(tokens, self.qkv.weight, qkv_bias)
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, -1))
        q = F.normalize(q, dim=-1) * self.logit_scale.clamp(max=LARGEST_LOGIT_SCALE).exp()
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, F.normalize(k, dim=-1), v, bias, scale=1.0)))


class Block(nn.Module):
    """Attention within windows, then an MLP, each with a layer norm after it and a shortcut around both."""

    def __init__(self, channels: int, attention: WindowAttention, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.norm1(self.attn(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class MergeThenNorm(PatchMerging):
    """`PatchMerging` with the layer norm at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.LayerNorm(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(self.merged(x)))


class Stage(nn.Module):
    """Blocks, of which every second one shifts its windows by half a window, then `MergeThenNorm`."""

    def __init__(
        self, channels: int, heads: int, rates: list[float], *, window: int, trained_window: int, size: int, merge: bool
    ) -> None:
        super().__init__()
        # A map that one window covers is not shifted.
        shift = window // 2 if size > window else 0
        window = min(window, size)
        options = {"window": window, "size": size, "trained_window": trained_window or window}
        self.blocks = nn.Sequential()
        for index, rate in enumerate(rates):
            attention = WindowAttention(channels, heads, shift=shift * (index % 2), **options)
            self.blocks.append(Block(channels, attention, rate))
        self.downsample = MergeThenNorm(channels) if merge else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class SwinTransformerV2(SwinTransformer):
    """Swin V2.

    Args:
        class_dim: number of classes.
        image_size: height and width of the images, a multiple of 32.
        trained_windows: the windows of the pretraining, per stage; 0: the network's own windows.
        options: as in `SwinTransformer`.
    """

    paddleclas_computed = r"layers\.\d\.blocks\.\d+\.(attn_mask|attn\.relative_coords_table)"

    def __init__(
        self,
        class_dim: int = 1000,
        *,
        image_size: int = 256,
        window: int = 8,
        trained_windows: tuple[int, ...] = (0, 0, 0, 0),
        drop_path_rate: float = 0.2,
        **options,
    ) -> None:
        self.trained_windows = trained_windows
        super().__init__(class_dim, image_size=image_size, window=window, drop_path_rate=drop_path_rate, **options)

    def build_stage(self, index: int, channels: int, heads: int, rates: list[float], *, merge: bool) -> nn.Module:
        size, trained_window = self.image_size // (4 << index), self.trained_windows[index]
        return Stage(channels, heads, rates, window=self.window, trained_window=trained_window, size=size, merge=merge)


TINY = {"drop_path_rate": 0.2}
SMALL = {"depths": (2, 2, 18, 2), "drop_path_rate": 0.3}
BASE = {"channels": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)}
LARGE = {"channels": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)}
# Finetuned after a training on ImageNet-22K with smaller windows.
FROM_22K = {"trained_windows": (12, 12, 12, 6), "drop_path_rate": 0.2}

SwinTransformerV2_tiny_patch4_window8_256 = partial(SwinTransformerV2, **TINY)
SwinTransformerV2_tiny_patch4_window16_256 = partial(SwinTransformerV2, window=16, **TINY)
SwinTransformerV2_small_patch4_window8_256 = partial(SwinTransformerV2, **SMALL)
SwinTransformerV2_small_patch4_window16_256 = partial(SwinTransformerV2, window=16, **SMALL)
SwinTransformerV2_base_patch4_window8_256 = partial(SwinTransformerV2, drop_path_rate=0.5, **BASE)
SwinTransformerV2_base_patch4_window16_256 = partial(SwinTransformerV2, window=16, drop_path_rate=0.5, **BASE)
SwinTransformerV2_base_patch4_window24_384 = partial(SwinTransformerV2, image_size=384, window=24, **BASE, **FROM_22K)
SwinTransformerV2_large_patch4_window16_256 = partial(SwinTransformerV2, window=16, **LARGE, **FROM_22K)
SwinTransformerV2_large_patch4_window24_384 = partial(SwinTransformerV2, image_size=384, window=24, **LARGE, **FROM_22K)

INPUTS = {
    "*_384": InputConfig(384, 384, BICUBIC, resize_backend="pil"),
    "*": InputConfig(256, 292, BICUBIC, resize_backend="pil"),
}
