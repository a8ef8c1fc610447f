"""PP-HGNet: dense aggregation of plain 3x3 convolutions, for GPUs (PaddleClas's documentation; it has no paper)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import ConvBNAct, Dropout, conv2d, linear, relu
from models.names import override_batch_norm_decay
from models.network import Layer, Network


class Stage(NamedTuple):
    """A stage: channels of its layers and of its output, and number of blocks."""

    width: int
    out_channels: int
    depth: int


class EffectiveSqueezeExcitation(nn.Module):
    """Channel attention through a single layer (Lee and Park, arXiv:1911.06667)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv2d(channels, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)))


class HGBlock(nn.Module):
    """A chain of 3x3 convolutions; a 1x1 convolution aggregates all their outputs and the input.

    Args:
        layers: length of the chain.
        shortcut: whether to add the input to the output.
    """

    def __init__(self, in_channels: int, stage: Stage, layers: int, shortcut: bool) -> None:
        super().__init__()
        width, out_channels = stage.width, stage.out_channels
        self.layers = nn.ModuleList(
            ConvBNAct(width if index else in_channels, width, 3, activation=relu) for index in range(layers)
        )
        self.aggregation_conv = ConvBNAct(in_channels + layers * width, out_channels, 1, activation=relu)
        self.att = EffectiveSqueezeExcitation(out_channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.att(self.aggregation_conv(torch.cat(outputs, 1)))
        return x + y if self.shortcut else y


class HGStage(nn.Module):
    """Blocks, after a depthwise convolution of stride 2 if `downsample`."""

    def __init__(self, in_channels: int, stage: Stage, layers: int, downsample: bool) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if downsample:
            self.downsample = ConvBNAct(in_channels, in_channels, 3, 2, groups=in_channels)
        self.blocks = nn.Sequential(
            *(
                HGBlock(stage.out_channels if index else in_channels, stage, layers, shortcut=index > 0)
                for index in range(stage.depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class PPHGNet(Network):
    """PP-HGNet; the module paths are PaddleClas's.

    Args:
        stem_channels: channels of the three convolutions before the stages.
        stages: the four stages.
        layers: number of layers in every block.
        class_dim: number of classes.
        dropout: probability before the classifier.
    """

    def __init__(
        self,
        stem_channels: Sequence[int],
        stages: Sequence[Stage],
        layers: int,
        class_dim: int = 1000,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        channels = 3
        for index, width in enumerate(stem_channels):
            self.stem.append(ConvBNAct(channels, width, 3, 1 if index else 2, activation=relu))
            channels = width
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.Sequential()
        for number, stage in enumerate(stages):
            self.stages.append(HGStage(channels, stage, layers, downsample=number > 0))
            channels = stage.out_channels
        self.last_conv = conv2d(channels, 2048, 1)
        self.dropout = Dropout(dropout)
        self.fc = linear(2048, class_dim)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        override_batch_norm_decay(self)

    def trunk(self) -> list[Layer]:
        return [self.stem, self.pool, *self.stages]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 2,048 values that the classifier sees, (N, 2048)."""
        x = self.forward_trunk(images)
        return F.relu(self.last_conv(x.mean((2, 3), keepdim=True))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


TINY = (Stage(96, 224, 1), Stage(128, 448, 1), Stage(160, 512, 2), Stage(192, 768, 1))
SMALL = (Stage(128, 256, 1), Stage(160, 512, 1), Stage(192, 768, 2), Stage(224, 1024, 1))
BASE = (Stage(192, 320, 1), Stage(224, 640, 2), Stage(256, 960, 3), Stage(288, 1280, 2))

PPHGNet_tiny = partial(PPHGNet, (48, 48, 96), TINY, 5)
PPHGNet_small = partial(PPHGNet, (64, 64, 128), SMALL, 6)
PPHGNet_base = partial(PPHGNet, (96, 96, 160), BASE, 7, dropout=0.2)

INPUTS = {
    "PPHGNet_tiny": InputConfig(224, 232, BICUBIC, resize_backend="pil"),
    "*": InputConfig(224, 236, BICUBIC, resize_backend="pil"),
}
