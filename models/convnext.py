"""ConvNeXt: a convolutional network in the manner of Swin (Liu et al., arXiv:2201.03545).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, conv2d, global_average
from models.network import Layer, Network
from models.transformer import (
    LayerNorm2d,
    dense,
    drop_path_rates,
    to_channels_first,
    to_channels_last,
    trunc_normal_,
)


class Block(nn.Module):
    """A 7x7 depthwise convolution and an MLP over the channels, scaled per channel, with a shortcut."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.dwconv = conv2d(channels, channels, 7, groups=channels, bias=True, init=trunc_normal_)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.pwconv1 = dense(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = dense(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(to_channels_last(self.dwconv(x)))
        y = self.pwconv2(self.act(self.pwconv1(y)))
        return x + self.drop_path(to_channels_first(y * self.gamma))


class ConvNeXt(Network):
    """ConvNeXt.

    Args:
        depths, channels: number of blocks and channels of each stage.
        class_dim: number of classes.
        drop_path_rate: probability to drop the branch of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        channels: tuple[int, ...],
        class_dim: int = 1000,
        *,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        patches = {"padding": 0, "bias": True, "init": trunc_normal_}
        stem = nn.Sequential(conv2d(3, channels[0], 4, 4, **patches), LayerNorm2d(channels[0], 1e-6))
        self.downsample_layers = nn.ModuleList([stem])
        for width, next_width in itertools.pairwise(channels):
            self.downsample_layers.append(
                nn.Sequential(LayerNorm2d(width, 1e-6), conv2d(width, next_width, 2, 2, **patches))
            )
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, next(rates)) for _ in range(depth)))
            for depth, width in zip(depths, channels, strict=True)
        )
        self.norm = nn.LayerNorm(channels[-1], 1e-6)
        self.head = dense(channels[-1], class_dim)

    def trunk(self) -> list[Layer]:
        pairs = zip(self.downsample_layers, self.stages, strict=True)
        return [layer for pair in pairs for layer in pair]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, normalized, (N, C)."""
        return self.norm(global_average(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


# The rates are those of the paper's training on ImageNet-1K; from base_384 on, those of PaddleClas's configurations.
BASE = (3, 3, 27, 3), (128, 256, 512, 1024)
LARGE = (3, 3, 27, 3), (192, 384, 768, 1536)

ConvNeXt_tiny = partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768), drop_path_rate=0.1)
ConvNeXt_small = partial(ConvNeXt, (3, 3, 27, 3), (96, 192, 384, 768), drop_path_rate=0.4)
ConvNeXt_base_224 = partial(ConvNeXt, *BASE, drop_path_rate=0.5)
ConvNeXt_base_384 = partial(ConvNeXt, *BASE, drop_path_rate=0.1)
ConvNeXt_large_224 = partial(ConvNeXt, *LARGE, drop_path_rate=0.1)
ConvNeXt_large_384 = partial(ConvNeXt, *LARGE, drop_path_rate=0.1)

INPUTS = {
    "*_384": InputConfig(384, 384, BICUBIC, resize_backend="pil"),
    "*": InputConfig(interpolation=BICUBIC, resize_backend="pil"),
}
