"""MicroNet: factorized convolutions and dynamic activations, for few operations (Li et al., arXiv:2108.05894)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import fan_out_normal_, small_normal_
from models.inputs import InputConfig
from models.layers import UPSCALE_IN_TRAIN, Dropout, batch_norm, conv2d, linear, make_divisible
from models.network import Layer, Network


class Early(NamedTuple):
    """A block whose depthwise convolution expands the channels fourfold.

    Attributes:
        mixed: number of groups between which the expanded channels are shuffled.
        groups: groups of the 1x1 convolution.
        plain: whether a ReLU6 replaces the dynamic activation between the two.
    """

    out_channels: int
    kernel_size: int
    stride: int
    mixed: int
    groups: int
    plain: bool = False


class Middle(NamedTuple):
    """A block that expands with a 1x1 convolution.

    Attributes:
        expand_groups, groups: groups of the first and the last 1x1 convolution.
        reduction: reduction of the inner channels of the dynamic activations.
    """

    out_channels: int
    kernel_size: int
    stride: int
    expansion: int
    expand_groups: int
    groups: int
    reduction: int


class Last(NamedTuple):
    """A block that ends after the expansion."""

    expansion: int
    groups: int


Row = Early | Middle | Last


class Activations(NamedTuple):
    """The dynamic activations of a network.

    Attributes:
        everywhere: whether each convolution of a block has one, instead of only the middle one.
        scales, shifts: initial coefficients of the middle one's two terms.
    """

    everywhere: bool
    scales: tuple[float, float]
    shifts: tuple[float, float]


EVERYWHERE = Activations(True, (1.0, 1.0), (0.0, 0.0))
MIDDLE_ONLY = Activations(False, (1.0, 0.5), (0.0, 0.5))


class GroupConv(nn.Module):
    """A 1x1 convolution and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        conv = conv2d(in_channels, out_channels, 1, groups=groups, init=fan_out_normal_)
        self.conv = nn.Sequential(conv, batch_norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FactorizedConv(nn.Module):
    """A k x 1 and a 1 x k convolution, each with batch norm; the second one is depthwise.

    Args:
        middle_channels: channels between the two.
        groups: groups of the first.
    """

    def __init__(
        self, in_channels: int, middle_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv2d(in_channels, middle_channels, (kernel_size, 1), (stride, 1), groups=groups, init=fan_out_normal_),
            batch_norm(middle_channels),
            conv2d(
                middle_channels,
                out_channels,
                (1, kernel_size),
                (1, stride),
                groups=middle_channels,
                init=fan_out_normal_,
            ),
            batch_norm(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DynamicShiftMax(nn.Module):
    """The maximum of weighted sums of a channel and a channel of the next group; the weights depend on the image.

    Args:
        reduction: reduction of the channels between the two linear layers.
        groups: groups of the channels.
        scales, shifts: initial coefficients of the sums, one of each per sum.
    """

    def __init__(
        self, channels: int, reduction: int, groups: int, scales: Sequence[float], shifts: Sequence[float]
    ) -> None:
        super().__init__()
        self.groups = groups
        self.beginnings = [coefficient for pair in zip(scales, shifts, strict=True) for coefficient in pair]
        inner = make_divisible(channels // reduction, 4)
        self.fc = nn.Sequential(
            linear(channels, inner, init=small_normal_),
            nn.ReLU(inplace=True),
            linear(inner, channels * len(self.beginnings), init=small_normal_),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        # The next channel of the next group.
        shifted = x.unflatten(1, (self.groups, -1)).roll((-1, -1), (1, 2)).flatten(1, 2)
        residuals = 4.0 * (self.fc(x.mean((2, 3))) - 0.5)  # -2 ... 2
        coefficients = [
            residual[:, :, None, None] + beginning
            for residual, beginning in zip(residuals.chunk(len(self.beginnings), 1), self.beginnings, strict=True)
        ]
        y = x * coefficients[0] + shifted * coefficients[1]
        if len(coefficients) == 2:
            return y
        return torch.maximum(y, x * coefficients[2] + shifted * coefficients[3])


class MicroBlock(nn.Module):
    """The block of a row, with a shortcut if the shapes allow it. Missing layers are identities."""

    def __init__(self, in_channels: int, row: Row, activations: Activations) -> None:
        super().__init__()
        self.shortcut = False
        if isinstance(row, Last):
            self.out_channels = in_channels * row.expansion
            self.layers = nn.Sequential(
                GroupConv(in_channels, self.out_channels, row.groups),
                self.single(self.out_channels, 16, row.groups, activations),
            )
            return
        self.out_channels = row.out_channels
        self.shortcut = row.stride == 1 and in_channels == row.out_channels
        double = {"scales": activations.scales, "shifts": activations.shifts}
        if isinstance(row, Early):
            width, reduction = 4 * in_channels, 1
            layers = [
                FactorizedConv(in_channels, 2 * in_channels, width, row.kernel_size, row.stride, in_channels),
                nn.ReLU6(inplace=True) if row.plain else DynamicShiftMax(width, 8, row.mixed, **double),
                nn.ChannelShuffle(row.mixed),
                nn.Identity() if row.plain else nn.ChannelShuffle(width // 2),
            ]
        else:
            width, reduction = row.expansion * in_channels, row.reduction
            groups, inner = row.expand_groups, 8 * reduction
            first = (
                DynamicShiftMax(width, inner, groups, **double) if activations.everywhere else nn.ReLU6(inplace=True)
            )
            layers = [
                GroupConv(in_channels, width, groups),
                first,
                nn.ChannelShuffle(groups),
                FactorizedConv(width, width, width, row.kernel_size, row.stride, width),
                nn.Identity(),
                DynamicShiftMax(width, inner, width // groups, **double),
                nn.ChannelShuffle(width // 4 if activations.everywhere else width // 2),
            ]
        layers += [
            GroupConv(width, row.out_channels, row.groups),
            self.single(row.out_channels, 4 * reduction, row.groups, activations),
            nn.ChannelShuffle(row.groups),
            nn.ChannelShuffle(row.out_channels // 2) if activations.everywhere else nn.Identity(),
        ]
        self.layers = nn.Sequential(*layers)

    @staticmethod
    def single(channels: int, reduction: int, groups: int, activations: Activations) -> nn.Module:
        """The optional activation at the end of a block, a single sum."""
        if not activations.everywhere:
            return nn.Identity()
        return DynamicShiftMax(channels, reduction, groups, scales=(1.0,), shifts=(0.0,))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class Stem(nn.Module):
    """A factorized convolution of stride 2, shuffled."""

    def __init__(self, middle_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            FactorizedConv(3, middle_channels, out_channels, 3, 2, 1),
            nn.ChannelShuffle(middle_channels),
            nn.ReLU6(inplace=True),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.stem(images)


class LinearSwish(nn.Module):
    """A linear layer, batch norm and hard swish."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Sequential(
            linear(in_features, out_features, init=small_normal_), nn.BatchNorm1d(out_features), nn.Hardswish()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class MicroNet(Network):
    """MicroNet; the module paths are those of the paper's authors. The logits also pass a batch norm and a hard swish.

    Args:
        stem: channels inside and after the first convolution.
        rows: the blocks.
        features: width of the penultimate layer.
        class_dim: number of classes.
        activations: the blocks' activations.
        dropout: probability before the last layer.
    """

    def __init__(
        self,
        stem: tuple[int, int],
        rows: Sequence[Row],
        features: int,
        class_dim: int = 1000,
        *,
        activations: Activations = EVERYWHERE,
        dropout: float,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(Stem(*stem))
        channels = stem[1]
        for row in rows:
            block = MicroBlock(channels, row, activations)
            self.features.append(block)
            channels = block.out_channels
        self.classifier = nn.Sequential(
            LinearSwish(channels, features), Dropout(dropout, UPSCALE_IN_TRAIN), LinearSwish(features, class_dim)
        )

    def trunk(self) -> list[Layer]:
        return [*self.features]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the values that the last layer sees, (N, C)."""
        x = F.relu6(self.forward_trunk(images)).mean((2, 3))
        return self.classifier[0](F.hardswish(x))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier[1:](self.forward_features(images))


M0 = (
    Early(8, 3, 2, 4, 2, plain=True),
    Early(12, 3, 2, 8, 4),
    Early(16, 5, 2, 12, 4),
    Middle(32, 5, 1, 4, 4, 4, 1),
    Middle(64, 5, 2, 4, 8, 8, 1),
    Middle(96, 3, 1, 4, 8, 8, 2),
    Last(4, 12),
)
M1 = (
    Early(8, 3, 2, 6, 2, plain=True),
    Early(16, 3, 2, 8, 4),
    Early(16, 5, 2, 16, 4),
    Middle(32, 5, 1, 6, 4, 4, 1),
    Middle(64, 5, 2, 6, 8, 8, 1),
    Middle(96, 3, 1, 6, 8, 8, 2),
    Last(6, 12),
)
M2 = (
    Early(12, 3, 2, 8, 4, plain=True),
    Early(16, 3, 2, 12, 4),
    Early(24, 3, 1, 16, 4),
    Middle(32, 5, 2, 6, 6, 4, 1),
    Middle(32, 5, 1, 6, 8, 4, 2),
    Middle(64, 5, 1, 6, 8, 8, 2),
    Middle(96, 5, 2, 6, 8, 8, 2),
    Middle(128, 3, 1, 6, 12, 8, 2),
    Last(6, 16),
)
M3 = (
    Early(16, 3, 2, 12, 4),
    Early(24, 3, 2, 16, 4),
    Early(24, 3, 1, 24, 4),
    Middle(32, 5, 2, 6, 6, 4, 1),
    Middle(32, 5, 1, 6, 8, 4, 2),
    Middle(64, 5, 1, 6, 8, 8, 2),
    Middle(80, 5, 1, 6, 8, 8, 2),
    Middle(80, 5, 1, 6, 10, 8, 2),
    Middle(120, 5, 2, 6, 10, 10, 2),
    Middle(120, 5, 1, 6, 12, 10, 2),
    Middle(144, 3, 1, 6, 12, 12, 2),
    Last(6, 12),
)


MicroNet_M0 = partial(MicroNet, (2, 4), M0, 640, dropout=0.05)
MicroNet_M1 = partial(MicroNet, (3, 6), M1, 960, dropout=0.05)
MicroNet_M2 = partial(MicroNet, (4, 8), M2, 1024, dropout=0.1)
MicroNet_M3 = partial(MicroNet, (4, 12), M3, 1024, activations=MIDDLE_ONLY, dropout=0.1)

INPUTS = {
    "MicroNet_M3": InputConfig(resize_backend="pil", decode_backend="pil"),
    "*": InputConfig(resize_backend="pil"),
}
