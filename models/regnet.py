"""RegNetX: networks whose widths grow linearly with depth (Radosavovic et al., arXiv:2003.13678).

A network is given by its stages, which result from the paper's rule of four parameters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import InputConfig
from models.layers import batch_norm, conv2d, linear, relu
from models.network import Layer, Network


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, groups: int = 1, rectify: bool = True
) -> nn.Sequential:
    """A convolution, batch norm and, if `rectify`, ReLU."""
    conv = conv2d(in_channels, out_channels, kernel_size, stride, groups=groups)
    return nn.Sequential(conv, batch_norm(out_channels), *([relu()] if rectify else []))


class Transform(nn.Sequential):
    """The residual branch: 1x1, grouped 3x3 and 1x1 convolutions, all of the same width."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.a = conv_bn(in_channels, out_channels, 1)
        self.b = conv_bn(out_channels, out_channels, 3, stride, groups=out_channels // group_width)
        self.c = conv_bn(out_channels, out_channels, 1, rectify=False)


class Block(nn.Module):
    """The X block: `Transform` with a shortcut, which the first block of a stage projects."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.proj: nn.Module = nn.Identity()
        if stride > 1:
            self.proj = conv_bn(in_channels, out_channels, 1, stride, rectify=False)
        self.f = Transform(in_channels, out_channels, stride, group_width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.proj(x) + self.f(x))


class RegNet(Network):
    """RegNetX; the module paths are torchvision's, whose network of 400 MF ends with 400 channels instead of 384.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
        group_width: channels of a group of the 3x3 convolutions; narrower stages have a single group.
        class_dim: number of classes.
    """

    def __init__(self, depths: Sequence[int], widths: Sequence[int], group_width: int, class_dim: int = 1000) -> None:
        super().__init__()
        channels = 32
        self.stem = conv_bn(3, channels, 3, 2)
        self.trunk_output = nn.Sequential()
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            blocks = nn.Sequential()
            for index in range(depth):
                block = Block(channels, width, 2 if index == 0 else 1, min(group_width, width))
                blocks.add_module(f"block{stage}-{index}", block)
                channels = width
            self.trunk_output.add_module(f"block{stage}", blocks)
        self.fc = linear(channels, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the blocks are s1_b1 ... s4_b12, their parts conv0 to conv2 and short."""
        if path == "fc":
            return "out"
        leaf = {"0": "_conv", "1": "_batch_norm"}[path[-1]]
        if path.startswith("stem"):
            return f"conv.{leaf}"
        match = re.search(r"block(\d)-(\d+)\.(?:f\.)?(\w+)", path)
        assert match is not None, path
        stage, index, part = match.groups()
        part = {"a": "conv0", "b": "conv1", "c": "conv2", "proj": "short"}[part]
        return f"s{stage}_b{int(index) + 1}.{part}.{leaf}"

    def trunk(self) -> list[Layer]:
        return [self.stem, *self.trunk_output]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


RegNetX_200MF = partial(RegNet, (1, 1, 4, 7), (24, 56, 152, 368), 8)
RegNetX_400MF = partial(RegNet, (1, 2, 7, 12), (32, 64, 160, 384), 16)
RegNetX_600MF = partial(RegNet, (1, 3, 5, 7), (48, 96, 240, 528), 24)
RegNetX_800MF = partial(RegNet, (1, 3, 7, 5), (64, 128, 288, 672), 16)
RegNetX_1600MF = partial(RegNet, (2, 4, 10, 2), (72, 168, 408, 912), 24)
RegNetX_3200MF = partial(RegNet, (2, 6, 15, 2), (96, 192, 432, 1008), 48)
RegNetX_4GF = partial(RegNet, (2, 5, 14, 2), (80, 240, 560, 1360), 40)
RegNetX_6400MF = partial(RegNet, (2, 4, 10, 1), (168, 392, 784, 1624), 56)
RegNetX_8GF = partial(RegNet, (2, 5, 15, 1), (80, 240, 720, 1920), 120)
RegNetX_12GF = partial(RegNet, (2, 5, 11, 1), (224, 448, 896, 2240), 112)
RegNetX_16GF = partial(RegNet, (2, 6, 13, 1), (256, 512, 896, 2048), 128)
RegNetX_32GF = partial(RegNet, (2, 7, 13, 1), (336, 672, 1344, 2520), 168)

INPUTS = {
    "RegNetX_4GF": InputConfig(),  # PaddleClas has no configuration for it
    "*": InputConfig(256, 256),
}
