"""ResNeSt: a ResNet whose 3x3 convolutions are split and weighted by attention (Zhang et al., arXiv:2004.08955)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import InputConfig
from models.layers import ConvBNAct, conv2d, linear, relu
from models.network import Layer, Network


class SplitAttention(nn.Module):
    """A 3x3 convolution to `radix` maps, summed with weights that add up to 1 for every channel.

    Args:
        channels: channels of the input and of the output.
        radix: number of maps; with 1, the weights are plain gates.
    """

    def __init__(self, channels: int, stride: int, radix: int) -> None:
        super().__init__()
        self.radix = radix
        inner = max(channels * radix // 4, 32)
        self.conv1 = ConvBNAct(channels, channels * radix, 3, stride, groups=radix, activation=relu)
        self.conv2 = ConvBNAct(channels, inner, 1, activation=relu)
        self.conv3 = conv2d(inner, channels * radix, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv1(x)
        split = maps.unflatten(1, (self.radix, -1))
        pooled = split.sum(1).mean((2, 3), keepdim=True)
        weights = self.conv3(self.conv2(pooled))
        if self.radix == 1:
            return maps * weights.sigmoid()
        weights = weights.unflatten(1, (self.radix, -1)).softmax(1)
        return (split * weights).sum(1)


class Bottleneck(nn.Module):
    """1x1, split-attention 3x3 and 1x1 convolutions around a shortcut.

    Args:
        width: inner channels; a quarter of the output's.
        radix: as in `SplitAttention`.
        pool_first: whether a strided block averages before its 3x3 convolution, not after.
        project: whether the shortcut has a 1x1 convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int, radix: int, pool_first: bool, project: bool) -> None:
        super().__init__()
        out_channels = 4 * width
        pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False) if stride > 1 else nn.Identity()
        self.conv1 = ConvBNAct(in_channels, width, 1, activation=relu)
        self.pool_before = pool if pool_first else nn.Identity()
        self.conv2 = SplitAttention(width, 1, radix)
        self.pool_after = nn.Identity() if pool_first else pool
        self.conv3 = ConvBNAct(width, out_channels, 1)
        self.shortcut = nn.Sequential()
        if project:
            # The pool is as large as the stride, so it does nothing in the first stage.
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                ConvBNAct(in_channels, out_channels, 1),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool_after(self.conv2(self.pool_before(self.conv1(x))))
        return F.relu(self.conv3(y) + self.shortcut(x))


class ResNeSt(Network):
    """ResNeSt.

    Args:
        depths: blocks of each of the four stages.
        class_dim: number of classes.
        stem_width: channels of the first two convolutions; the third has twice as many.
        radix: as in `SplitAttention`.
        pool_first: as in `Bottleneck`.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depths: Sequence[int],
        class_dim: int = 1000,
        *,
        stem_width: int = 64,
        radix: int = 2,
        pool_first: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBNAct(3, stem_width, 3, 2, activation=relu),
            ConvBNAct(stem_width, stem_width, 3, activation=relu),
            ConvBNAct(stem_width, 2 * stem_width, 3, activation=relu),
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 2 * stem_width
        for stage, depth in enumerate(depths, 1):
            width = 32 * 2**stage
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(Bottleneck(channels, width, stride, radix, pool_first, project=index == 0))
                channels = 4 * width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = linear(channels, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: a block's name has its stage; the shortcut's convolution and batch norm are separate."""
        if path == "fc":
            return "out"
        path = re.sub(r"^stem\.(\d)", lambda match: f"stem.conv{int(match[1]) + 1}", path)
        path = re.sub(r"^layer(\d)\.(\d+)", r"layer\1.layer\1_bottleneck_\2", path)
        path = path.replace("shortcut.1.conv", "conv4").replace("shortcut.1.bn", "_batch_norm")
        return re.sub(r"\.conv$", "._conv", path).replace(".bn", "._batch_norm")

    def trunk(self) -> list[Layer]:
        return [self.stem, self.maxpool, self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


ResNeSt50_fast_1s1x64d = partial(ResNeSt, (3, 4, 6, 3), stem_width=32, radix=1, pool_first=True)
ResNeSt50 = partial(ResNeSt, (3, 4, 6, 3), stem_width=32)
ResNeSt101 = partial(ResNeSt, (3, 4, 23, 3))
ResNeSt200 = partial(ResNeSt, (3, 24, 36, 3))
ResNeSt269 = partial(ResNeSt, (3, 30, 48, 8))

INPUTS = {
    "ResNeSt101": InputConfig(256, 288),
    "ResNeSt200": InputConfig(320, 320),
    "ResNeSt269": InputConfig(416, 416),
}
