"""ESNet: ShuffleNet V2 with depthwise convolutions between the halves and gated channels (Yu et al., arXiv:2111.00902).

The paper calls it Enhanced ShuffleNet: it is the backbone of PP-PicoDet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvBNAct, ConvSqueezeExcitation, Dropout, conv2d, hard_swish, linear, make_divisible
from models.names import override_batch_norm_decay
from models.network import Layer, Network
from models.shufflenet_v2 import interleave

# (channels at width 1, blocks) of the stages
STAGES = ((116, 3), (232, 7), (464, 3))


def conv(in_channels: int, out_channels: int) -> ConvBNAct:
    """A 1x1 convolution, batch norm and hard swish."""
    return ConvBNAct(in_channels, out_channels, 1, activation=hard_swish, init=nn.init.kaiming_normal_)


def depthwise(channels: int, stride: int, *, activation: Callable[[], nn.Module] | None = None) -> ConvBNAct:
    """A 3x3 depthwise convolution and batch norm, and an optional activation."""
    options = {"activation": activation, "init": nn.init.kaiming_normal_}
    return ConvBNAct(channels, channels, 3, stride, groups=channels, **options)


def gate(channels: int) -> ConvSqueezeExcitation:
    """Squeeze-and-excitation, to a quarter of the channels."""
    return ConvSqueezeExcitation(channels, channels // 4, gate=F.hardsigmoid, init=nn.init.kaiming_normal_)


class ShuffleBlock(nn.Module):
    """One half of the channels passes through unchanged; then the halves are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.pw_1_1 = conv(half, half)
        self.dw_1 = depthwise(half, 1)
        self.se = gate(channels)
        self.pw_1_2 = conv(channels, half)

    def forward(self, x: Tensor) -> Tensor:
        kept, x = x.chunk(2, 1)
        x = self.pw_1_1(x)
        x = self.pw_1_2(self.se(torch.cat([x, self.dw_1(x)], 1)))
        return interleave(kept, x)


class DownBlock(nn.Module):
    """Two branches of stride 2, concatenated and mixed."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.dw_1 = depthwise(in_channels, 2)
        self.pw_1 = conv(in_channels, half)
        self.pw_2_1 = conv(in_channels, half)
        self.dw_2 = depthwise(half, 2)
        self.se = gate(half)
        self.pw_2_2 = conv(half, half)
        self.concat_dw = depthwise(out_channels, 1, activation=hard_swish)
        self.concat_pw = conv(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        first = self.pw_1(self.dw_1(x))
        second = self.pw_2_2(self.se(self.dw_2(self.pw_2_1(x))))
        return self.concat_pw(self.concat_dw(torch.cat([first, second], 1)))


class ESNet(Network):
    """ESNet with the channels of its stages multiplied by `scale`; the module paths are PaddleClas's."""

    def __init__(self, scale: float, class_dim: int = 1000) -> None:
        super().__init__()
        channels = 24
        self.conv1 = ConvBNAct(3, channels, 3, 2, activation=hard_swish, init=nn.init.kaiming_normal_)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential()
        for width, depth in STAGES:
            out_channels = make_divisible(width * scale)
            self.blocks.append(DownBlock(channels, out_channels))
            for _ in range(depth - 1):
                self.blocks.append(ShuffleBlock(out_channels))
            channels = out_channels
        self.conv2 = conv(channels, 1024)
        self.last_conv = conv2d(1024, 1280, 1, init=nn.init.kaiming_normal_)
        self.dropout = Dropout(0.2)
        self.fc = linear(1280, class_dim, init=nn.init.xavier_uniform_)
        override_batch_norm_decay(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: se.conv1 and se.conv2 in the blocks."""
        return path.replace(".fc", ".conv")

    def trunk(self) -> list[Layer]:
        return [self.conv1, self.maxpool, *self.blocks]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 1,280 values that the classifier sees, (N, 1280)."""
        x = self.conv2(self.forward_trunk(images))
        return F.hardswish(self.last_conv(x.mean((2, 3), keepdim=True))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


ESNet_x0_25 = partial(ESNet, 0.25)
ESNet_x0_5 = partial(ESNet, 0.5)
ESNet_x0_75 = partial(ESNet, 0.75)
ESNet_x1_0 = partial(ESNet, 1.0)
