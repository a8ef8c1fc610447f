"""Inception V3 (Szegedy et al., arXiv:1512.00567), without the auxiliary classifier."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from models.inputs import AROUND_128, BILINEAR, MINUS_ONE_TO_ONE, InputConfig
from models.layers import ConvBNAct, Dropout, linear, relu
from models.network import Layer, Network


def conv(
    in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], stride: int = 1, **options
) -> ConvBNAct:
    """A convolution with its batch norm and ReLU."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, activation=relu, **options)


class InceptionA(nn.Module):
    """Figure 5 of the paper: 35 x 35; `pool_features` is the width of the pooling branch."""

    caffe_parts: ClassVar = {
        "branch1x1": "1x1",
        "branch5x5_1": "5x5_reduce",
        "branch5x5_2": "5x5",
        "branch3x3dbl_1": "3x3_reduce",
        "branch3x3dbl_2": "3x3_1",
        "branch3x3dbl_3": "3x3_2",
        "branch_pool": "pool_proj",
    }

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = conv(in_channels, 64, 1)
        self.branch5x5_1 = conv(in_channels, 48, 1)
        self.branch5x5_2 = conv(48, 64, 5)
        self.branch3x3dbl_1 = conv(in_channels, 64, 1)
        self.branch3x3dbl_2 = conv(64, 96, 3)
        self.branch3x3dbl_3 = conv(96, 96, 3)
        self.avgpool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = conv(in_channels, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branch_pool = self.branch_pool(self.avgpool(x))
        return torch.cat((self.branch1x1(x), branch5x5, branch3x3dbl, branch_pool), 1)


class InceptionB(nn.Module):
    """Figure 10: 35 x 35 -> 17 x 17."""

    caffe_parts: ClassVar = {
        "branch3x3": "3x3",
        "branch3x3dbl_1": "3x3_2_reduce",
        "branch3x3dbl_2": "3x3_2",
        "branch3x3dbl_3": "3x3_3",
    }

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = conv(in_channels, 384, 3, 2, padding=0)
        self.branch3x3dbl_1 = conv(in_channels, 64, 1)
        self.branch3x3dbl_2 = conv(64, 96, 3)
        self.branch3x3dbl_3 = conv(96, 96, 3, 2, padding=0)
        self.maxpool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), branch3x3dbl, self.maxpool(x)), 1)


class InceptionC(nn.Module):
    """Figure 6: 17 x 17, the 7x7 convolutions factorized; `width` is the width of their inner parts."""

    caffe_parts: ClassVar = {
        "branch1x1": "1x1_2",
        "branch7x7_1": "1x7_reduce",
        "branch7x7_2": "1x7",
        "branch7x7_3": "7x1",
        "branch7x7dbl_1": "7x1_reduce",
        "branch7x7dbl_2": "7x1_2",
        "branch7x7dbl_3": "1x7_2",
        "branch7x7dbl_4": "7x1_3",
        "branch7x7dbl_5": "1x7_3",
        "branch_pool": "1x1",
    }

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = conv(768, 192, 1)
        self.branch7x7_1 = conv(768, width, 1)
        self.branch7x7_2 = conv(width, width, (1, 7))
        self.branch7x7_3 = conv(width, 192, (7, 1))
        self.branch7x7dbl_1 = conv(768, width, 1)
        self.branch7x7dbl_2 = conv(width, width, (7, 1))
        self.branch7x7dbl_3 = conv(width, width, (1, 7))
        self.branch7x7dbl_4 = conv(width, width, (7, 1))
        self.branch7x7dbl_5 = conv(width, 192, (1, 7))
        self.avgpool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        branch7x7dbl = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branch7x7dbl = self.branch7x7dbl_5(self.branch7x7dbl_4(branch7x7dbl))
        branch_pool = self.branch_pool(self.avgpool(x))
        return torch.cat((self.branch1x1(x), branch7x7, branch7x7dbl, branch_pool), 1)


class InceptionD(nn.Module):
    """Figure 10 again: 17 x 17 -> 8 x 8."""

    caffe_parts: ClassVar = {
        "branch3x3_1": "3x3_reduce",
        "branch3x3_2": "3x3",
        "branch7x7x3_1": "1x7_reduce",
        "branch7x7x3_2": "1x7",
        "branch7x7x3_3": "7x1",
        "branch7x7x3_4": "3x3_2",
    }

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = conv(768, 192, 1)
        self.branch3x3_2 = conv(192, 320, 3, 2, padding=0)
        self.branch7x7x3_1 = conv(768, 192, 1)
        self.branch7x7x3_2 = conv(192, 192, (1, 7))
        self.branch7x7x3_3 = conv(192, 192, (7, 1))
        self.branch7x7x3_4 = conv(192, 192, 3, 2, padding=0)
        self.maxpool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch7x7x3 = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat((branch3x3, branch7x7x3, self.maxpool(x)), 1)


class InceptionE(nn.Module):
    """Figure 7: 8 x 8, the widest filter bank; with `max_pool` the pooling branch takes maxima, not averages."""

    caffe_parts: ClassVar = {
        "branch1x1": "1x1_2",
        "branch3x3_1": "1x3_reduce",
        "branch3x3_2a": "1x3",
        "branch3x3_2b": "3x1",
        "branch3x3dbl_1": "3x3_reduce",
        "branch3x3dbl_2": "3x3",
        "branch3x3dbl_3a": "1x3_2",
        "branch3x3dbl_3b": "3x1_2",
        "branch_pool": "1x1",
    }

    def __init__(self, in_channels: int, max_pool: bool = False) -> None:
        super().__init__()
        self.branch1x1 = conv(in_channels, 320, 1)
        self.branch3x3_1 = conv(in_channels, 384, 1)
        self.branch3x3_2a = conv(384, 384, (1, 3))
        self.branch3x3_2b = conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = conv(in_channels, 448, 1)
        self.branch3x3dbl_2 = conv(448, 384, 3)
        self.branch3x3dbl_3a = conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = conv(384, 384, (3, 1))
        self.pool = nn.MaxPool2d(3, 1, 1) if max_pool else nn.AvgPool2d(3, 1, 1)
        self.branch_pool = conv(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.branch3x3_1(x)
        branch3x3 = self.branch3x3_2a(stem), self.branch3x3_2b(stem)
        stem = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branch3x3dbl = self.branch3x3dbl_3a(stem), self.branch3x3dbl_3b(stem)
        branch_pool = self.branch_pool(self.pool(x))
        return torch.cat((self.branch1x1(x), *branch3x3, *branch3x3dbl, branch_pool), 1)


class InceptionV3(Network):
    """Inception V3; the module paths are torchvision's.

    By default it has PaddleClas's form. It was not in fluid's zoo, so its fluid names are automatic.

    Args:
        class_dim: number of classes.
        epsilon: of the batch norms.
        max_pool: whether the last module's pooling branch takes maxima.
    """

    def __init__(self, class_dim: int = 1000, *, epsilon: float = 1e-5, max_pool: bool = False) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = conv(3, 32, 3, 2, padding=0)
        self.Conv2d_2a_3x3 = conv(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = conv(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = conv(64, 80, 1)
        self.Conv2d_4a_3x3 = conv(80, 192, 3, padding=0)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(128)
        self.Mixed_6c = InceptionC(160)
        self.Mixed_6d = InceptionC(160)
        self.Mixed_6e = InceptionC(192)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048, max_pool)
        self.dropout = Dropout(0.2)
        self.fc = linear(2048, class_dim)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = epsilon

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's stem is inception_stem.conv_1a_3x3, ..., its modules inception_block_list.0 to 10."""
        if path.startswith("Conv2d"):
            return f"inception_stem.{path.replace('Conv2d', 'conv')}"
        modules = [name for name, _ in self.named_children() if name.startswith("Mixed")]
        name, _, rest = path.partition(".")
        if name not in modules:
            return path
        return f"inception_block_list.{modules.index(name)}.{rest.replace('branch_pool', 'branch_pool_conv')}"

    def trunk(self) -> list[Layer]:
        return [
            *(self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3, self.maxpool1),
            *(self.Conv2d_3b_1x1, self.Conv2d_4a_3x3, self.maxpool2),
            *(self.Mixed_5b, self.Mixed_5c, self.Mixed_5d),
            *(self.Mixed_6a, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e),
            *(self.Mixed_7a, self.Mixed_7b, self.Mixed_7c),
        ]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


class CaffeInceptionV3(InceptionV3):
    """Inception V3 as published for Caffe, converted from MXNet's network."""

    caffe_layers: ClassVar = {
        "Conv2d_1a_3x3": "conv1_3x3_s2",
        "Conv2d_2a_3x3": "conv2_3x3_s1",
        "Conv2d_2b_3x3": "conv3_3x3_s1",
        "Conv2d_3b_1x1": "conv4_3x3_reduce",
        "Conv2d_4a_3x3": "conv4_3x3",
        "fc": "classifier",
    }

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: conv1_3x3_s2, ..., inception_a1_1x1, ..., reduction_a_3x3, ..., classifier."""
        module, *rest = path.split(".")
        if not module.startswith("Mixed"):
            return self.caffe_layers[module]
        stage, letter = int(module[-2]), module[-1]
        block = (
            f"reduction_{'ab'[stage - 6]}" if letter == "a" else f"inception_{'abc'[stage - 5]}{'_bcde'.index(letter)}"
        )
        parts = cast(Mapping[str, str], self.get_submodule(module).caffe_parts)  # in every block
        return f"{block}_{parts[rest[0]]}"


InceptionV3_caffe = partial(CaffeInceptionV3, epsilon=1e-3, max_pool=True)


class TorchvisionInceptionV3(InceptionV3):
    """Inception V3 as in torchvision and timm, for pixels normalized with mean and deviation 0.5."""

    # The files also have an auxiliary classifier for training.
    auxiliary_weights = r"AuxLogits\..*"


InceptionV3_torchvision = partial(TorchvisionInceptionV3, epsilon=1e-3)

INPUTS = {
    "*_torchvision": InputConfig(299, 320, BILINEAR, *MINUS_ONE_TO_ONE),
    "*_caffe": InputConfig(299, 320, BILINEAR, *AROUND_128),
    "*": InputConfig(299, 320),
}
