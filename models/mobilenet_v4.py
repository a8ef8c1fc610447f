"""MobileNet V4: universal inverted bottlenecks, and attention in the hybrids (Qin et al., arXiv:2404.10518)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import ConvBNAct, DropPath, batch_norm, conv2d, linear, relu
from models.network import Layer, Network

Activation = Callable[[], nn.Module]


class Conv(NamedTuple):
    """A plain convolution."""

    out_channels: int
    kernel_size: int
    stride: int = 1


class Fused(NamedTuple):
    """A 3x3 convolution of stride 2 that expands, and a 1x1 one."""

    out_channels: int
    expansion: int


class Universal(NamedTuple):
    """A universal inverted bottleneck.

    Attributes:
        start, middle: kernel sizes of the depthwise convolutions before and after the expansion; 0: none.
        stride: stride of the second.
    """

    out_channels: int
    expansion: int
    start: int
    middle: int
    stride: int = 1


class Attention(NamedTuple):
    """Multi-query attention.

    Attributes:
        head_width: channels of the keys and of each head.
        key_stride: stride of the positions for keys and values.
    """

    heads: int
    head_width: int
    key_stride: int = 1


Row = Conv | Fused | Universal | Attention

SMALL = (
    Conv(32, 3, 2),
    Conv(32, 1),
    Conv(96, 3, 2),
    Conv(64, 1),
    Universal(96, 3, 5, 5, 2),
    *[Universal(96, 2, 0, 3)] * 4,
    Universal(96, 4, 3, 0),
    Universal(128, 6, 3, 3, 2),
    Universal(128, 4, 5, 5),
    Universal(128, 4, 0, 5),
    Universal(128, 3, 0, 5),
    *[Universal(128, 4, 0, 3)] * 2,
    Conv(960, 1),
)
MEDIUM = (
    Fused(48, 4),
    Universal(80, 4, 3, 5, 2),
    Universal(80, 2, 3, 3),
    Universal(160, 6, 3, 5, 2),
    *[Universal(160, 4, 3, 3)] * 2,
    Universal(160, 4, 3, 5),
    Universal(160, 4, 3, 3),
    Universal(160, 4, 3, 0),
    Universal(160, 2, 0, 0),
    Universal(160, 4, 3, 0),
    Universal(256, 6, 5, 5, 2),
    Universal(256, 4, 5, 5),
    *[Universal(256, 4, 3, 5)] * 2,
    Universal(256, 4, 0, 0),
    Universal(256, 4, 3, 0),
    Universal(256, 2, 3, 5),
    Universal(256, 4, 5, 5),
    *[Universal(256, 4, 0, 0)] * 2,
    Universal(256, 2, 5, 0),
    Conv(960, 1),
)
# what the large networks have in common
LARGE_BEGINNING = (
    Fused(48, 4),
    Universal(96, 4, 3, 5, 2),
    Universal(96, 4, 3, 3),
    Universal(192, 4, 3, 5, 2),
    *[Universal(192, 4, 3, 3)] * 3,
    Universal(192, 4, 3, 5),
    *[Universal(192, 4, 5, 3)] * 2,
)
LARGE_MIDDLE = (
    Universal(192, 4, 3, 0),
    Universal(512, 4, 5, 5, 2),
    *[Universal(512, 4, 5, 5)] * 3,
    Universal(512, 4, 5, 0),
    Universal(512, 4, 5, 3),
    *[Universal(512, 4, 5, 0)] * 2,
    Universal(512, 4, 5, 3),
    Universal(512, 4, 5, 5),
)
LARGE = (
    *LARGE_BEGINNING,
    *[Universal(192, 4, 5, 3)] * 3,
    *LARGE_MIDDLE,
    *[Universal(512, 4, 5, 0)] * 3,
    Conv(960, 1),
)
HYBRID_MEDIUM = (
    Fused(48, 4),
    Universal(80, 4, 3, 5, 2),
    Universal(80, 2, 3, 3),
    Universal(160, 6, 3, 5, 2),
    Universal(160, 2, 0, 0),
    Universal(160, 4, 3, 3),
    Universal(160, 4, 3, 5),
    *[Attention(4, 64, 2), Universal(160, 4, 3, 3), Attention(4, 64, 2), Universal(160, 4, 3, 0)] * 2,
    Universal(256, 6, 5, 5, 2),
    Universal(256, 4, 5, 5),
    *[Universal(256, 4, 3, 5)] * 2,
    Universal(256, 2, 0, 0),
    Universal(256, 2, 3, 5),
    Universal(256, 2, 0, 0),
    Universal(256, 4, 0, 0),
    *[Attention(4, 64), Universal(256, 4, 3, 0)],
    *[Attention(4, 64), Universal(256, 4, 5, 5)],
    *[Attention(4, 64), Universal(256, 4, 5, 0)] * 2,
    Conv(960, 1),
)
HYBRID_LARGE = (
    *LARGE_BEGINNING,
    *[Attention(8, 48, 2), Universal(192, 4, 5, 3)] * 3,
    Attention(8, 48, 2),
    *LARGE_MIDDLE,
    *[Attention(8, 64), Universal(512, 4, 5, 0)] * 4,
    Conv(960, 1),
)


def group_fan_out_normal_(weight: Tensor) -> Tensor:
    """Normal(0, sqrt(2 / fan_out)), the initializer of all the convolutions; fan_out counts one group."""
    outputs, inputs, height, width = weight.shape
    fan_out = height * width * (1 if inputs == 1 else outputs)  # one input: depthwise
    return nn.init.normal_(weight, 0.0, math.sqrt(2.0 / fan_out))


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, **options) -> ConvBNAct:
    """A convolution and batch norm; `options` are those of `ConvBNAct`."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, init=group_fan_out_normal_, **options)


class LayerScale(nn.Module):
    """A factor for every channel (arXiv:2103.17239)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None]


class FusedBlock(nn.Module):
    """The block that a `Fused` describes."""

    def __init__(self, in_channels: int, row: Fused, activation: Activation) -> None:
        super().__init__()
        width = in_channels * row.expansion
        self.conv_exp = conv_bn(in_channels, width, 3, 2, activation=activation)
        self.conv_pwl = conv_bn(width, row.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_pwl(self.conv_exp(x))


class UniversalBlock(nn.Module):
    """The block that a `Universal` describes, with drop path; a `LayerScale` is added if `scaled`."""

    def __init__(
        self, in_channels: int, row: Universal, activation: Activation, scaled: bool, drop_path: float
    ) -> None:
        super().__init__()
        width = in_channels * row.expansion
        self.dw_start: nn.Module = nn.Identity()
        if row.start:
            self.dw_start = conv_bn(in_channels, in_channels, row.start, groups=in_channels)
        self.pw_exp = conv_bn(in_channels, width, 1, activation=activation)
        self.dw_mid: nn.Module = nn.Identity()
        if row.middle:
            self.dw_mid = conv_bn(width, width, row.middle, row.stride, groups=width, activation=activation)
        self.pw_proj = conv_bn(width, row.out_channels, 1)
        self.layer_scale = LayerScale(row.out_channels) if scaled else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.shortcut = row.stride == 1 and in_channels == row.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.pw_proj(self.dw_mid(self.pw_exp(self.dw_start(x))))
        y = self.layer_scale(y)
        return x + self.drop_path(y) if self.shortcut else y


class AttentionBlock(nn.Module):
    """The block that an `Attention` describes, with a shortcut: all heads share keys and values (arXiv:1911.02150)."""

    def __init__(self, channels: int, row: Attention, drop_path: float) -> None:
        super().__init__()
        self.heads = row.heads
        # As published: the width of all heads together.
        self.scale = (row.heads * row.head_width) ** -0.5
        self.norm = batch_norm(channels)
        self.query_proj = conv2d(channels, row.heads * row.head_width, 1, init=nn.init.xavier_uniform_)
        self.key_down_proj, self.value_down_proj = nn.Identity(), nn.Identity()
        if row.key_stride > 1:
            options = {"groups": channels, "init": nn.init.xavier_uniform_}
            self.key_down_proj = ConvBNAct(channels, channels, 3, row.key_stride, **options)
            self.value_down_proj = ConvBNAct(channels, channels, 3, row.key_stride, **options)
        self.key_proj = conv2d(channels, row.head_width, 1, init=nn.init.xavier_uniform_)
        self.value_proj = conv2d(channels, row.head_width, 1, init=nn.init.xavier_uniform_)
        self.proj = conv2d(row.heads * row.head_width, channels, 1, init=nn.init.xavier_uniform_)
        self.layer_scale = LayerScale(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        height, width = x.shape[2:]
        # Since the heads share the keys, each head's queries are further positions of a single head.
        queries = self.query_proj(normed).unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3)
        queries = queries.flatten(1, 2).unsqueeze(1)
        keys = self.key_proj(self.key_down_proj(normed)).flatten(2).transpose(1, 2).unsqueeze(1)
        values = self.value_proj(self.value_down_proj(normed)).flatten(2).transpose(1, 2).unsqueeze(1)
        y = F.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        y = y.squeeze(1).unflatten(1, (self.heads, -1)).transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))
        return x + self.drop_path(self.layer_scale(self.proj(y)))


class MobileNetV4(Network):
    """MobileNet V4; the module paths are PaddleClas's.

    Args:
        rows: `SMALL` ... `HYBRID_LARGE`.
        stem: channels of the first convolution.
        class_dim: number of classes.
        activation: builds the activations.
        scaled: whether the universal blocks have a `LayerScale`, as attention blocks always do.
        drop_path_rate: probability to drop the last block's branch; it grows with depth. Plain convolutions among the
            blocks, which have no shortcut, are dropped entirely, as in PaddleClas.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        stem: int,
        class_dim: int = 1000,
        *,
        activation: Activation = relu,
        scaled: bool = False,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        channels = stem
        self.conv_stem = conv_bn(3, channels, 3, 2, activation=activation)
        self.blocks = nn.Sequential()
        for number, row in enumerate(rows):
            drop_path = drop_path_rate * number / len(rows)
            if isinstance(row, Attention):
                self.blocks.append(AttentionBlock(channels, row, drop_path))
                continue
            if isinstance(row, Conv):
                block = conv_bn(channels, row.out_channels, row.kernel_size, row.stride, activation=activation)
                if drop_path:
                    block.drop_path = DropPath(drop_path)
            elif isinstance(row, Fused):
                block = FusedBlock(channels, row, activation)
            else:
                block = UniversalBlock(channels, row, activation, scaled, drop_path)
            self.blocks.append(block)
            channels = row.out_channels
        self.conv_head = conv_bn(channels, 1280, 1, activation=activation)
        self.classifier = linear(1280, class_dim)

    def trunk(self) -> list[Layer]:
        return [self.conv_stem, *self.blocks]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 1,280 values that the classifier sees, (N, 1280)."""
        x = self.forward_trunk(images)
        return self.conv_head(x.mean((2, 3), keepdim=True)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.forward_features(images))


MobileNetV4_conv_small = partial(MobileNetV4, SMALL, 32)
MobileNetV4_conv_medium = partial(MobileNetV4, MEDIUM, 32)
MobileNetV4_conv_large = partial(MobileNetV4, LARGE, 24)
MobileNetV4_hybrid_medium = partial(MobileNetV4, HYBRID_MEDIUM, 32, scaled=True)
MobileNetV4_hybrid_large = partial(MobileNetV4, HYBRID_LARGE, 24, activation=nn.GELU, scaled=True)

INPUTS = {
    "*_conv_small": InputConfig(256, 256, BICUBIC, resize_backend="pil"),
    "*_conv_medium": InputConfig(320, 320, BICUBIC, resize_backend="pil"),
    "*_hybrid_medium": InputConfig(256, 256, BICUBIC, resize_backend="pil"),
    "*_large": InputConfig(448, 448, BICUBIC, resize_backend="pil"),
}
