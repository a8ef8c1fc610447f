"""MobileNeXt: inverted residuals turned inside out, shortcuts between the wide ends (Zhou et al., arXiv:2007.02269)."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from models.initializers import fan_out_normal_, small_normal_
from models.inputs import BICUBIC, InputConfig
from models.layers import UPSCALE_IN_TRAIN, Dropout, batch_norm, conv2d, linear, make_divisible
from models.network import Layer, Network


class Stage(NamedTuple):
    """A row of the paper's table 2, channels at width 1."""

    reduction: int
    out_channels: int
    depth: int
    stride: int


STAGES = (
    Stage(2, 96, 1, 2),
    Stage(6, 144, 1, 1),
    Stage(6, 192, 3, 2),
    Stage(6, 288, 3, 2),
    Stage(6, 384, 4, 1),
    Stage(6, 576, 4, 2),
    Stage(6, 960, 3, 1),
    Stage(6, 1280, 1, 1),
)


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, groups: int = 1, clip: bool = True
) -> list[nn.Module]:
    """A convolution, batch norm and, if `clip`, ReLU6."""
    conv = conv2d(in_channels, out_channels, kernel_size, stride, groups=groups, init=fan_out_normal_)
    return [conv, batch_norm(out_channels), *([nn.ReLU6(inplace=True)] if clip else [])]


class SandGlass(nn.Module):
    """Two 1x1 convolutions that narrow and widen, between two 3x3 depthwise ones.

    Args:
        reduction: reduction of the inner channels.
        single: whether it is the only block of a stage of stride 1. Such blocks have both depthwise convolutions, like
            blocks with a shortcut and the first block of stages with reduction 2. Other blocks have only the second
            one, and only if they stride.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, reduction: int, single: bool) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_channels == out_channels
        middle = in_channels // reduction
        if middle < out_channels / 6:
            middle = make_divisible(math.ceil(out_channels / 6), 16)
        whole = self.shortcut or single or reduction == 2
        layers = conv_bn(in_channels, in_channels, 3, groups=in_channels) if whole else []
        layers += conv_bn(in_channels, middle, 1, clip=False)
        layers += conv_bn(middle, out_channels, 1)
        if whole or stride > 1:
            layers += conv_bn(out_channels, out_channels, 3, stride, groups=out_channels, clip=False)
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNeXt(Network):
    """MobileNeXt with its channels multiplied by `scale`; the paths are PaddleClas's, except the classifier's."""

    def __init__(self, scale: float, class_dim: int = 1000) -> None:
        super().__init__()
        channels = make_divisible(32 * scale)
        self.features = nn.Sequential(nn.Sequential(*conv_bn(3, channels, 3, 2)))
        for stage in STAGES:
            # The last stage, the features, is not narrowed.
            last = stage is STAGES[-1]
            out_channels = make_divisible(stage.out_channels * (max(scale, 1.0) if last else scale))
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                single = stage.depth == stage.stride == 1
                self.features.append(SandGlass(channels, out_channels, stride, stage.reduction, single))
                channels = out_channels
        self.dropout = Dropout(0.2, UPSCALE_IN_TRAIN)
        self.fc = linear(channels, class_dim, init=small_normal_)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the classifier is the second of two layers."""
        return "classifier.1" if path == "fc" else path

    def trunk(self) -> list[Layer]:
        return [*self.features]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


MobileNeXt_x0_35 = partial(MobileNeXt, 0.35)
MobileNeXt_x0_5 = partial(MobileNeXt, 0.5)
MobileNeXt_x0_75 = partial(MobileNeXt, 0.75)
MobileNeXt_x1_0 = partial(MobileNeXt, 1.0)
MobileNeXt_x1_4 = partial(MobileNeXt, 1.4)

INPUTS = {"*": InputConfig(interpolation=BICUBIC, resize_backend="pil", decode_backend="pil")}
