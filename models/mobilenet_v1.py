"""MobileNet V1: depthwise separable convolutions (Howard et al., arXiv:1704.04861)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from models.initializers import he_uniform_
from models.layers import ConvBNAct, linear, relu
from models.network import Layer, Network

# (published name, output channels at width 1, stride) of every depthwise separable convolution
BLOCKS = (
    ("conv2_1", 64, 1),
    ("conv2_2", 128, 2),
    ("conv3_1", 128, 1),
    ("conv3_2", 256, 2),
    ("conv4_1", 256, 1),
    ("conv4_2", 512, 2),
    *((f"conv5_{number}", 512, 1) for number in range(1, 6)),
    ("conv5_6", 1024, 2),
    ("conv6", 1024, 1),
)


class DepthwiseSeparable(nn.Module):
    """A 3x3 depthwise convolution, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, name: str) -> None:
        super().__init__()
        options = {"activation": relu, "init": he_uniform_}
        self.depthwise_conv = ConvBNAct(
            in_channels, in_channels, 3, stride, groups=in_channels, name=f"{name}_dw", **options
        )
        self.pointwise_conv = ConvBNAct(in_channels, out_channels, 1, name=f"{name}_sep", **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class MobileNetV1Net(Network):
    """MobileNet V1 with its channels multiplied by `scale`; the module paths are PaddleClas's."""

    def __init__(self, scale: float = 1.0, class_dim: int = 1000) -> None:
        super().__init__()
        channels = int(32 * scale)
        self.conv = ConvBNAct(3, channels, 3, 2, name="conv1", activation=relu, init=he_uniform_)
        blocks = []
        for name, width, stride in BLOCKS:
            out_channels = int(width * scale)
            blocks.append(DepthwiseSeparable(channels, out_channels, stride, name))
            channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = linear(channels, class_dim, "fc7", init=he_uniform_)

    def trunk(self) -> list[Layer]:
        return [self.conv, *self.blocks]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


MobileNetV1_x0_25 = partial(MobileNetV1Net, 0.25)
MobileNetV1_x0_5 = partial(MobileNetV1Net, 0.5)
MobileNetV1_x0_75 = partial(MobileNetV1Net, 0.75)
MobileNetV1_x1_0 = partial(MobileNetV1Net, 1.0)
MobileNetV1 = MobileNetV1_x1_0
