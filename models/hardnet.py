"""HarDNet: a DenseNet with few connections, for little memory traffic (Chao et al., arXiv:1909.00948)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.layers import UPSCALE_IN_TRAIN, ConvBNAct, Dropout, linear, relu6
from models.network import Layer, Network


class Stage(NamedTuple):
    """A harmonic dense block and the 1x1 convolution after it.

    Attributes:
        layers: number of layers in the block.
        growth: channels of its layers, before multiplication.
        out_channels: channels of the convolution.
        downsample: whether the resolution is halved at the end.
    """

    layers: int
    growth: int
    out_channels: int
    downsample: bool


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> ConvBNAct:
    """A convolution, batch norm and ReLU6."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, activation=relu6)


def depthwise(channels: int, stride: int = 1) -> ConvBNAct:
    """A 3x3 depthwise convolution and batch norm."""
    return ConvBNAct(channels, channels, 3, stride, groups=channels)


class SeparableConv(nn.Sequential):
    """A 1x1 convolution, and a 3x3 depthwise one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layer1 = conv(in_channels, out_channels, 1)
        self.layer2 = depthwise(out_channels)


def links(layer: int) -> list[int]:
    """The inputs of layer `layer` (0 is the input) of a block: the layers 2^n before it, if 2^n divides its number."""
    return [layer - 2**n for n in range(10) if layer % 2**n == 0 and layer >= 2**n]


class HarmonicDenseBlock(nn.Module):
    """Layers that take the outputs of some earlier layers; its output is those of the odd layers and the last.

    Args:
        multiplier: a layer has multiplier^n times the growth rate, if 2^n divides its number.
        separable: whether the layers are `SeparableConv`s instead of 3x3 convolutions.
    """

    def __init__(self, in_channels: int, growth: int, multiplier: float, layers: int, separable: bool) -> None:
        super().__init__()
        channels = [in_channels]
        self.layers = nn.ModuleList()
        for number in range(1, layers + 1):
            width = growth * multiplier ** (len(links(number)) - 1)
            channels.append(int(int(width + 1) / 2) * 2)  # even
            inputs = sum(channels[link] for link in links(number))
            layer = SeparableConv(inputs, channels[-1]) if separable else conv(inputs, channels[-1], 3)
            self.layers.append(layer)
        self.taken = [number for number in range(1, layers + 1) if number % 2 or number == layers]
        self.out_channels = sum(channels[number] for number in self.taken)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for number, layer in enumerate(self.layers, 1):
            inputs = [outputs[link] for link in links(number)]
            outputs.append(layer(torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]))
        return torch.cat([outputs[number] for number in self.taken], 1)


class HarDNet(Network):
    """HarDNet; the module paths are those of the paper's authors, except the classifier's.

    Args:
        stem: channels of the first two convolutions.
        stages: of the network.
        multiplier: as in `HarmonicDenseBlock`.
        class_dim: number of classes.
        dropout: probability before the classifier.
        separable: whether it has the "ds" form, with depthwise convolutions instead of 3x3 ones and pools.
        last_dropout: probability before the last 1x1 convolution; None: no dropout.
    """

    def __init__(
        self,
        stem: tuple[int, int],
        stages: tuple[Stage, ...],
        multiplier: float,
        class_dim: int = 1000,
        *,
        dropout: float,
        separable: bool = False,
        last_dropout: float | None = None,
    ) -> None:
        super().__init__()
        channels = stem[1]

        def halve(channels: int) -> nn.Module:
            return depthwise(channels, 2) if separable else nn.MaxPool2d(2, 2)

        self.base = nn.Sequential(
            conv(3, stem[0], 3, 2),
            conv(stem[0], channels, 1 if separable else 3),
            halve(channels) if separable else nn.MaxPool2d(3, 2, 1),
        )
        for stage in stages:
            block = HarmonicDenseBlock(channels, stage.growth, multiplier, stage.layers, separable)
            self.base.append(block)
            if stage is stages[-1] and last_dropout is not None:
                self.base.append(Dropout(last_dropout, UPSCALE_IN_TRAIN))
            channels = stage.out_channels
            self.base.append(conv(block.out_channels, channels, 1))
            if stage.downsample:
                self.base.append(halve(channels))
        self.dropout = Dropout(dropout, UPSCALE_IN_TRAIN)
        self.fc = linear(channels, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: conv or dwconv, and norm; the classifier is in the base."""
        if path == "fc":
            return f"base.{len(self.base)}.3"
        layer, _, leaf = path.rpartition(".")
        if leaf == "bn":
            return f"{layer}.norm"
        conv = self.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        return f"{layer}.{'dwconv' if conv.groups > 1 else 'conv'}"

    def trunk(self) -> list[Layer]:
        return [*self.base]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


STAGES_39 = (
    Stage(4, 16, 96, True),
    Stage(16, 20, 320, True),
    Stage(8, 64, 640, True),
    Stage(4, 160, 1024, False),
)
STAGES_68 = (
    Stage(8, 14, 128, True),
    Stage(16, 16, 256, False),
    Stage(16, 20, 320, True),
    Stage(16, 40, 640, True),
    Stage(4, 160, 1024, False),
)
STAGES_85 = (
    Stage(8, 24, 192, True),
    Stage(16, 24, 256, False),
    Stage(16, 28, 320, True),
    Stage(16, 36, 480, False),
    Stage(16, 48, 720, True),
    Stage(4, 256, 1280, False),
)


HarDNet39_ds = partial(HarDNet, (24, 48), STAGES_39, 1.6, dropout=0.05, separable=True)
HarDNet68_ds = partial(HarDNet, (32, 64), STAGES_68, 1.7, dropout=0.05, separable=True)
HarDNet68 = partial(HarDNet, (32, 64), STAGES_68, 1.7, dropout=0.1)
HarDNet85 = partial(HarDNet, (48, 96), STAGES_85, 1.7, dropout=0.2, last_dropout=0.1)
