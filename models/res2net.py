"""Res2Net: a bottleneck whose 3x3 convolutions form a chain of residual groups (Gao et al., arXiv:1904.01169).

The name ends in (width of each group at 64 planes) x (number of groups, "scales").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from models.layers import batch_norm, conv2d, relu
from models.resnet import Place, ResNet, ResNetBB


class Res2NetBlock(nn.Module):
    """A bottleneck that splits its channels into `scales` groups.

    Each group except the last adds the previous group's result and passes a 3x3 convolution; the last is unchanged. In
    a block that strides no results are added, and the last group is pooled.
    """

    expansion = 4
    convolutions = 3

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        scales: int,
        base_width: int,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64
        out_channels = planes * self.expansion
        self.scales = scales
        self.chained = stride == 1
        self.conv1 = conv2d(in_channels, width * scales, 1)
        self.bn1 = batch_norm(width * scales)
        self.convs = nn.ModuleList(conv2d(width, width, 3, stride) for _ in range(scales - 1))
        self.bns = nn.ModuleList(batch_norm(width) for _ in range(scales - 1))
        self.pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False) if stride > 1 else nn.Identity()
        self.conv3 = conv2d(width * scales, out_channels, 1)
        self.bn3 = batch_norm(out_channels)
        self.relu = relu()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        groups = self.relu(self.bn1(self.conv1(x))).chunk(self.scales, dim=1)
        results: list[Tensor] = []
        for group, conv, bn in zip(groups, self.convs, self.bns, strict=False):
            if self.chained and results:
                group = group + results[-1]
            results.append(self.relu(bn(conv(group))))
        results.append(self.pool(groups[-1]))
        x = self.bn3(self.conv3(torch.cat(results, dim=1)))
        return self.relu(x + shortcut)


class Res2Net(ResNetBB):
    """A `ResNet` of `Res2NetBlock`s."""

    fluid_classifier = "fc"

    def __init__(
        self, depths: Sequence[int], class_dim: int = 1000, *, scales: int, base_width: int, **options
    ) -> None:
        self.scales = scales
        super().__init__(Res2NetBlock, depths, class_dim, scales=scales, base_width=base_width, **options)

    def places(self) -> Iterator[tuple[Place, str, str]]:
        for place, conv, bn in super().places():
            if place.stage == 0 or place.part != 1:
                yield place, conv, bn
                continue
            block = conv.rpartition(".")[0]
            for split in range(self.scales - 1):
                yield place._replace(split=split + 1), f"{block}.convs.{split}", f"{block}.bns.{split}"

    def paddleclas_block(self, place: Place) -> str:
        path = super().paddleclas_block(place)
        if place.stage == 0:
            return "conv1" if path == "conv" else path
        if place.split:
            # PaddleClas's path here contains the name of a variable, always with the labels of `ResNet`.
            label = ResNet.fluid_block(self, place.stage, place.index)
            return f"{path.rpartition('.')[0]}.res{label}_branch2b_{place.split}"
        return path


Res2Net50_48w_2s = partial(Res2Net, (3, 4, 6, 3), scales=2, base_width=48)
Res2Net50_26w_4s = partial(Res2Net, (3, 4, 6, 3), scales=4, base_width=26)
Res2Net50_14w_8s = partial(Res2Net, (3, 4, 6, 3), scales=8, base_width=14)
Res2Net50_26w_6s = partial(Res2Net, (3, 4, 6, 3), scales=6, base_width=26)
Res2Net50_26w_8s = partial(Res2Net, (3, 4, 6, 3), scales=8, base_width=26)
Res2Net101_26w_4s = partial(Res2Net, (3, 4, 23, 3), scales=4, base_width=26)
Res2Net152_26w_4s = partial(Res2Net, (3, 8, 36, 3), scales=4, base_width=26)
