"""PP-LCNet V2: depthwise convolutions of several sizes, trained in parallel (PaddleClas's documentation; no paper)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from models.fusion import Fusable, sum_branches_, take_sum_
from models.layers import ConvBNAct, ConvSqueezeExcitation, Dropout, conv2d, linear, make_divisible, relu
from models.names import override_batch_norm_decay
from models.network import Layer, Network


class Stage(NamedTuple):
    """How the blocks of a stage are built.

    Attributes:
        out_channels: output channels at width 1.
        parallel: whether the depthwise convolution is trained as a sum of several sizes.
        split: whether two pointwise convolutions replace one, with half of the channels between them.
    """

    out_channels: int
    kernel_size: int
    parallel: bool = False
    split: bool = False
    squeeze: bool = False
    shortcut: bool = False


STAGES = (
    Stage(128, 3),
    Stage(256, 3),
    Stage(512, 5, parallel=True, split=True, squeeze=True),
    Stage(1024, 5, parallel=True, shortcut=True),
)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, **options) -> ConvBNAct:
    """A convolution and batch norm; `options` are those of `ConvBNAct`."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, init=nn.init.kaiming_normal_, **options)


class ParallelDepthwise(Fusable, nn.ModuleList):
    """The sum of depthwise convolutions of all odd sizes up to `kernel_size`, each with its batch norm.

    At stride 2 there is none of size 1.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        sizes = range(kernel_size, 0 if stride == 1 else 1, -2)
        super().__init__(conv_bn(channels, channels, size, stride, groups=channels) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        return reduce(add, (branch(x) for branch in self))

    def fused(self) -> nn.Conv2d:
        """One convolution with the same result in evaluation."""
        branches = [cast(ConvBNAct, branch) for branch in self]
        largest = branches[0].conv
        channels, size, stride = largest.out_channels, largest.kernel_size[0], largest.stride[0]
        conv = conv2d(channels, channels, size, stride, groups=channels, bias=True)
        return sum_branches_(conv, [(branch.conv, branch.bn) for branch in branches])

    def take_fused(self, fused: nn.Module) -> None:
        """Takes the weights of the single convolution."""
        branches = [cast(ConvBNAct, branch) for branch in self]
        take_sum_(cast(nn.Conv2d, fused), [branch.bn for branch in branches], branches[0].conv.weight)


class DepthwiseSeparable(nn.Module):
    """A depthwise convolution, squeeze-and-excitation, and one or two pointwise convolutions.

    All module paths are PaddleClas's.
    """

    def __init__(self, in_channels: int, out_channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        self.shortcut = stage.shortcut and stride == 1
        self.depthwise = "dw_conv_list" if stage.parallel else "dw_conv"
        self.pointwise = ("pw_conv_1", "pw_conv_2") if stage.split else ("pw_conv",)
        if stage.parallel:
            self.dw_conv_list = ParallelDepthwise(in_channels, stage.kernel_size, stride)
        else:
            self.dw_conv = conv_bn(in_channels, in_channels, stage.kernel_size, stride, groups=in_channels)
        self.se: nn.Module = nn.Identity()
        if stage.squeeze:
            self.se = ConvSqueezeExcitation(in_channels, in_channels // 4)
        if stage.split:
            self.pw_conv_1 = conv_bn(in_channels, out_channels // 2, 1, activation=relu)
            self.pw_conv_2 = conv_bn(out_channels // 2, out_channels, 1, activation=relu)
        else:
            self.pw_conv = conv_bn(in_channels, out_channels, 1, activation=relu)

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(F.relu(self.get_submodule(self.depthwise)(x)))
        for name in self.pointwise:
            y = self.get_submodule(name)(y)
        return x + y if self.shortcut else y


class PPLCNetV2(Network):
    """PP-LCNet V2 with its channels multiplied by `scale`, except the 1,280 features; the paths are PaddleClas's.

    Args:
        depths: blocks of each of the four stages.
    """

    # PaddleClas's files also hold what `ParallelDepthwise.fused` computes.
    paddleclas_computed = r"stages\.[23]\.\d+\.dw_conv\.(weight|bias)"

    def __init__(self, scale: float, depths: Sequence[int], class_dim: int = 1000) -> None:
        super().__init__()
        channels = make_divisible(32 * scale)
        first = Stage(64, 3)
        out_channels = make_divisible(first.out_channels * scale)
        self.stem = nn.Sequential(
            conv_bn(3, channels, 3, 2, activation=relu), DepthwiseSeparable(channels, out_channels, first, 1)
        )
        channels = out_channels
        self.stages = nn.Sequential()
        for stage, depth in zip(STAGES, depths, strict=True):
            out_channels = make_divisible(stage.out_channels * scale)
            blocks = []
            for index in range(depth):
                blocks.append(DepthwiseSeparable(channels, out_channels, stage, 2 if index == 0 else 1))
                channels = out_channels
            self.stages.append(nn.Sequential(*blocks))
        self.last_conv = conv2d(channels, 1280, 1)
        self.dropout = Dropout(0.2)
        self.fc = linear(1280, class_dim, init=nn.init.xavier_uniform_)
        override_batch_norm_decay(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: se.conv1 and se.conv2 in the blocks."""
        return path.replace(".fc", ".conv")

    def trunk(self) -> list[Layer]:
        return [self.stem, *self.stages]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 1,280 values that the classifier sees, (N, 1280)."""
        x = self.forward_trunk(images)
        return F.relu(self.last_conv(x.mean((2, 3), keepdim=True))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


PPLCNetV2_small = partial(PPLCNetV2, 0.75, (2, 2, 4, 2))
PPLCNetV2_base = partial(PPLCNetV2, 1.0, (2, 2, 6, 2))
PPLCNetV2_large = partial(PPLCNetV2, 1.25, (2, 2, 8, 2))
