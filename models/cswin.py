"""CSWin: heads attend within stripes, half of them vertical, half horizontal (Dong et al., arXiv:2107.00652).

The module paths are PaddleClas's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, conv2d
from models.network import Network
from models.transformer import (
    Mlp,
    check_image_size,
    dense,
    drop_path_rates,
    join_windows,
    merge_heads,
    split_heads,
    split_windows,
    to_channels_first,
    to_channels_last,
    to_grid,
)


class StripeAttention(nn.Module):
    """Attention within stripes, and a convolution of the values that encodes their positions (the paper's LePE).

    Args:
        stripe: width of the stripes; None: a single window.
        vertical: whether the stripes have the map's height, rather than its width.
    """

    def __init__(self, channels: int, heads: int, stripe: int | None, vertical: bool) -> None:
        super().__init__()
        self.heads = heads
        self.stripe = stripe
        self.vertical = vertical
        self.get_v = conv2d(channels, channels, 3, groups=channels, bias=True)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each (N, H, W, C) -> (N, H, W, C)."""
        shape = v.shape
        height, width = shape[1:3]
        if self.stripe is not None and self.vertical:
            width = self.stripe
        elif self.stripe is not None:
            height = self.stripe
        windows = [split_windows(x, height, width) for x in (q, k, v)]
        # The convolution sees only the stripe, with zeros around it.
        positions = self.get_v(to_grid(windows[2], height)).flatten(2).transpose(1, 2)
        q, k, v = (split_heads(x, self.heads) for x in windows)
        y = merge_heads(F.scaled_dot_product_attention(q, k, v))
        # In this order the sum lies in memory as the convolution's result does, whatever the attention's layout.
        return join_windows(positions + y, height, width, shape)


class Block(nn.Module):
    """Attention within stripes, then an MLP, each with a layer norm before it and a shortcut around it."""

    def __init__(self, channels: int, heads: int, stripe: int | None, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = dense(channels, 3 * channels)
        branches = 1 if stripe is None else 2
        self.attns = nn.ModuleList(
            StripeAttention(channels // branches, heads // branches, stripe, vertical=index == 0)
            for index in range(branches)
        )
        self.proj = dense(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        branches = len(self.attns)
        parts = self.qkv(self.norm1(x)).chunk(3 * branches, -1)  # queries of every branch, keys, values
        y = torch.cat([attention(*parts[index::branches]) for index, attention in enumerate(self.attns)], -1)
        x = x + self.drop_path(self.proj(y))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """A 7x7 convolution of stride 4 and a layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.patch_embed = conv2d(3, channels, 7, 4, padding=2, bias=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, H / 4, W / 4, C)."""
        return self.norm(to_channels_last(self.patch_embed(images)))


class Merge(nn.Module):
    """Halves a map and doubles its channels with a 3x3 convolution, then a layer norm; (N, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv2d(channels, 2 * channels, 3, 2, bias=True)
        self.norm = nn.LayerNorm(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(to_channels_last(self.conv(to_channels_first(x))))


class Stage(nn.Module):
    """Blocks, then `Merge`."""

    def __init__(self, channels: int, heads: int, stripe: int | None, rates: list[float], merge: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(channels, heads, stripe, rate) for rate in rates))
        self.merge = Merge(channels) if merge else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.blocks(x))


class CSWinTransformer(Network):
    """CSWin; it takes images whose size at a sixteenth is a multiple of the widest stripes' width.

    Args:
        class_dim: number of classes.
        channels: of the first stage; they double from stage to stage.
        depths, heads: number of blocks, and attention heads of a block, of each stage.
        stripes: width of the stripes of the first three stages; the last attends to the whole map.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        class_dim: int = 1000,
        *,
        channels: int = 64,
        depths: tuple[int, ...] = (1, 2, 21, 1),
        heads: tuple[int, ...] = (2, 4, 8, 16),
        stripes: tuple[int, int, int] = (1, 2, 7),
        drop_path_rate: float = 0.2,
    ) -> None:
        super().__init__()
        self.divisor = 16 * stripes[-1]
        self.image_size = 2 * self.divisor
        self.patch_embedding = PatchEmbedding(channels)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        stages = []
        for index, (depth, stage_heads, stripe) in enumerate(zip(depths, heads, (*stripes, None), strict=True)):
            stage_rates, rates = rates[:depth], rates[depth:]
            stages.append(Stage(channels << index, stage_heads, stripe, stage_rates, merge=index + 1 < len(depths)))
        self.stages = nn.Sequential(*stages)
        features = channels << (len(depths) - 1)
        self.norm = nn.LayerNorm(features)
        self.head = dense(features, class_dim)

    def embedded(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the first tokens, (N, H / 4, W / 4, C)."""
        for size in images.shape[2:]:
            check_image_size(size, self.divisor, "CSWin")
        return self.patch_embedding(images)

    def stage_maps(self, images: Tensor) -> Iterator[Tensor]:
        x = self.embedded(images)
        for stage in self.stages:
            assert isinstance(stage, Stage)
            x = stage.blocks(x)
            yield to_channels_first(x)
            x = stage.merge(x)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return self.norm(self.stages(self.embedded(images))).mean((1, 2))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


BASE = {"channels": 96, "depths": (2, 4, 32, 2), "heads": (4, 8, 16, 32), "drop_path_rate": 0.5}
LARGE = {"channels": 144, "depths": (2, 4, 32, 2), "heads": (6, 12, 24, 24), "drop_path_rate": 0.5}
WIDE = {"stripes": (1, 2, 12)}  # for images of 384 x 384

CSWinTransformer_tiny_224 = partial(CSWinTransformer, drop_path_rate=0.2)
CSWinTransformer_small_224 = partial(CSWinTransformer, depths=(2, 4, 32, 2), drop_path_rate=0.4)
CSWinTransformer_base_224 = partial(CSWinTransformer, **BASE)
CSWinTransformer_base_384 = partial(CSWinTransformer, **BASE, **WIDE)
CSWinTransformer_large_224 = partial(CSWinTransformer, **LARGE)
CSWinTransformer_large_384 = partial(CSWinTransformer, **LARGE, **WIDE)

INPUTS = {
    "*_384": InputConfig(384, 384, BICUBIC, resize_backend="pil"),
    "*": InputConfig(224, 248, BICUBIC, resize_backend="pil"),
}
