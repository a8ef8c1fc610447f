"""UniFormer: convolutional blocks, then transformer blocks of the same form (Li et al., arXiv:2201.09450).

The module paths are PaddleClas's.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, batch_norm, conv2d, global_average
from models.network import Layer, Network
from models.transformer import (
    LayerNorm2d,
    Mlp,
    SelfAttention,
    dense,
    drop_path_rates,
    to_channels_first,
    to_channels_last,
    trunc_normal_,
)

conv = partial(conv2d, bias=True, init=trunc_normal_)


class ConvMlp(nn.Module):
    """Two 1x1 convolutions with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1_conv = conv(channels, hidden, 1)
        self.act = nn.GELU()
        self.fc2_conv = conv(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2_conv(self.act(self.fc1_conv(x)))


class ConvBlock(nn.Module):
    """A position encoding, a 5x5 depthwise convolution instead of attention, and an MLP, each with a shortcut."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.pos_embed = conv(channels, channels, 3, groups=channels)
        self.norm1 = batch_norm(channels)
        self.conv1 = conv(channels, channels, 1)
        self.attn = conv(channels, channels, 5, groups=channels)
        self.conv2 = conv(channels, channels, 1)
        self.norm2 = batch_norm(channels)
        self.mlp = ConvMlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class AttentionBlock(nn.Module):
    """A position encoding, self-attention, an MLP, each with a shortcut.

    Args:
        layer_scale: whether the branches of attention and MLP have a learned scale per channel, initially 1e-6.
    """

    def __init__(self, channels: int, heads: int, drop_path: float, *, layer_scale: bool) -> None:
        super().__init__()
        self.pos_embed = conv(channels, channels, 3, groups=channels)
        self.norm1 = nn.LayerNorm(channels, 1e-6)
        self.attn = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, 1e-6)
        self.mlp = Mlp(channels, 4 * channels)
        self.gamma_1, self.gamma_2 = (
            nn.Parameter(torch.full((channels,), 1e-6)) if layer_scale else None for _ in range(2)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        tokens = to_channels_last(x + self.pos_embed(x))
        shape = tokens.shape
        tokens = tokens.flatten(1, 2)
        y = self.attn(self.norm1(tokens))
        tokens = tokens + self.drop_path(y if self.gamma_1 is None else self.gamma_1 * y)
        y = self.mlp(self.norm2(tokens))
        tokens = tokens + self.drop_path(y if self.gamma_2 is None else self.gamma_2 * y)
        return to_channels_first(tokens.view(shape))


class PatchEmbed(nn.Module):
    """Cuts a map into patches with a convolution, then applies a layer norm."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(out_channels)
        self.proj_conv = conv(in_channels, out_channels, size, size, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj_conv(x))


class OverlapPatchEmbed(nn.Module):
    """Overlapping patches: 3x3 convolutions of stride 2, each with a batch norm, and GELUs between them."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(len(channels) - 1):
            layers += [nn.GELU()] if index else []
            layers += [conv(channels[index], channels[index + 1], 3, 2), batch_norm(channels[index + 1])]
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class UniFormer(Network):
    """UniFormer; two stages of convolutional blocks, two of transformer blocks.

    Args:
        depths: number of blocks of each stage.
        class_dim: number of classes.
        head_channels: width of an attention head.
        overlap: whether the patches overlap.
        layer_scale: as in `AttentionBlock`.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
    """

    channels = (64, 128, 320, 512)

    def __init__(
        self,
        depths: tuple[int, ...],
        class_dim: int = 1000,
        *,
        head_channels: int = 64,
        overlap: bool = False,
        layer_scale: bool = False,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        in_channels = 3
        for index, (depth, width) in enumerate(zip(depths, self.channels, strict=True)):
            if overlap:
                embed = OverlapPatchEmbed(in_channels, width) if index else OverlapPatchEmbed(3, width // 2, width)
            else:
                embed = PatchEmbed(in_channels, width, 2 if index else 4)
            blocks = [
                ConvBlock(width, next(rates))
                if index < 2
                else AttentionBlock(width, width // head_channels, next(rates), layer_scale=layer_scale)
                for _ in range(depth)
            ]
            self.add_module(f"patch_embed{index + 1}", embed)
            self.add_module(f"blocks{index + 1}", nn.Sequential(*blocks))
            in_channels = width
        self.norm = batch_norm(in_channels)
        self.head = dense(in_channels, class_dim)

    def trunk(self) -> list[Layer]:
        stages = range(1, len(self.channels) + 1)
        return [self.get_submodule(f"{name}{number}") for number in stages for name in ("patch_embed", "blocks")]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.norm(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


PLUS = partial(UniFormer, (3, 5, 9, 3), overlap=True)
BASE = partial(UniFormer, (5, 8, 20, 7), drop_path_rate=0.3)

UniFormer_small = partial(UniFormer, (3, 4, 8, 3))
UniFormer_small_plus = partial(PLUS, head_channels=32)
UniFormer_small_plus_dim64 = PLUS
UniFormer_base = BASE
UniFormer_base_ls = partial(BASE, layer_scale=True)

INPUTS = {"*": InputConfig(224, 248, BICUBIC, resize_backend="pil")}
