"""MixNet: depthwise convolutions of several kernel sizes side by side (Tan and Le, arXiv:1907.09595)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvBNAct, ConvSqueezeExcitation, conv2d, global_average, linear, make_divisible, relu, swish
from models.network import Layer, Network


class Unit(NamedTuple):
    """A row of the paper's table; channels at width 1.

    Attributes:
        expansion: expansion of the inner channels.
        kernels: number of kernel sizes of the depthwise convolution: 3, 5, ...
        expand_groups, project_groups: groups of the 1x1 convolutions.
        squeeze: reduction of squeeze-and-excitation relative to the unit's input; 0: without.
    """

    out_channels: int
    stride: int
    expansion: int
    kernels: int
    expand_groups: int
    project_groups: int
    squeeze: int


# The first stage has ReLU, the others swish; after the last convolution there is a ReLU again.
SMALL = (
    (Unit(24, 2, 6, 1, 2, 2, 0), Unit(24, 1, 3, 1, 2, 2, 0)),
    (Unit(40, 2, 6, 3, 1, 1, 2), *[Unit(40, 1, 6, 2, 2, 2, 2)] * 3),
    (Unit(80, 2, 6, 3, 1, 2, 4), *[Unit(80, 1, 6, 2, 1, 2, 4)] * 2),
    (
        Unit(120, 1, 6, 3, 2, 2, 2),
        *[Unit(120, 1, 3, 4, 2, 2, 2)] * 2,
        Unit(200, 2, 6, 5, 1, 1, 2),
        *[Unit(200, 1, 6, 4, 1, 2, 2)] * 2,
    ),
)
MEDIUM = (
    (Unit(32, 2, 6, 3, 2, 2, 0), Unit(32, 1, 3, 1, 2, 2, 0)),
    (Unit(40, 2, 6, 4, 1, 1, 2), *[Unit(40, 1, 6, 2, 2, 2, 2)] * 3),
    (Unit(80, 2, 6, 3, 1, 1, 4), *[Unit(80, 1, 6, 4, 2, 2, 4)] * 3),
    (
        Unit(120, 1, 6, 1, 1, 1, 2),
        *[Unit(120, 1, 3, 4, 2, 2, 2)] * 3,
        Unit(200, 2, 6, 4, 1, 1, 2),
        *[Unit(200, 1, 6, 4, 1, 2, 2)] * 3,
    ),
)


class MixConv2d(nn.ModuleList):
    """Parallel convolutions, each for its own share of the channels.

    Args:
        kernel_sizes: kernel sizes of the convolutions.
        depthwise: whether the convolutions are depthwise.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_sizes: list[int], stride: int, depthwise: bool
    ) -> None:
        count = len(kernel_sizes)
        super().__init__(
            conv2d(
                in_channels // count,
                out_channels // count,
                size,
                stride,
                groups=in_channels // count if depthwise else 1,
            )
            for size in kernel_sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(part) for conv, part in zip(self, x.chunk(len(self), 1), strict=True)], 1)


def mix_conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_sizes: list[int],
    stride: int = 1,
    *,
    depthwise: bool = False,
    activation: Callable[[], nn.Module] | None = None,
) -> ConvBNAct:
    """`ConvBNAct` whose convolution is a `MixConv2d`, if there are several kernel sizes."""
    groups = in_channels if depthwise else 1
    layers = ConvBNAct(in_channels, out_channels, kernel_sizes[0], stride, groups=groups, activation=activation)
    if len(kernel_sizes) > 1:
        layers.set_submodule("conv", MixConv2d(in_channels, out_channels, kernel_sizes, stride, depthwise))
    return layers


class MixUnit(nn.Module):
    """An inverted residual of mixed convolutions."""

    def __init__(self, in_channels: int, out_channels: int, unit: Unit, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        width = in_channels * unit.expansion
        self.exp_conv: nn.Module = nn.Identity()
        if unit.expansion > 1:
            self.exp_conv = mix_conv_bn(in_channels, width, [1] * unit.expand_groups, activation=activation)
        sizes = [3 + 2 * index for index in range(unit.kernels)]
        self.conv1 = mix_conv_bn(width, width, sizes, unit.stride, depthwise=True, activation=activation)
        self.se: nn.Module = nn.Identity()
        if unit.squeeze:
            squeezed = width // (unit.expansion * unit.squeeze)
            self.se = ConvSqueezeExcitation(width, squeezed, activation=F.silu)
        self.conv2 = mix_conv_bn(width, out_channels, [1] * unit.project_groups)
        self.shortcut = unit.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.se(self.conv1(self.exp_conv(x))))
        return x + y if self.shortcut else y


class MixNet(Network):
    """MixNet; the module paths are PaddleClas's.

    Args:
        stages: `SMALL` or `MEDIUM`.
        stem: channels of the first convolution.
        class_dim: number of classes.
        scale: factor of the widths, except the 1,536 features.
    """

    def __init__(
        self, stages: tuple[tuple[Unit, ...], ...], stem: int, class_dim: int = 1000, *, scale: float = 1.0
    ) -> None:
        super().__init__()
        channels = make_divisible(stem * scale)
        self.features = nn.Sequential()
        init_block = nn.Sequential()
        init_block.add_module("conv1", ConvBNAct(3, channels, 3, 2, activation=relu))
        init_block.add_module("conv2", MixUnit(channels, channels, Unit(channels, 1, 1, 1, 1, 1, 0), relu))
        self.features.add_module("init_block", init_block)
        for number, units in enumerate(stages, 1):
            stage = nn.Sequential()
            for index, unit in enumerate(units, 1):
                out_channels = make_divisible(unit.out_channels * scale)
                stage.add_module(f"unit{index}", MixUnit(channels, out_channels, unit, swish if number > 1 else relu))
                channels = out_channels
            self.features.add_module(f"stage{number}", stage)
        self.features.add_module("final_block", ConvBNAct(channels, 1536, 1, activation=relu))
        self.output = linear(1536, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: se.conv1 and se.conv2 in the units."""
        return path.replace(".fc", ".conv")

    def trunk(self) -> list[Layer]:
        return [*self.features][:-1]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, 1536)."""
        return global_average(self.features[-1](self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.output(self.forward_features(images))


MixNet_S = partial(MixNet, SMALL, 16)
MixNet_M = partial(MixNet, MEDIUM, 24)
MixNet_L = partial(MixNet, MEDIUM, 24, scale=1.3)
