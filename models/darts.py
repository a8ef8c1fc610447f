"""DARTS: networks of searched cells (Liu et al., arXiv:1806.09055); the two cells here are the zoo's own.

As published, the networks have neither drop path nor an auxiliary classifier in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import fan_out_normal_
from models.layers import batch_norm, conv2d, linear, relu
from models.names import notes, publish
from models.network import Network

# number of cells, numbers of the two reduction cells, and channels of the nodes in the first cell
CELLS = 14
REDUCTIONS = (CELLS // 3, 2 * CELLS // 3)
CHANNELS = 48

Choice = tuple[str, int]


class Genotype(NamedTuple):
    """The cells: two choices for each of four nodes, the node being the sum of both.

    A choice is an operation and the state it takes: 0 and 1 are the outputs of the cell before the last and of the
    last cell, 2 and up the nodes before.
    """

    normal: tuple[Choice, ...]
    reduce: tuple[Choice, ...]


GENOTYPE_4M = Genotype(
    normal=(
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1),
        ("skip_connect", 0),
        ("skip_connect", 0),
        ("dil_conv_3x3", 1),
    ),
    reduce=(
        ("max_pool_3x3", 0),
        ("max_pool_3x3", 1),
        ("max_pool_3x3", 0),
        ("avg_pool_3x3", 1),
        ("skip_connect", 3),
        ("skip_connect", 2),
        ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 2),
    ),
)

GENOTYPE_6M = Genotype(
    normal=(
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 1),
        ("sep_conv_5x5", 0),
        ("sep_conv_3x3", 2),
        ("sep_conv_3x3", 1),
        ("skip_connect", 4),
        ("sep_conv_3x3", 3),
    ),
    reduce=(
        ("sep_conv_5x5", 0),
        ("max_pool_3x3", 1),
        ("dil_conv_5x5", 2),
        ("sep_conv_5x5", 0),
        ("sep_conv_3x3", 1),
        ("dil_conv_5x5", 3),
        ("dil_conv_3x3", 1),
        ("sep_conv_3x3", 2),
    ),
)


class Operation(nn.Module):
    """Layers in sequence, under the path `op` of the published names."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def separable(channels: int, kernel_size: int, stride: int, dilation: int = 1) -> tuple[nn.Module, ...]:
    """A depthwise convolution, a 1x1 convolution and a batch norm."""
    depthwise = conv2d(channels, channels, kernel_size, stride, groups=channels, dilation=dilation)
    notes(depthwise).fluid_type = "depthwise_conv2d"
    return depthwise, conv2d(channels, channels, 1), batch_norm(channels)


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """Builds the operation of a choice. A state has several readers, so the first ReLU is not in-place."""
    if name == "skip_connect":
        # The published cells use skip connections only from nodes, which already have the output's size.
        return nn.Identity()
    kind, kernel_size = name[:-4], int(name[-1])
    if kind == "max_pool":
        return nn.MaxPool2d(kernel_size, stride, 1)
    if kind == "avg_pool":
        return nn.AvgPool2d(kernel_size, stride, 1, count_include_pad=False)
    if kind == "dil_conv":
        return Operation(nn.ReLU(), *separable(channels, kernel_size, stride, dilation=2))
    return Operation(nn.ReLU(), *separable(channels, kernel_size, stride), relu(), *separable(channels, kernel_size, 1))


def pointwise(in_channels: int, out_channels: int) -> Operation:
    """Brings a state to the cell's width: ReLU, 1x1 convolution, batch norm."""
    return Operation(nn.ReLU(), conv2d(in_channels, out_channels, 1), batch_norm(out_channels))


class FactorizedReduce(nn.Module):
    """Halves height and width without losing positions: half of the channels see the even, half the odd positions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_1 = conv2d(in_channels, out_channels // 2, 1, 2, init=fan_out_normal_)
        self.conv_2 = conv2d(in_channels, out_channels // 2, 1, 2, init=fan_out_normal_)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        # Zeros replace the row and column lost by the shift, so that odd sizes have as many odd positions as even.
        odd = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        return self.bn(torch.cat((self.conv_1(x), self.conv_2(odd)), 1))


class Cell(nn.Module):
    """A cell of the network: a sum of two operations for each node, the nodes concatenated.

    Args:
        choices: the genotype's choices.
        before_last, last: channels of the outputs of the two previous cells.
        channels: channels of every node.
        reduction: whether it halves height and width.
        reduction_before: whether the last cell did, so that the output of the cell before it is twice as large.
    """

    def __init__(
        self,
        choices: tuple[Choice, ...],
        before_last: int,
        last: int,
        channels: int,
        *,
        reduction: bool,
        reduction_before: bool,
    ) -> None:
        super().__init__()
        self.preprocess0 = (FactorizedReduce if reduction_before else pointwise)(before_last, channels)
        self.preprocess1 = pointwise(last, channels)
        self._ops = nn.ModuleList(
            operation(name, channels, 2 if reduction and state < 2 else 1) for name, state in choices
        )
        self.inputs = [state for _, state in choices]

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        states = [self.preprocess0(before_last), self.preprocess1(last)]
        for first in range(0, len(self._ops), 2):
            left, right = (self._ops[i](states[self.inputs[i]]) for i in (first, first + 1))
            states.append(left + right)
        return torch.cat(states[2:], 1)


class DARTS(Network):
    """A stem that reduces to an eighth, 14 cells, a classifier. The module paths are the published names."""

    def __init__(self, genotype: Genotype, class_dim: int = 1000) -> None:
        super().__init__()
        channels = CHANNELS
        # The published indices count a ReLU and the convolution after it as one.
        self.stem0 = nn.Sequential(
            conv2d(3, channels // 2, 3, 2),
            batch_norm(channels // 2),
            nn.Sequential(relu(), conv2d(channels // 2, channels, 3, 2)),
            batch_norm(channels),
        )
        self.stem1 = nn.Sequential(nn.Sequential(nn.ReLU(), conv2d(channels, channels, 3, 2)), batch_norm(channels))
        self.cells = nn.ModuleList()
        before_last, last = channels, channels
        reduction_before = True
        for index in range(CELLS):
            reduction = index in REDUCTIONS
            if reduction:
                channels *= 2
            choices = genotype.reduce if reduction else genotype.normal
            self.cells.append(
                Cell(choices, before_last, last, channels, reduction=reduction, reduction_before=reduction_before)
            )
            before_last, last = last, channels * len(choices) // 2
            reduction_before = reduction
        self.classifier = linear(last, class_dim, init=lambda weight: nn.init.normal_(weight, 0.0, 1e-4))
        self.publish_names()

    def publish_names(self) -> None:
        """The published names are our paths, except most convolutions, which are numbered."""
        for path, layer in self.named_modules():
            if isinstance(layer, nn.BatchNorm2d | nn.Linear) or path.endswith(("conv_1", "conv_2")):
                publish(layer, **{tensor: f"{path}.{tensor}" for tensor in layer.state_dict()})

    def layer_maps(self, images: Tensor) -> Iterator[Tensor]:
        before_last = self.stem0(images)
        yield before_last
        last = self.stem1(before_last)
        yield last
        for cell in self.cells:
            before_last, last = last, cell(before_last, last)
            yield last

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.forward_features(images))


DARTS_4M = partial(DARTS, GENOTYPE_4M)
DARTS_6M = partial(DARTS, GENOTYPE_6M)
