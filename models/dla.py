"""DLA: trees of blocks, whose outputs are aggregated at every node (Yu et al., arXiv:1707.06484)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import fan_out_normal_
from models.layers import batch_norm, conv2d, relu
from models.network import Layer, Network


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    conv = conv2d(in_channels, out_channels, kernel_size, stride, init=fan_out_normal_)
    return nn.Sequential(conv, batch_norm(out_channels), relu())


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut that the tree passes in."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv2d(in_channels, out_channels, 3, stride, init=fan_out_normal_)
        self.bn1 = batch_norm(out_channels)
        self.conv2 = conv2d(out_channels, out_channels, 3, init=fan_out_normal_)
        self.bn2 = batch_norm(out_channels)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut that the tree passes in.

    Args:
        width: channels of the 3x3 convolution, as a share of `out_channels`.
        groups: of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, width: float = 0.5, groups: int = 1) -> None:
        super().__init__()
        channels = int(out_channels * width)
        self.conv1 = conv2d(in_channels, channels, 1, init=fan_out_normal_)
        self.bn1 = batch_norm(channels)
        self.conv2 = conv2d(channels, channels, 3, stride, groups=groups, init=fan_out_normal_)
        self.bn2 = batch_norm(channels)
        self.conv3 = conv2d(channels, out_channels, 1, init=fan_out_normal_)
        self.bn3 = batch_norm(out_channels)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


# what builds a block: (in_channels, out_channels, stride) -> BasicBlock or Bottleneck
BuildBlock = Callable[[int, int, int], nn.Module]


class Root(nn.Module):
    """Aggregates the outputs of a node's children with a 1x1 convolution.

    Args:
        residual: whether to add the first child to the result.
    """

    def __init__(self, in_channels: int, out_channels: int, residual: bool) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, 1, init=fan_out_normal_)
        self.bn = batch_norm(out_channels)
        self.residual = residual

    def forward(self, children: list[Tensor]) -> Tensor:
        y = self.bn(self.conv(torch.cat(children, 1)))
        return F.relu(y + children[0] if self.residual else y)


class Tree(nn.Module):
    """A binary tree of blocks.

    Args:
        levels: above the blocks; a tree of one level is two blocks and a root.
        block: builds the blocks.
        stride: of the first block.
        level_root: whether the input, pooled, is another child of the root.
        root_residual: as in `Root`.
        root_channels: channels of the outer trees' outputs, which the last, innermost root aggregates with its own two.
    """

    def __init__(
        self,
        levels: int,
        block: BuildBlock,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        level_root: bool = False,
        root_residual: bool = False,
        root_channels: int = 0,
    ) -> None:
        super().__init__()
        self.level_root = level_root
        self.leaf = levels == 1
        if level_root:
            root_channels += in_channels
        self.downsample = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        if self.leaf:
            self.project: nn.Module = nn.Identity()
            if in_channels != out_channels:
                self.project = nn.Sequential(
                    conv2d(in_channels, out_channels, 1, init=fan_out_normal_), batch_norm(out_channels)
                )
            self.tree1 = block(in_channels, out_channels, stride)
            self.tree2 = block(out_channels, out_channels, 1)
            self.root = Root(2 * out_channels + root_channels, out_channels, root_residual)
        else:
            tree = partial(Tree, levels - 1, block, root_residual=root_residual)
            self.tree1 = tree(in_channels, out_channels, stride)
            self.tree2 = tree(out_channels, out_channels, root_channels=root_channels + out_channels)

    def forward(self, x: Tensor, children: Sequence[Tensor] = ()) -> Tensor:
        """`children` are outputs that the root aggregates together with those of this tree's blocks."""
        children = list(children)
        bottom = self.downsample(x)
        if self.level_root:
            children.append(bottom)
        if self.leaf:
            first = self.tree1(x, self.project(bottom))
            return self.root([self.tree2(first, first), first, *children])
        first = self.tree1(x)
        return self.tree2(first, [*children, first])


class DLA(Network):
    """DLA; the module paths are those of the paper's authors.

    Args:
        levels: levels of the trees in stages 2 to 5.
        widths: channels of the six stages.
        block: builds the blocks of the trees.
        class_dim: number of classes.
        root_residual: as in `Root`.
    """

    level2: Tree
    level3: Tree
    level4: Tree
    level5: Tree

    def __init__(
        self,
        levels: Sequence[int],
        widths: Sequence[int],
        block: BuildBlock,
        class_dim: int = 1000,
        *,
        root_residual: bool = False,
    ) -> None:
        super().__init__()
        self.base_layer = conv_bn_relu(3, widths[0], 7)
        self.level0 = conv_bn_relu(widths[0], widths[0], 3)
        self.level1 = conv_bn_relu(widths[0], widths[1], 3, 2)
        for stage, depth in enumerate(levels, 2):
            sizes = (widths[stage - 1], widths[stage], 2)
            tree = Tree(depth, block, *sizes, level_root=stage > 2, root_residual=root_residual)
            setattr(self, f"level{stage}", tree)
        self.fc = conv2d(widths[-1], class_dim, 1, bias=True, init=fan_out_normal_)

    def trunk(self) -> list[Layer]:
        return [self.base_layer, self.level0, self.level1, self.level2, self.level3, self.level4, self.level5]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images)[:, :, None, None]).flatten(1)


COMPACT = (16, 32, 64, 64, 128, 256)
WIDE = (16, 32, 128, 256, 512, 1024)

# the blocks of the x networks: 32 groups, or 64 groups of twice the width
grouped = partial(Bottleneck, width=1.0, groups=32)
twice_grouped = partial(Bottleneck, width=2.0, groups=64)
DLA34 = partial(DLA, (1, 2, 2, 1), (16, 32, 64, 128, 256, 512), BasicBlock)
DLA46_c = partial(DLA, (1, 2, 2, 1), COMPACT, Bottleneck)
DLA46x_c = partial(DLA, (1, 2, 2, 1), COMPACT, grouped)
DLA60 = partial(DLA, (1, 2, 3, 1), WIDE, Bottleneck)
DLA60x = partial(DLA, (1, 2, 3, 1), WIDE, grouped)
DLA60x_c = partial(DLA, (1, 2, 3, 1), COMPACT, grouped)
DLA102 = partial(DLA, (1, 3, 4, 1), WIDE, Bottleneck, root_residual=True)
DLA102x = partial(DLA, (1, 3, 4, 1), WIDE, grouped, root_residual=True)
DLA102x2 = partial(DLA, (1, 3, 4, 1), WIDE, twice_grouped, root_residual=True)
DLA169 = partial(DLA, (2, 3, 5, 1), WIDE, Bottleneck, root_residual=True)
