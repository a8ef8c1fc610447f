"""ShuffleNet V2: channel splits and shuffles instead of group convolutions (Ma et al., arXiv:1807.11164).

The stages of fluid's ShuffleNetV2_x2_0 begin with 224 channels. The paper, torchvision and PaddleClas have 244: that
network is ShuffleNetV2_x2_0_paddleclas.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from models.initializers import he_uniform_
from models.layers import batch_norm, conv2d, global_average, linear, relu, swish
from models.network import Layer, Network

# blocks of the stages 2, 3 and 4
DEPTHS = (4, 8, 4)

# what PaddleClas calls the layers of the two branches (None: the activation)
PADDLECLAS_PARTS = {
    1: ("dw", "dw", "linear", "linear"),
    2: ("pw", "pw", None, "dw", "dw", "linear", "linear"),
}


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, name: str, *, depthwise: bool = False
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution with its batch norm, published as NAME and NAME_bn."""
    groups = in_channels if depthwise else 1
    conv = conv2d(in_channels, out_channels, kernel_size, stride, groups=groups, name=name, init=he_uniform_)
    return conv, batch_norm(out_channels, f"{name}_bn")


def interleave(left: Tensor, right: Tensor) -> Tensor:
    """Interleaves the channels of both: the paper's concatenation and channel shuffle in one copy.

    The memory format is kept; a shuffle by reshaping would lose channels_last.
    """
    if right.is_contiguous(memory_format=torch.channels_last):
        return torch.stack((left.movedim(1, 3), right.movedim(1, 3)), 4).flatten(3).movedim(3, 1)
    return torch.stack((left, right), 2).flatten(1, 2)


class ShuffleBlock(nn.Module):
    """Convolves one half of the channels; at stride 2 both branches, each from all input channels."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, name: str, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.branch1 = None
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_bn(in_channels, in_channels, 3, stride, f"{name}_conv4", depthwise=True),
                *conv_bn(in_channels, half, 1, 1, f"{name}_conv5"),
                activation(),
            )
        self.branch2 = nn.Sequential(
            *conv_bn(in_channels if stride > 1 else half, half, 1, 1, f"{name}_conv1"),
            activation(),
            *conv_bn(half, half, 3, stride, f"{name}_conv2", depthwise=True),
            *conv_bn(half, half, 1, 1, f"{name}_conv3"),
            activation(),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.branch1 is None else (self.branch1(x), x)
        return interleave(left, self.branch2(right))


class ShuffleNetV2Net(Network):
    """ShuffleNet V2; the module paths are torchvision's.

    Args:
        widths: output channels of the stages 2, 3 and 4.
        features: channels of the last convolution.
        class_dim: number of classes.
        activation: builds the activation.
    """

    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    def __init__(
        self,
        widths: tuple[int, int, int],
        features: int,
        class_dim: int = 1000,
        *,
        activation: Callable[[], nn.Module] = relu,
    ) -> None:
        super().__init__()
        channels = 24
        self.conv1 = nn.Sequential(*conv_bn(3, channels, 3, 2, "stage1_conv"), activation())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), 2):
            blocks = []
            for index in range(depth):
                stride = 2 if index == 0 else 1
                blocks.append(ShuffleBlock(channels, width, stride, f"stage_{stage}_{index + 1}", activation))
                channels = width
            setattr(self, f"stage{stage}", nn.Sequential(*blocks))
        self.conv5 = nn.Sequential(*conv_bn(channels, features, 1, 1, "conv5"), activation())
        self.fc = linear(features, class_dim, "fc6", init=he_uniform_)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the blocks are 2_1 ... 4_8, their convolutions are named by their function."""
        if path == "fc":
            return "_fc"
        leaf = "_conv" if isinstance(self.get_submodule(path), nn.Conv2d) else "_batch_norm"
        if place := re.fullmatch(r"stage(\d)\.(\d+)\.branch(\d)\.(\d)", path):
            stage, index, branch, layer = map(int, place.groups())
            part = PADDLECLAS_PARTS[branch][layer] + (f"_{branch}" if index == 0 else "")
            return f"{stage}_{index + 1}._conv_{part}.{leaf}"
        return f"_conv1.{leaf}" if path.startswith("conv1.") else f"_last_conv.{leaf}"

    def trunk(self) -> list[Layer]:
        return [self.conv1, self.maxpool, self.stage2, self.stage3, self.stage4]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.conv5(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


ShuffleNetV2_x0_25 = partial(ShuffleNetV2Net, (24, 48, 96), 512)
ShuffleNetV2_x0_33 = partial(ShuffleNetV2Net, (32, 64, 128), 512)
ShuffleNetV2_x0_5 = partial(ShuffleNetV2Net, (48, 96, 192), 1024)
ShuffleNetV2_x1_0 = partial(ShuffleNetV2Net, (116, 232, 464), 1024)
ShuffleNetV2_x1_5 = partial(ShuffleNetV2Net, (176, 352, 704), 1024)
ShuffleNetV2_x2_0 = partial(ShuffleNetV2Net, (224, 488, 976), 2048)
ShuffleNetV2_x2_0_paddleclas = partial(ShuffleNetV2Net, (244, 488, 976), 2048)
ShuffleNetV2_x0_5_swish = partial(ShuffleNetV2Net, (48, 96, 192), 1024, activation=swish)
ShuffleNetV2_x1_0_swish = partial(ShuffleNetV2Net, (116, 232, 464), 1024, activation=swish)
ShuffleNetV2_x1_5_swish = partial(ShuffleNetV2Net, (176, 352, 704), 1024, activation=swish)
ShuffleNetV2_x2_0_swish = partial(ShuffleNetV2Net, (224, 488, 976), 2048, activation=swish)


ShuffleNetV2 = ShuffleNetV2_x1_0
ShuffleNetV2_swish = ShuffleNetV2_x1_0_swish
