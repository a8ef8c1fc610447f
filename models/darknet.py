"""DarkNet53, the backbone of YOLOv3 (Redmon and Farhadi, arXiv:1804.02767), here with plain ReLUs."""

from __future__ import annotations

from torch import Tensor, nn

from models.inputs import InputConfig
from models.layers import ConvBNAct, linear, relu
from models.names import publish
from models.network import Layer, Network

DEPTHS = (1, 2, 8, 8, 4)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int, name: str) -> ConvBNAct:
    """A convolution with its batch norm and ReLU, published as NAME.conv.weights, NAME.bn.scale, ..."""
    layer = ConvBNAct(in_channels, out_channels, kernel_size, stride, activation=relu)
    publish(layer.conv, weight=f"{name}.conv.weights")
    publish(
        layer.bn,
        weight=f"{name}.bn.scale",
        bias=f"{name}.bn.offset",
        running_mean=f"{name}.bn.mean",
        running_var=f"{name}.bn.var",
    )
    return layer


class BasicBlock(nn.Module):
    """A 1x1 convolution to half the channels and a 3x3 one back, around a shortcut."""

    def __init__(self, channels: int, name: str) -> None:
        super().__init__()
        self.conv1 = conv_bn(channels, channels // 2, 1, 1, f"{name}.0")
        self.conv2 = conv_bn(channels // 2, channels, 3, 1, f"{name}.1")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class DarkNet53(Network):
    """Five stages of residual blocks, each after a 3x3 convolution of stride 2; stage s is stages[s]."""

    def __init__(self, class_dim: int = 1000) -> None:
        super().__init__()
        channels = 32
        self.conv1 = conv_bn(3, channels, 3, 1, "yolo_input")
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(DEPTHS):
            # The convolution before a stage is published under the name of what precedes it.
            name = f"stage.{stage - 1}" if stage else "yolo_input"
            downsample = conv_bn(channels, 2 * channels, 3, 2, f"{name}.downsample")
            channels *= 2
            blocks = (BasicBlock(channels, f"stage.{stage}.{index}") for index in range(depth))
            self.stages.append(nn.Sequential(downsample, *blocks))
        self.fc = linear(channels, class_dim, "fc")

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's blocks are _basic_block_01 ... _basic_block_44, after _conv2 and _downsample_0 ... 3."""
        if path == "fc":
            return "_out"
        *parents, leaf = path.split(".")
        if parents == ["conv1"]:
            return f"_conv1._{leaf}"
        _, stage, index, *convolution = parents
        if index == "0":
            return f"_downsample_{int(stage) - 1}._{leaf}" if stage != "0" else f"_conv2._{leaf}"
        return f"_basic_block_{stage}{index}._{convolution[0]}._{leaf}"

    def trunk(self) -> list[Layer]:
        return [self.conv1, *self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


INPUTS = {"*": InputConfig(256, 256)}
PADDLECLAS_INPUTS = {"*": InputConfig(256, 292)}
