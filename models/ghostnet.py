"""GhostNet: half of the feature maps come from the other half by cheap operations (Han et al., arXiv:1911.11907)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.layers import UPSCALE_IN_TRAIN, ConvBNAct, Dropout, SqueezeExcitation, linear, make_divisible, relu
from models.names import override_batch_norm_decay
from models.network import Layer, Network


class Block(NamedTuple):
    """A row of the paper's table 1, channels at width 1."""

    kernel_size: int
    expanded: int
    out_channels: int
    squeeze: bool
    stride: int


BLOCKS = (
    Block(3, 16, 16, False, 1),
    Block(3, 48, 24, False, 2),
    Block(3, 72, 24, False, 1),
    Block(5, 72, 40, True, 2),
    Block(5, 120, 40, True, 1),
    Block(3, 240, 80, False, 2),
    Block(3, 200, 80, False, 1),
    Block(3, 184, 80, False, 1),
    Block(3, 184, 80, False, 1),
    Block(3, 480, 112, True, 1),
    Block(3, 672, 112, True, 1),
    Block(5, 672, 160, True, 2),
    Block(5, 960, 160, False, 1),
    Block(5, 960, 160, True, 1),
    Block(5, 960, 160, False, 1),
    Block(5, 960, 160, True, 1),
)


class GhostModule(nn.Module):
    """A 1x1 convolution to half of the channels; a 3x3 depthwise convolution of these makes the other half."""

    def __init__(self, in_channels: int, out_channels: int, *, rectify: bool) -> None:
        super().__init__()
        half = out_channels // 2
        activation = relu if rectify else None
        self.primary_conv = ConvBNAct(in_channels, half, 1, activation=activation)
        self.cheap_operation = ConvBNAct(half, half, 3, groups=half, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], 1)


class GhostBottleneck(nn.Module):
    """Two ghost modules, the first of which expands, around a shortcut.

    Args:
        expanded: channels between the two.
        block: kernel size and stride of the depthwise convolution between the two, which strided blocks have.
    """

    def __init__(self, in_channels: int, expanded: int, out_channels: int, block: Block) -> None:
        super().__init__()
        kernel_size, stride = block.kernel_size, block.stride
        self.ghost_module_1 = GhostModule(in_channels, expanded, rectify=True)
        self.depthwise_conv: nn.Module = nn.Identity()
        if stride > 1:
            self.depthwise_conv = ConvBNAct(expanded, expanded, kernel_size, stride, groups=expanded)
        self.se_block: nn.Module = nn.Identity()
        if block.squeeze:
            self.se_block = SqueezeExcitation(expanded, expanded // 4, gate=lambda x: x.clamp(0.0, 1.0))
        self.ghost_module_2 = GhostModule(expanded, out_channels, rectify=False)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                ConvBNAct(in_channels, in_channels, kernel_size, stride, groups=in_channels),
                ConvBNAct(in_channels, out_channels, 1),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.se_block(self.depthwise_conv(self.ghost_module_1(x)))
        return self.shortcut(x) + self.ghost_module_2(y)


class GhostNet(Network):
    """GhostNet with its channels multiplied by `scale`, except the 1,280 features."""

    def __init__(self, scale: float, class_dim: int = 1000) -> None:
        super().__init__()
        channels = make_divisible(16 * scale, 4)
        self.conv1 = ConvBNAct(3, channels, 3, 2, activation=relu)
        self.blocks = nn.Sequential()
        expanded = channels
        for block in BLOCKS:
            expanded, out_channels = (make_divisible(width * scale, 4) for width in block[1:3])
            self.blocks.append(GhostBottleneck(channels, expanded, out_channels, block))
            channels = out_channels
        self.conv_last = ConvBNAct(channels, expanded, 1, activation=relu)
        self.fc_0 = ConvBNAct(expanded, 1280, 1, activation=relu)
        self.dropout = Dropout(0.2, UPSCALE_IN_TRAIN)
        self.fc_1 = linear(1280, class_dim)
        override_batch_norm_decay(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the blocks are _ghostbottleneck_0 ... 15; the parts of their shortcuts have names."""
        names = {
            "blocks.": "_ghostbottleneck_",
            ".shortcut.0": ".shortcut_depthwise",
            ".shortcut.1": ".shortcut_conv",
            ".conv": "._conv",
            ".bn": "._batch_norm",
            ".fc1": ".squeeze",
            ".fc2": ".excitation",
        }
        for ours, theirs in names.items():
            path = path.replace(ours, theirs)
        return path

    def trunk(self) -> list[Layer]:
        return [self.conv1, *self.blocks]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 1,280 values that the classifier sees, (N, 1280)."""
        x = self.conv_last(self.forward_trunk(images))
        return self.fc_0(x.mean((2, 3), keepdim=True)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc_1(self.dropout(self.forward_features(images)))


GhostNet_x0_5 = partial(GhostNet, 0.5)
GhostNet_x1_0 = partial(GhostNet, 1.0)
GhostNet_x1_3 = partial(GhostNet, 1.3)
