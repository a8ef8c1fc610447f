"""PeleeNet: a DenseNet of plain convolutions, with two receptive fields per layer (Wang et al., arXiv:1804.06882)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.inputs import InputConfig
from models.layers import UPSCALE_IN_TRAIN, ConvBNAct, Dropout, linear, relu
from models.network import Layer, Network

# (layers, channels of their 1x1 convolutions) of the dense blocks
BLOCKS = ((3, 16), (4, 32), (8, 64), (6, 64))
GROWTH = 32


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> ConvBNAct:
    """A convolution, batch norm and ReLU."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, activation=relu)


class Stem(nn.Module):
    """Reduces the resolution to a quarter, with a convolution in parallel to a max pool."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem1 = conv(3, channels, 3, 2)
        self.stem2a = conv(channels, channels // 2, 1)
        self.stem2b = conv(channels // 2, channels, 3, 2)
        self.stem3 = conv(2 * channels, channels, 1)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem1(images)
        return self.stem3(torch.cat([self.pool(x), self.stem2b(self.stem2a(x))], 1))


class DenseLayer(nn.Module):
    """Appends to the input 16 channels with a 3x3 receptive field, and 16 with a 5x5 one.

    Args:
        width: channels of the 1x1 convolution at the start of both.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        half = GROWTH // 2
        self.branch1a = conv(in_channels, width, 1)
        self.branch1b = conv(width, half, 3)
        self.branch2a = conv(in_channels, width, 1)
        self.branch2b = conv(width, half, 3)
        self.branch2c = conv(half, half, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [x, self.branch1b(self.branch1a(x)), self.branch2c(self.branch2b(self.branch2a(x)))],
            1,
        )


class Pelee(Network):
    """PeleeNet; the module paths are those of the paper's authors."""

    def __init__(self, class_dim: int = 1000) -> None:
        super().__init__()
        channels = 32
        self.features = nn.Sequential()
        self.features.add_module("stemblock", Stem(channels))
        for number, (depth, width) in enumerate(BLOCKS, 1):
            block = nn.Sequential()
            for index in range(1, depth + 1):
                block.add_module(f"denselayer{index}", DenseLayer(channels, width))
                channels += GROWTH
            self.features.add_module(f"denseblock{number}", block)
            self.features.add_module(f"transition{number}", conv(channels, channels, 1))
            if number < len(BLOCKS):
                self.features.add_module(f"transition{number}_pool", nn.AvgPool2d(2, 2))
        self.dropout = Dropout(0.05, UPSCALE_IN_TRAIN)
        self.classifier = linear(channels, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the batch norms are called norm."""
        return path.replace(".bn", ".norm")

    def trunk(self) -> list[Layer]:
        return [*self.features]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.dropout(self.forward_features(images)))


PeleeNet = Pelee

INPUTS = {"*": InputConfig(resize_backend="pil")}
