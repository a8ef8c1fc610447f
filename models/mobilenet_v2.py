"""MobileNet V2: inverted residuals with linear bottlenecks (Sandler et al., arXiv:1801.04381).

Unlike the paper's (and torchvision's) network, the first block has an expansion convolution too, with factor 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from models.layers import ConvBNAct, ConvSqueezeExcitation, global_average, hard_sigmoid, linear, relu6
from models.network import Layer, Network

# (expansion factor, output channels at width 1, blocks, stride of the first block) of the stages conv2 ... conv8
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise one, and a 1x1 one that narrows, without an activation at the end.

    Args:
        expanded: channels of the depthwise convolution.
        names: published names of the three convolutions: expansion (None: without), depthwise, projection.
        se_name: squeeze-and-excitation after the depthwise convolution, published as SE_NAME_1 and SE_NAME_2;
            None: without.
        shortcut: whether to add the input, if it has the output's shape.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        activation: Callable[[], nn.Module],
        names: tuple[str | None, str, str],
        se_name: str | None = None,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        expand, depthwise, project = names
        self.expand_conv = (
            nn.Identity() if expand is None else ConvBNAct(in_channels, expanded, 1, name=expand, activation=activation)
        )
        self.bottleneck_conv = ConvBNAct(
            expanded, expanded, kernel_size, stride, groups=expanded, name=depthwise, activation=activation
        )
        self.mid_se = (
            nn.Identity()
            if se_name is None
            else ConvSqueezeExcitation(expanded, expanded // 4, (f"{se_name}_1", f"{se_name}_2"), gate=hard_sigmoid)
        )
        self.linear_conv = ConvBNAct(expanded, out_channels, 1, name=project)
        self.shortcut = shortcut and stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear_conv(self.mid_se(self.bottleneck_conv(self.expand_conv(x))))
        return x + y if self.shortcut else y


class MobileNetV2Net(Network):
    """MobileNet V2 with its channels multiplied by `scale`, those of the last convolution only if that is above 1."""

    def __init__(self, scale: float = 1.0, class_dim: int = 1000) -> None:
        super().__init__()
        channels = int(32 * scale)
        self.conv1 = ConvBNAct(3, channels, 3, 2, name="conv1_1", activation=relu6)
        blocks = []
        for stage, (factor, width, depth, first_stride) in enumerate(STAGES, 2):
            for index in range(depth):
                name = f"conv{stage}_{index + 1}"
                blocks.append(
                    InvertedResidual(
                        channels,
                        channels * factor,
                        int(width * scale),
                        kernel_size=3,
                        stride=first_stride if index == 0 else 1,
                        activation=relu6,
                        names=(f"{name}_expand", f"{name}_dwise", f"{name}_linear"),
                    )
                )
                channels = int(width * scale)
        self.blocks = nn.Sequential(*blocks)
        last_channels = int(1280 * max(scale, 1.0))
        self.conv9 = ConvBNAct(channels, last_channels, 1, name="conv9", activation=relu6)
        self.fc = linear(last_channels, class_dim, "fc10", init=nn.init.xavier_uniform_)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: its blocks sit in stages, as conv3._first_block, conv3.conv3_2, ..."""
        if path == "fc":
            return "out"
        path = re.sub(r"\.(conv|bn)$", lambda leaf: {"conv": "._conv", "bn": "._batch_norm"}[leaf[1]], path)
        if place := re.fullmatch(r"blocks\.(\d+)\.(.+)", path):
            places = [(stage, index) for stage, (_, _, depth, _) in enumerate(STAGES, 2) for index in range(depth)]
            stage, index = places[int(place[1])]
            block = f"conv{stage}_{index + 1}" if index else "_first_block"
            return f"conv{stage}.{block}._{place[2]}"
        return path

    def trunk(self) -> list[Layer]:
        return [self.conv1, *self.blocks]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.conv9(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


MobileNetV2_x0_25 = partial(MobileNetV2Net, 0.25)
MobileNetV2_x0_5 = partial(MobileNetV2Net, 0.5)
MobileNetV2_x0_75 = partial(MobileNetV2Net, 0.75)
MobileNetV2_x1_0 = partial(MobileNetV2Net, 1.0)
MobileNetV2_x1_5 = partial(MobileNetV2Net, 1.5)
MobileNetV2_x2_0 = partial(MobileNetV2Net, 2.0)
MobileNetV2 = MobileNetV2_ssld = MobileNetV2_x1_0
