"""PP-HGNet V2: PP-HGNet with lighter layers and a stem that pools (PaddleClas's documentation; it has no paper)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import ConvBNAct, conv2d, linear, relu
from models.names import override_batch_norm_decay, share_learning_rate
from models.network import Layer, Network


class Stage(NamedTuple):
    """A stage.

    Attributes:
        width: channels of the blocks' layers.
        out_channels: channels of the stage's output.
        depth: number of blocks.
        light: whether a layer is a 1x1 and a 5x5 depthwise convolution, instead of a 3x3 one.
    """

    width: int
    out_channels: int
    depth: int
    light: bool


class LearnableAffine(nn.Module):
    """scale x + bias, both scalars. They learn at a hundredth of the learning rate, as in PaddleClas."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))
        share_learning_rate(self, scale=0.01, bias=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, affine: bool, **options
) -> ConvBNAct:
    """A convolution, batch norm, ReLU and, if `affine`, a `LearnableAffine`."""
    layers = ConvBNAct(in_channels, out_channels, kernel_size, stride, activation=relu, **options)
    if affine:
        layers.lab = LearnableAffine()
    return layers


class LightConv(nn.Module):
    """A 1x1 convolution, and a 5x5 depthwise one."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(in_channels, out_channels, 1)
        self.conv2 = conv_bn_relu(out_channels, out_channels, 5, groups=out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """Reduces the resolution to a quarter, with two 2x2 convolutions in parallel to a 2x2 max pool."""

    def __init__(self, width: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        self.stem1 = conv_bn_relu(3, width, 3, 2, affine=affine)
        self.stem2a = conv_bn_relu(width, width // 2, 2, padding="same", affine=affine)
        self.stem2b = conv_bn_relu(width // 2, width, 2, padding="same", affine=affine)
        self.stem3 = conv_bn_relu(2 * width, width, 3, 2, affine=affine)
        self.stem4 = conv_bn_relu(width, out_channels, 1, affine=affine)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem1(images)
        # Like the convolutions, the pool keeps the size: only what lies after the last row and column is padding.
        pooled = F.max_pool2d(x, 2, 1, padding=1)[:, :, 1:, 1:]
        x = torch.cat([pooled, self.stem2b(self.stem2a(x))], 1)
        return self.stem4(self.stem3(x))


class HGBlock(nn.Module):
    """A chain of layers; two 1x1 convolutions aggregate all their outputs and the input.

    Args:
        layers: length of the chain.
        shortcut: whether to add the input to the output.
    """

    def __init__(self, in_channels: int, stage: Stage, layers: int, shortcut: bool, affine: bool) -> None:
        super().__init__()
        width, out_channels = stage.width, stage.out_channels
        self.layers = nn.ModuleList()
        for index in range(layers):
            layer_channels = width if index else in_channels
            self.layers.append(
                LightConv(layer_channels, width, affine)
                if stage.light
                else conv_bn_relu(layer_channels, width, 3, affine=affine)
            )
        total = in_channels + layers * width
        self.aggregation_squeeze_conv = conv_bn_relu(total, out_channels // 2, 1, affine=affine)
        self.aggregation_excitation_conv = conv_bn_relu(out_channels // 2, out_channels, 1, affine=affine)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(torch.cat(outputs, 1)))
        return x + y if self.shortcut else y


class HGStage(nn.Module):
    """Blocks, after a depthwise convolution of stride 2 if `downsample`."""

    def __init__(self, in_channels: int, stage: Stage, layers: int, downsample: bool, affine: bool) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if downsample:
            self.downsample = ConvBNAct(in_channels, in_channels, 3, 2, groups=in_channels)
        self.blocks = nn.Sequential(
            *(
                HGBlock(stage.out_channels if index else in_channels, stage, layers, index > 0, affine)
                for index in range(stage.depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class PPHGNetV2(Network):
    """PP-HGNet V2; the module paths are PaddleClas's.

    Args:
        stem: channels inside the stem and of its output.
        stages: (width, out_channels, depth) of the four stages; the layers of the last two are light.
        layers: number of layers in every block.
        class_dim: number of classes.
        affine: whether a `LearnableAffine` follows every ReLU.
    """

    def __init__(
        self,
        stem: tuple[int, int],
        stages: tuple[tuple[int, int, int], ...],
        layers: int,
        class_dim: int = 1000,
        *,
        affine: bool = False,
    ) -> None:
        super().__init__()
        width, channels = stem
        self.stem = Stem(width, channels, affine)
        self.stages = nn.Sequential()
        for number, sizes in enumerate(stages):
            stage = Stage(*sizes, light=number >= 2)
            self.stages.append(HGStage(channels, stage, layers, downsample=number > 0, affine=affine))
            channels = stage.out_channels
        self.last_conv = conv2d(channels, 2048, 1)
        self.lab = LearnableAffine() if affine else nn.Identity()
        self.fc = linear(2048, class_dim)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        override_batch_norm_decay(self)

    def trunk(self) -> list[Layer]:
        return [self.stem, *self.stages]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 2,048 values that the classifier sees, (N, 2048)."""
        x = self.forward_trunk(images)
        return self.lab(F.relu(self.last_conv(x.mean((2, 3), keepdim=True)))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


PPHGNetV2_B0 = partial(PPHGNetV2, (16, 16), ((16, 64, 1), (32, 256, 1), (64, 512, 2), (128, 1024, 1)), 3, affine=True)
PPHGNetV2_B1 = partial(PPHGNetV2, (24, 32), ((32, 64, 1), (48, 256, 1), (96, 512, 2), (192, 1024, 1)), 3, affine=True)
PPHGNetV2_B2 = partial(PPHGNetV2, (24, 32), ((32, 96, 1), (64, 384, 1), (128, 768, 3), (256, 1536, 1)), 4, affine=True)
PPHGNetV2_B3 = partial(
    PPHGNetV2, (24, 32), ((32, 128, 1), (64, 512, 1), (128, 1024, 3), (256, 2048, 1)), 5, affine=True
)
PPHGNetV2_B4 = partial(PPHGNetV2, (32, 48), ((48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1)), 6)
PPHGNetV2_B5 = partial(PPHGNetV2, (32, 64), ((64, 128, 1), (128, 512, 2), (256, 1024, 5), (512, 2048, 2)), 6)
PPHGNetV2_B6 = partial(PPHGNetV2, (48, 96), ((96, 192, 2), (192, 512, 3), (384, 1024, 6), (768, 2048, 3)), 6)

INPUTS = {"*": InputConfig(224, 232, BICUBIC, resize_backend="pil")}
