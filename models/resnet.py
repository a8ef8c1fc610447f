"""ResNet (He et al., arXiv:1512.03385), and the base class of its relatives.

A bottleneck strides in its 3x3 convolution, as in torchvision. Unlike torchvision's, ResNet18 and ResNet34 have a
projection shortcut in the first stage too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from string import ascii_lowercase
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import Dropout, SqueezeExcitation, batch_norm, conv2d, linear, relu
from models.names import publish_batch_norm, publish_conv
from models.network import Layer, Network


class SamePool(nn.AvgPool2d):
    """A 2x2 average pool with the given stride; positions beyond the image do not count."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__(2, stride, ceil_mode=True, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = cast(tuple[int, int], self.stride)
        if vertical == 1 or horizontal == 1:
            # At stride 1 the last position averages only itself.
            x = F.pad(x, (0, int(horizontal == 1), 0, int(vertical == 1)), mode="replicate")
        return super().forward(x)


def projection(in_channels: int, out_channels: int, stride: tuple[int, int], average: bool) -> nn.Sequential:
    """The shortcut of a stage's first block: a 1x1 convolution; if `average`, after a 2x2 average pool (ResNet-D)."""
    if not average:
        return nn.Sequential(conv2d(in_channels, out_channels, 1, stride), batch_norm(out_channels))
    pool = SamePool(stride) if max(stride) > 1 else nn.Identity()
    return nn.Sequential(pool, conv2d(in_channels, out_channels, 1), batch_norm(out_channels))


SHORTCUT = -1


class Place(NamedTuple):
    """The place of a convolution.

    Attributes:
        stage: 1 to 4; 0 for the stem.
        index: number of the block in the stage.
        part: number of the convolution in the stem or block, or `SHORTCUT`.
        split: number from 1 if several convolutions form the part (Res2Net), otherwise 0.
    """

    stage: int
    index: int
    part: int
    split: int = 0


def block_label(index: int, depth: int) -> str:
    """The published label of a block in its stage of `depth` blocks: a, b, c, ...; in long stages a, b1, b2, ..."""
    if depth <= 12:
        return ascii_lowercase[index]
    return f"b{index}" if index else "a"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    Args:
        planes: channels of the convolutions.
        downsample: the shortcut; None: the identity.
        se_reduction: channels over the squeezed width of a squeeze-and-excitation at the end; None: without.
    """

    expansion = 1
    convolutions = 2

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int | tuple[int, int] = 1,
        downsample: nn.Module | None = None,
        *,
        se_reduction: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = conv2d(in_channels, planes, 3, stride)
        self.bn1 = batch_norm(planes)
        self.relu = relu()
        self.conv2 = conv2d(planes, planes, 3)
        self.bn2 = batch_norm(planes)
        self.se = SqueezeExcitation(planes, planes // se_reduction) if se_reduction else None
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.se is not None:
            x = self.se(x)
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut.

    Args:
        planes: a quarter of the output channels.
        downsample: the shortcut; None: the identity.
        groups, base_width: cardinality, and width of each group at 64 planes (ResNeXt, arXiv:1611.05431).
        se_reduction: as in `BasicBlock`.
    """

    expansion = 4
    convolutions = 3

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int | tuple[int, int] = 1,
        downsample: nn.Module | None = None,
        *,
        groups: int = 1,
        base_width: int = 64,
        se_reduction: int | None = None,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * groups
        out_channels = planes * self.expansion
        self.conv1 = conv2d(in_channels, width, 1)
        self.bn1 = batch_norm(width)
        self.conv2 = conv2d(width, width, 3, stride, groups=groups)
        self.bn2 = batch_norm(width)
        self.conv3 = conv2d(width, out_channels, 1)
        self.bn3 = batch_norm(out_channels)
        self.relu = relu()
        self.se = SqueezeExcitation(out_channels, out_channels // se_reduction) if se_reduction else None
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        if self.se is not None:
            x = self.se(x)
        return self.relu(x + shortcut)


class ResNet(Network):
    """A residual network of four stages.

    The module paths are torchvision's; those of a deep stem and of averaging shortcuts are timm's.

    Args:
        block: `BasicBlock`, `Bottleneck`, or a class like them.
        depths: blocks per stage.
        class_dim: number of classes.
        deep_stem: widths of three 3x3 convolutions that replace the 7x7 one (ResNet-C); None: the 7x7 one.
        average_shortcut: whether shortcuts average before they project (ResNet-D).
        dropout: probability before the classifier.
        strides: vertical and horizontal strides of the stem, of the pool after it and of the other stages.
        block_options: passed on to every block.
    """

    # Published name of the classifier; None: named automatically.
    fluid_classifier: str | None = None

    def __init__(
        self,
        block: type[Any],
        depths: Sequence[int],
        class_dim: int = 1000,
        *,
        deep_stem: tuple[int, int, int] | None = None,
        average_shortcut: bool = False,
        dropout: float = 0.0,
        strides: Sequence[tuple[int, int]] = ((2, 2),) * 5,
        **block_options,
    ) -> None:
        super().__init__()
        self.depths = tuple(depths)
        if deep_stem is None:
            channels = 64
            self.conv1: nn.Module = conv2d(3, channels, 7, strides[0])
        else:
            first, second, channels = deep_stem
            self.conv1 = nn.Sequential(
                conv2d(3, first, 3, strides[0]),
                batch_norm(first),
                relu(),
                conv2d(first, second, 3),
                batch_norm(second),
                relu(),
                conv2d(second, channels, 3),
            )
        self.bn1 = batch_norm(channels)
        self.relu = relu()
        self.maxpool = nn.MaxPool2d(3, strides[1], 1)
        for stage, depth in enumerate(self.depths):
            planes = 64 * 2**stage
            out_channels = planes * block.expansion
            blocks = []
            for index in range(depth):
                vertical, horizontal = strides[stage + 1] if stage > 0 and index == 0 else (1, 1)
                # Not every kind of block takes two strides.
                stride = vertical if vertical == horizontal else (vertical, horizontal)
                step = vertical, horizontal
                downsample = projection(channels, out_channels, step, average_shortcut) if index == 0 else None
                blocks.append(block(channels, planes, stride, downsample, **block_options))
                channels = out_channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.fc = linear(channels, class_dim)
        self.publish_names()

    def stages(self) -> list[nn.Sequential]:
        """The four stages, each a sequence of blocks."""
        return [cast(nn.Sequential, self.get_submodule(f"layer{stage + 1}")) for stage in range(len(self.depths))]

    def stem_and_stages(self) -> tuple[tuple[str, ...], ...]:
        """Prefixes of the parameter names of the stem and of each stage."""
        return (("conv1.", "bn1."), *((f"layer{stage + 1}.",) for stage in range(len(self.depths))))

    def places(self) -> Iterator[tuple[Place, str, str]]:
        """The place and the two module paths of every convolution and its batch norm, in order."""
        if isinstance(self.conv1, nn.Sequential):
            yield Place(0, 0, 0), "conv1.0", "conv1.1"
            yield Place(0, 0, 1), "conv1.3", "conv1.4"
            yield Place(0, 0, 2), "conv1.6", "bn1"
        else:
            yield Place(0, 0, 0), "conv1", "bn1"
        for stage, blocks in enumerate(self.stages(), 1):
            for index, block in enumerate(cast(Iterable[Any], blocks)):
                path = f"layer{stage}.{index}"
                for part in range(block.convolutions):
                    yield Place(stage, index, part), f"{path}.conv{part + 1}", f"{path}.bn{part + 1}"
                if block.downsample is not None:
                    last = len(block.downsample) - 1
                    yield Place(stage, index, SHORTCUT), f"{path}.downsample.{last - 1}", f"{path}.downsample.{last}"

    def publish_names(self) -> None:
        """Sets the published name of every layer."""
        for place, conv, bn in self.places():
            conv_name, bn_name = self.fluid_names(place)
            publish_conv(self.get_submodule(conv), conv_name)
            publish_batch_norm(self.get_submodule(bn), bn_name)
        if self.fluid_classifier is not None:
            publish_conv(self.fc, self.fluid_classifier)

    def fluid_names(self, place: Place) -> tuple[str, str]:
        """Published names of a convolution and its batch norm: res2a_branch2a and bn2a_branch2a, ..."""
        if place.stage == 0:
            if isinstance(self.conv1, nn.Sequential):
                return f"conv1_{place.part + 1}", f"bnv1_{place.part + 1}"
            return "conv1", "bn_conv1"
        block = self.fluid_block(place.stage, place.index)
        branch = "branch1" if place.part == SHORTCUT else f"branch2{'abc'[place.part]}"
        if place.split:
            branch = f"{branch}_{place.split}"
        return f"res{block}_{branch}", f"bn{block}_{branch}"

    def fluid_block(self, stage: int, index: int) -> str:
        """Published label of a block: 2a, 2b, ..."""
        return f"{stage + 1}{block_label(index, self.depths[stage - 1])}"

    paddleclas_leaves = ("conv", "bn")

    def paddleclas_block(self, place: Place) -> str:
        """PaddleClas's path of a convolution with its batch norm; it numbers the blocks through all stages."""
        if place.stage == 0:
            return f"stem.{place.part}"
        block = sum(self.depths[: place.stage - 1]) + place.index
        return f"blocks.{block}.{'short' if place.part == SHORTCUT else f'conv{place.part}'}"

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path of the layer at `path`."""
        for place, *layers in self.places():
            if path in layers:
                return f"{self.paddleclas_block(place)}.{self.paddleclas_leaves[layers.index(path)]}"
        return path

    def trunk(self) -> list[Layer]:
        return [self.conv1, self.bn1, self.relu, self.maxpool, *self.stages()]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


class ResNetBB(ResNet):
    """`ResNet` as PaddleClas writes its relatives: the blocks are bb_STAGE_INDEX, the classifier is `out`."""

    paddleclas_leaves = ("_conv", "_batch_norm")

    def paddleclas_block(self, place: Place) -> str:
        if place.stage == 0:
            return f"conv1_{place.part + 1}" if isinstance(self.conv1, nn.Sequential) else "conv"
        part = "short" if place.part == SHORTCUT else f"conv{place.part}"
        return f"bb_{place.stage - 1}_{place.index}.{part}"

    def paddleclas_path(self, path: str) -> str:
        if path == "fc":
            return "out"
        return super().paddleclas_path(path)


class CaffeNames(ResNet):
    """Names for a `ResNet` that was also published for Caffe; there its blocks are res1, res2, ... over all stages."""

    caffe_block = "res"

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: conv1, res1_conv1, ..., res1_match_conv (a shortcut), ..., classifier."""
        for place, *layers in self.places():
            if path in layers:
                if place.stage == 0:
                    return "conv1"
                part = "match_conv" if place.part == SHORTCUT else f"conv{place.part + 1}"
                return f"{self.caffe_block}{sum(self.depths[: place.stage - 1]) + place.index + 1}_{part}"
        return "classifier"


ResNet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
ResNet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3))
ResNet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
ResNet101 = partial(ResNet, Bottleneck, (3, 4, 23, 3))
ResNet152 = partial(ResNet, Bottleneck, (3, 8, 36, 3))
