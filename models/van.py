"""VAN: convolutional attention of a large kernel (Guo et al., arXiv:2202.09741).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.inputs import BICUBIC, MINUS_ONE_TO_ONE, InputConfig
from models.layers import DropPath, batch_norm, conv2d
from models.network import Layer, Network
from models.transformer import LayerNorm2d, dense, drop_path_rates, init_convolutions


class LargeKernelAttention(nn.Module):
    """A gate from a 21x21 neighbourhood: a 5x5 and a dilated 7x7 depthwise convolution, then a 1x1 one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = conv2d(channels, channels, 5, groups=channels, bias=True)
        self.conv_spatial = conv2d(channels, channels, 7, groups=channels, dilation=3, bias=True)
        self.conv1 = conv2d(channels, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class Attention(nn.Module):
    """`LargeKernelAttention` between 1x1 convolutions, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = conv2d(channels, channels, 1, bias=True)
        self.activation = nn.GELU()
        self.spatial_gating_unit = LargeKernelAttention(channels)
        self.proj_2 = conv2d(channels, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))


class ConvMlp(nn.Module):
    """1x1 convolutions with a 3x3 depthwise one and a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = conv2d(channels, hidden, 1, bias=True)
        self.dwconv = nn.Sequential()
        self.dwconv.dwconv = conv2d(hidden, hidden, 3, groups=hidden, bias=True)
        self.act = nn.GELU()
        self.fc2 = conv2d(hidden, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    """Attention, then an MLP, each with a batch norm before it, a scale per channel, and a shortcut around it."""

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = batch_norm(channels)
        self.attn = Attention(channels)
        self.norm2 = batch_norm(channels)
        self.mlp = ConvMlp(channels, mlp_ratio * channels)
        self.layer_scale_1 = nn.Parameter(torch.full((channels, 1, 1), 0.01))
        self.layer_scale_2 = nn.Parameter(torch.full((channels, 1, 1), 0.01))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))


class OverlapPatchEmbed(nn.Module):
    """A strided convolution and a batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = conv2d(in_channels, out_channels, kernel_size, stride, bias=True)
        self.norm = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class VAN(Network):
    """VAN.

    Args:
        depths: number of blocks of each stage.
        class_dim: number of classes.
        channels, mlp_ratios: of each stage.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        class_dim: int = 1000,
        *,
        channels: tuple[int, ...] = (64, 128, 320, 512),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = len(depths)
        in_channels = 3
        for index, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            kernel_size, stride = (3, 2) if index else (7, 4)
            blocks = nn.Sequential(*(Block(width, mlp_ratios[index], next(rates)) for _ in range(depth)))
            self.add_module(f"patch_embed{index + 1}", OverlapPatchEmbed(in_channels, width, kernel_size, stride))
            self.add_module(f"block{index + 1}", blocks)
            self.add_module(f"norm{index + 1}", LayerNorm2d(width, 1e-6))
            in_channels = width
        self.head = dense(in_channels, class_dim)
        init_convolutions(self)

    def trunk(self) -> list[Layer]:
        stages = range(1, self.stages + 1)
        return [self.get_submodule(f"{name}{number}") for number in stages for name in ("patch_embed", "block", "norm")]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


VAN_B0 = partial(VAN, (3, 3, 5, 2), channels=(32, 64, 160, 256))
VAN_B1 = partial(VAN, (2, 2, 4, 2))
VAN_B2 = partial(VAN, (3, 3, 12, 3))
VAN_B3 = partial(VAN, (3, 5, 27, 3), drop_path_rate=0.2)

INPUTS = {"*": InputConfig(224, 248, BICUBIC, *MINUS_ONE_TO_ONE, resize_backend="pil")}
