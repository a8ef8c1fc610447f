"""EfficientNet V2: its early stages convolve where EfficientNet expands (Tan and Le, arXiv:2104.00298)."""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from models import efficientnet
from models.efficientnet import MBConv, conv_bn, uniform_fan_out_
from models.inputs import AROUND_128, BILINEAR, InputConfig
from models.layers import UPSCALE_IN_TRAIN, Dropout, DropPath, global_average, linear
from models.network import Layer, Network


class Stage(NamedTuple):
    """A row of the paper's table 4. The first stages are fused; the others have squeeze-and-excitation."""

    fused: bool
    depth: int
    stride: int
    expansion: int
    out_channels: int


SMALL = (
    Stage(True, 2, 1, 1, 24),
    Stage(True, 4, 2, 4, 48),
    Stage(True, 4, 2, 4, 64),
    Stage(False, 6, 2, 4, 128),
    Stage(False, 9, 1, 6, 160),
    Stage(False, 15, 2, 6, 256),
)


# what PaddleClas calls the layers of a block, by the number of its parts
PADDLECLAS_PARTS = {
    1: (("_project_conv._conv", "_norm1"),),
    2: (("_expand_conv._conv", "_norm0"), ("_project_conv._conv", "_norm1")),
    4: (
        ("_expand_conv._conv", "_norm0"),
        ("_depthwise_conv._conv", "_norm1"),
        ("_se._se_reduce._conv", "_se._se_expand._conv"),
        ("_project_conv._conv", "_norm2"),
    ),
}


class FusedMBConv(nn.Module):
    """A 3x3 convolution that expands and a 1x1 one, or, without expansion, a 3x3 convolution.

    Args:
        drop_connect: probability to drop the residual branch.
        name: prefix of the published names.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stage: Stage, stride: int, drop_connect: float, name: str
    ) -> None:
        super().__init__()
        width = in_channels * stage.expansion
        if stage.expansion == 1:
            names = (f"{name}._project_conv", f"{name}._bn1")
            self.block = nn.Sequential(conv_bn(in_channels, out_channels, 3, names, stride=stride))
        else:
            self.block = nn.Sequential(
                conv_bn(in_channels, width, 3, (f"{name}._expand_conv", f"{name}._bn0"), stride=stride),
                conv_bn(width, out_channels, 1, (f"{name}._project_conv", f"{name}._bn1"), activation=False),
            )
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop_connect = DropPath(drop_connect)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return self.drop_connect(y) + x if self.shortcut else y


class EfficientNetV2(Network):
    """EfficientNet V2; the module paths are torchvision's, whose network pads evenly where this pads as TensorFlow.

    Args:
        stages: the network.
        class_dim: number of classes.
        drop_connect_rate: probability to drop the last residual branch; it grows linearly from 0 at the first block.
    """

    def __init__(self, stages: tuple[Stage, ...], class_dim: int = 1000, *, drop_connect_rate: float = 0.2) -> None:
        super().__init__()
        self.depths = [stage.depth for stage in stages]
        channels = stages[0].out_channels
        self.features = nn.Sequential(conv_bn(3, channels, 3, ("_conv_stem", "_bn0"), stride=2))
        number = 0
        for stage in stages:
            blocks = []
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                drop_connect = drop_connect_rate * number / sum(self.depths)
                name = f"_blocks.{number}"
                if stage.fused:
                    block = FusedMBConv(channels, stage.out_channels, stage, stride, drop_connect, name)
                else:
                    row = efficientnet.Stage(stage.depth, 3, stride, stage.expansion, stage.out_channels)
                    block = MBConv(
                        channels,
                        stage.out_channels,
                        row,
                        stride,
                        same=True,
                        use_se=True,
                        drop_connect=drop_connect,
                        name=name,
                    )
                blocks.append(block)
                channels = stage.out_channels
                number += 1
            self.features.append(nn.Sequential(*blocks))
        self.features.append(conv_bn(channels, 1280, 1, ("_conv_head", "_bn1")))
        self.classifier = nn.Sequential(
            Dropout(0.2, UPSCALE_IN_TRAIN), linear(1280, class_dim, "_fc", init=uniform_fan_out_)
        )

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the blocks are numbered through all stages, their parts have names."""
        if path == "classifier.1":
            return "_fc"
        match = re.fullmatch(r"features\.(\d)\.(?:(\d+)\.block\.(\d)\.)?(\w+)", path)
        assert match is not None, path
        stage, index, part, leaf = match.groups()
        if index is None:
            end = ("_stem._conv_stem._conv", "_stem._norm") if stage == "0" else ("_head._conv_head", "_head._norm")
            return end[int(leaf)]
        block = self.get_submodule(f"features.{stage}.{index}.block")
        assert isinstance(block, nn.Sequential)
        name = PADDLECLAS_PARTS[len(block)][int(part)][("0", "1", "fc1", "fc2").index(leaf) % 2]
        return f"_blocks.{sum(self.depths[: int(stage) - 1]) + int(index)}.{name}"

    def trunk(self) -> list[Layer]:
        return [*self.features][:-1]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, 1280)."""
        return global_average(self.features[-1](self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.forward_features(images))


EfficientNetV2_S = partial(EfficientNetV2, SMALL)

INPUTS = {"*": InputConfig(384, 416, BILINEAR, *AROUND_128, resize_mode="crop")}
