"""MobileNet V3: searched inverted residuals with hard swish and gated channels (Howard et al., arXiv:1905.02244).

Two forms are published under the same names. Fluid's truncates scaled widths to integers, its first block has no
expansion convolution and, except at scale 1, no shortcut. PaddleClas's rounds the widths to multiples of 8, and its
first block is like the others. A name of PaddleClas's form ends in _paddleclas, unless fluid never had the network.

The gates of both are fluid's hard sigmoid, min(max(0.2 x + 0.5, 0), 1); the paper (and torchvision) has a slope of 1/6.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvBNAct, Dropout, conv2d, hard_swish, linear, make_divisible, relu
from models.mobilenet_v2 import InvertedResidual
from models.names import override_batch_norm_decay
from models.network import Layer, Network


class Block(NamedTuple):
    """A row of the paper's tables 1 and 2, channels at width 1."""

    kernel_size: int
    expanded: int
    out_channels: int
    squeeze: bool
    hard: bool
    stride: int


LARGE = (
    Block(3, 16, 16, False, False, 1),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False, 1),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False, 1),
    Block(5, 120, 40, True, False, 1),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 480, 112, True, True, 1),
    Block(3, 672, 112, True, True, 1),
    Block(5, 672, 160, True, True, 2),
    Block(5, 960, 160, True, True, 1),
    Block(5, 960, 160, True, True, 1),
)

SMALL = (
    Block(3, 16, 16, True, False, 2),
    Block(3, 72, 24, False, False, 2),
    Block(3, 88, 24, False, False, 1),
    Block(5, 96, 40, True, True, 2),
    Block(5, 240, 40, True, True, 1),
    Block(5, 240, 40, True, True, 1),
    Block(5, 120, 48, True, True, 1),
    Block(5, 144, 48, True, True, 1),
    Block(5, 288, 96, True, True, 2),
    Block(5, 576, 96, True, True, 1),
    Block(5, 576, 96, True, True, 1),
)


class MobileNetV3(Network):
    """MobileNet V3 with its channels multiplied by `scale`; the module paths are PaddleClas's.

    Args:
        table: `LARGE` or `SMALL`.
        scale: factor of the widths, except the 1,280 features.
        class_dim: number of classes.
        paddleclas: whether to build PaddleClas's form instead of fluid's.
    """

    def __init__(
        self,
        table: Sequence[Block],
        scale: float = 1.0,
        class_dim: int = 1000,
        *,
        paddleclas: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()

        def scaled(width: int) -> int:
            return make_divisible(scale * width) if paddleclas else int(scale * width)

        channels = scaled(16)
        self.conv = ConvBNAct(3, channels, 3, 2, name="conv1", activation=hard_swish)
        blocks = []
        for number, block in enumerate(table, 2):
            name = f"conv{number}"
            like_others = number > 2 or paddleclas
            blocks.append(
                InvertedResidual(
                    channels,
                    scaled(block.expanded),
                    scaled(block.out_channels),
                    block.kernel_size,
                    block.stride,
                    hard_swish if block.hard else relu,
                    names=(f"{name}_expand" if like_others else None, f"{name}_depthwise", f"{name}_linear"),
                    se_name=f"{name}_se" if block.squeeze else None,
                    # Fluid's first block compared its output with 16 channels at every scale.
                    shortcut=like_others or scale == 1.0,
                )
            )
            channels = scaled(block.out_channels)
        self.blocks = nn.Sequential(*blocks)
        last_channels = scaled(table[-1].expanded)
        self.last_second_conv = ConvBNAct(channels, last_channels, 1, name="conv_last", activation=hard_swish)
        self.last_conv = conv2d(last_channels, 1280, 1, name="last_1x1_conv")
        self.dropout = Dropout(dropout)
        self.fc = linear(1280, class_dim, "fc", init=nn.init.xavier_uniform_)
        if paddleclas:
            override_batch_norm_decay(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: mid_se.conv1 and mid_se.conv2 in the blocks."""
        return path.replace(".fc", ".conv")

    def trunk(self) -> list[Layer]:
        return [self.conv, *self.blocks]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 1,280 values that the classifier sees, (N, 1280)."""
        x = self.last_second_conv(self.forward_trunk(images))
        return F.hardswish(self.last_conv(x.mean((2, 3), keepdim=True))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


MobileNetV3_large_x0_25 = partial(MobileNetV3, LARGE, 0.25)
MobileNetV3_large_x0_5 = partial(MobileNetV3, LARGE, 0.5)
MobileNetV3_large_x0_75 = partial(MobileNetV3, LARGE, 0.75)
MobileNetV3_large_x1_0 = partial(MobileNetV3, LARGE, 1.0)
MobileNetV3_large_x1_25 = partial(MobileNetV3, LARGE, 1.25)
MobileNetV3_small_x0_25 = partial(MobileNetV3, SMALL, 0.25)
MobileNetV3_small_x0_5 = partial(MobileNetV3, SMALL, 0.5)
MobileNetV3_small_x0_75 = partial(MobileNetV3, SMALL, 0.75)
MobileNetV3_small_x1_0 = partial(MobileNetV3, SMALL, 1.0)
MobileNetV3_small_x1_25 = partial(MobileNetV3, SMALL, 1.25)
MobileNetV3_large_x0_35 = partial(MobileNetV3, LARGE, 0.35, paddleclas=True)
MobileNetV3_large_x0_5_paddleclas = partial(MobileNetV3, LARGE, 0.5, paddleclas=True)
MobileNetV3_large_x0_75_paddleclas = partial(MobileNetV3, LARGE, 0.75, paddleclas=True)
MobileNetV3_large_x1_0_paddleclas = partial(MobileNetV3, LARGE, 1.0, paddleclas=True)
MobileNetV3_large_x1_25_paddleclas = partial(MobileNetV3, LARGE, 1.25, paddleclas=True)
MobileNetV3_small_x0_35 = partial(MobileNetV3, SMALL, 0.35, paddleclas=True)
MobileNetV3_small_x0_5_paddleclas = partial(MobileNetV3, SMALL, 0.5, paddleclas=True)
MobileNetV3_small_x0_75_paddleclas = partial(MobileNetV3, SMALL, 0.75, paddleclas=True)
MobileNetV3_small_x1_0_paddleclas = partial(MobileNetV3, SMALL, 1.0, paddleclas=True)
MobileNetV3_small_x1_25_paddleclas = partial(MobileNetV3, SMALL, 1.25, paddleclas=True)
MobileNetV3_large_x1_0_ssld = MobileNetV3_large_x1_0
MobileNetV3_small_x1_0_ssld = MobileNetV3_small_x1_0
MobileNetV3_small_x0_35_ssld = MobileNetV3_small_x0_35
