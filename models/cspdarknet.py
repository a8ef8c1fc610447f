"""CSPDarkNet53: DarkNet53 with cross-stage partial connections (Wang et al., arXiv:1911.11929)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.inputs import InputConfig
from models.layers import ConvBNAct, linear
from models.network import Layer, Network

# (output channels, blocks) of the stages
STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))


def leaky_relu() -> nn.LeakyReLU:
    """x, or x / 100 below 0; in place."""
    return nn.LeakyReLU(0.01, inplace=True)


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> ConvBNAct:
    """A convolution, batch norm and leaky ReLU."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, activation=leaky_relu)


class DarkBlock(nn.Module):
    """A 1x1 and a 3x3 convolution around a shortcut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, width, 1)
        self.conv2 = conv(width, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class CrossStage(nn.Module):
    """Half of the channels pass the blocks, the others go past them.

    Args:
        first: whether this is the first stage, which has twice the channels inside, and blocks with a bottleneck.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, first: bool) -> None:
        super().__init__()
        expanded = 2 * out_channels if first else out_channels
        half = expanded // 2
        self.conv_down = conv(in_channels, out_channels, 3, 2)
        self.conv_exp = conv(out_channels, expanded, 1)
        width = half // 2 if first else half
        self.blocks = nn.Sequential(*(DarkBlock(half, width) for _ in range(depth)))
        self.conv_transition_b = conv(half, half, 1)
        self.conv_transition = conv(expanded, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        past, through = self.conv_exp(self.conv_down(x)).chunk(2, 1)
        through = self.conv_transition_b(self.blocks(through))
        return self.conv_transition(torch.cat([past, through], 1))


class CSPDarkNet(Network):
    """CSPDarkNet53; the module paths are PaddleClas's, except the stem's."""

    def __init__(self, class_dim: int = 1000) -> None:
        super().__init__()
        channels = 32
        self.stem = conv(3, channels, 3)
        self.stages = nn.Sequential()
        for number, (width, depth) in enumerate(STAGES):
            self.stages.append(CrossStage(channels, width, depth, first=number == 0))
            channels = width
        self.fc = linear(channels, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the stem's only convolution has a name."""
        return path.replace("stem.", "stem.conv1.")

    def trunk(self) -> list[Layer]:
        return [self.stem, *self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


CSPDarkNet53 = CSPDarkNet

INPUTS = {"*": InputConfig(256, 288)}
