"""Inception-ResNet V2 (Szegedy et al., arXiv:1602.07261), without the auxiliary classifier."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import AROUND_128, BILINEAR, MINUS_ONE_TO_ONE, InputConfig
from models.layers import UPSCALE_IN_TRAIN, ConvBNAct, Dropout, conv2d, global_average, linear, relu
from models.network import Layer, Network


def conv(
    in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], stride: int = 1, **options
) -> ConvBNAct:
    """A convolution with its batch norm and ReLU."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, activation=relu, epsilon=1e-3, **options)


class Mixed5b(nn.Module):
    """The inception module after the stem: 192 channels to 320, 35 x 35."""

    caffe_parts: ClassVar = {
        "branch0": "1x1",
        "branch1.0": "5x5_reduce",
        "branch1.1": "5x5",
        "branch2.0": "3x3_reduce",
        "branch2.1": "3x3",
        "branch2.2": "3x3_2",
        "branch3.1": "1x1_ave",
    }

    def __init__(self, count_padding: bool) -> None:
        super().__init__()
        self.branch0 = conv(192, 96, 1)
        self.branch1 = nn.Sequential(conv(192, 48, 1), conv(48, 64, 5))
        self.branch2 = nn.Sequential(conv(192, 64, 1), conv(64, 96, 3), conv(96, 96, 3))
        self.branch3 = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=count_padding), conv(192, 64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 1)


class Residual(nn.Module):
    """A block that adds `scale` times a 1x1 convolution of its branches to its input. A ReLU follows.

    Args:
        channels: channels of the input.
        joined: channels of all branches together.
        scale: as in section 3.3 of the paper.
        activate: whether the ReLU follows.
    """

    def __init__(self, channels: int, joined: int, scale: float, activate: bool = True) -> None:
        super().__init__()
        self.conv2d = conv2d(joined, channels, 1, bias=True)
        self.scale = scale
        self.activate = activate

    def branches(self) -> list[nn.Module]:
        """branch0, branch1, ..."""
        return [child for name, child in self.named_children() if name.startswith("branch")]

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv2d(torch.cat([branch(x) for branch in self.branches()], 1))
        x = x + self.scale * change
        return F.relu(x) if self.activate else x


class Block35(Residual):
    """Figure 16 of the paper: Inception-ResNet-A, 320 channels, 35 x 35."""

    caffe_parts: ClassVar = {
        "branch0": "1x1",
        "branch1.0": "3x3_reduce",
        "branch1.1": "3x3",
        "branch2.0": "3x3_2_reduce",
        "branch2.1": "3x3_2",
        "branch2.2": "3x3_3",
        "conv2d": "up",
    }

    def __init__(self) -> None:
        super().__init__(320, 128, 0.17)
        self.branch0 = conv(320, 32, 1)
        self.branch1 = nn.Sequential(conv(320, 32, 1), conv(32, 32, 3))
        self.branch2 = nn.Sequential(conv(320, 32, 1), conv(32, 48, 3), conv(48, 64, 3))


class Block17(Residual):
    """Figure 17: Inception-ResNet-B, 1,088 channels, 17 x 17."""

    caffe_parts: ClassVar = {
        "branch0": "1x1",
        "branch1.0": "1x7_reduce",
        "branch1.1": "1x7",
        "branch1.2": "7x1",
        "conv2d": "up",
    }

    def __init__(self) -> None:
        super().__init__(1088, 384, 0.10)
        self.branch0 = conv(1088, 192, 1)
        self.branch1 = nn.Sequential(conv(1088, 128, 1), conv(128, 160, (1, 7)), conv(160, 192, (7, 1)))


class Block8(Residual):
    """Figure 19: Inception-ResNet-C, 2,080 channels, 8 x 8."""

    caffe_parts: ClassVar = {
        "branch0": "1x1",
        "branch1.0": "1x3_reduce",
        "branch1.1": "1x3",
        "branch1.2": "3x1",
        "conv2d": "up",
    }

    def __init__(self, scale: float = 0.20, activate: bool = True) -> None:
        super().__init__(2080, 448, scale, activate)
        self.branch0 = conv(2080, 192, 1)
        self.branch1 = nn.Sequential(conv(2080, 192, 1), conv(192, 224, (1, 3)), conv(224, 256, (3, 1)))


class Mixed6a(nn.Module):
    """Figure 7: Reduction-A, 320 channels to 1,088, 35 x 35 -> 17 x 17."""

    caffe_parts: ClassVar = {"branch0": "3x3", "branch1.0": "3x3_2_reduce", "branch1.1": "3x3_2", "branch1.2": "3x3_3"}

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = conv(320, 384, 3, 2, padding=0)
        self.branch1 = nn.Sequential(conv(320, 256, 1), conv(256, 256, 3), conv(256, 384, 3, 2, padding=0))
        self.branch2 = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x)), 1)


class Mixed7a(nn.Module):
    """Figure 18: Reduction-B, 1,088 channels to 2,080, 17 x 17 -> 8 x 8."""

    caffe_parts: ClassVar = {
        "branch0.0": "3x3_reduce",
        "branch0.1": "3x3",
        "branch1.0": "3x3_2_reduce",
        "branch1.1": "3x3_2",
        "branch2.0": "3x3_3_reduce",
        "branch2.1": "3x3_3",
        "branch2.2": "3x3_4",
    }

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(conv(1088, 256, 1), conv(256, 384, 3, 2, padding=0))
        self.branch1 = nn.Sequential(conv(1088, 256, 1), conv(256, 288, 3, 2, padding=0))
        self.branch2 = nn.Sequential(conv(1088, 256, 1), conv(256, 288, 3), conv(288, 320, 3, 2, padding=0))
        self.branch3 = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 1)


class InceptionResNet(Network):
    """Inception-ResNet V2, by default the authors' network; the module paths are timm's.

    Args:
        class_dim: number of classes.
        count_padding: whether the average pool counts positions outside the map as zeros.
    """

    def __init__(self, class_dim: int = 1000, *, count_padding: bool = False) -> None:
        super().__init__()
        self.conv2d_1a = conv(3, 32, 3, 2, padding=0)
        self.conv2d_2a = conv(32, 32, 3, padding=0)
        self.conv2d_2b = conv(32, 64, 3)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = conv(64, 80, 1)
        self.conv2d_4a = conv(80, 192, 3, padding=0)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = Mixed5b(count_padding)
        self.repeat = nn.Sequential(*(Block35() for _ in range(10)))
        self.mixed_6a = Mixed6a()
        self.repeat_1 = nn.Sequential(*(Block17() for _ in range(20)))
        self.mixed_7a = Mixed7a()
        self.repeat_2 = nn.Sequential(*(Block8() for _ in range(9)))
        self.block8 = Block8(scale=1.0, activate=False)
        self.conv2d_7b = conv(2080, 1536, 1)
        self.dropout = Dropout(0.2, UPSCALE_IN_TRAIN)
        self.classif = linear(1536, class_dim)

    def trunk(self) -> list[Layer]:
        return [
            *(self.conv2d_1a, self.conv2d_2a, self.conv2d_2b, self.maxpool_3a),
            *(self.conv2d_3b, self.conv2d_4a, self.maxpool_5a),
            *(self.mixed_5b, self.repeat, self.mixed_6a, self.repeat_1),
            *(self.mixed_7a, self.repeat_2, self.block8),
        ]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, 1536)."""
        return global_average(self.conv2d_7b(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classif(self.dropout(self.forward_features(images)))


class CaffeInceptionResNet(InceptionResNet):
    """The network as published for Caffe."""

    # Caffe's layers of the stem and the end, and how the names of its layers in our modules begin.
    caffe_layers: ClassVar = {
        "conv2d_1a": "conv1_3x3_s2",
        "conv2d_2a": "conv2_3x3_s1",
        "conv2d_2b": "conv3_3x3_s1",
        "conv2d_3b": "conv4_3x3_reduce",
        "conv2d_4a": "conv4_3x3",
        "mixed_5b": "conv5",
        "repeat": "inception_resnet_v2_a",
        "mixed_6a": "reduction_a",
        "repeat_1": "inception_resnet_v2_b",
        "mixed_7a": "reduction_b",
        "repeat_2": "inception_resnet_v2_c",
        "block8": "inception_resnet_v2_c10",
        "conv2d_7b": "conv6_1x1",
        "classif": "classifier",
    }

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: conv1_3x3_s2, ..., inception_resnet_v2_a1_1x1, ..., classifier."""
        module, _, rest = path.removesuffix(".conv").removesuffix(".bn").partition(".")
        layer = self.caffe_layers[module]
        if not rest:
            return layer
        block = self.get_submodule(module)
        if isinstance(block, nn.Sequential):
            index, _, rest = rest.partition(".")
            layer, block = f"{layer}{int(index) + 1}", block[int(index)]
        parts = cast(Mapping[str, str], block.caffe_parts)  # in every block
        return f"{layer}_{parts[rest]}"


InceptionResNetV2 = InceptionResNet
InceptionResNetV2_caffe = partial(CaffeInceptionResNet, count_padding=True)

INPUTS = {
    "InceptionResNetV2": InputConfig(299, 320, BILINEAR, *MINUS_ONE_TO_ONE),
    "*_caffe": InputConfig(299, 320, BILINEAR, *AROUND_128),
}
