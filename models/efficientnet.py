"""EfficientNet: depth, width and resolution scaled together (Tan and Le, arXiv:1905.11946)."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import OptionError
from models.inputs import BICUBIC, InputConfig
from models.layers import (
    UPSCALE_IN_TRAIN,
    ConvSqueezeExcitation,
    Dropout,
    DropPath,
    batch_norm,
    conv2d,
    global_average,
    linear,
    make_divisible,
    swish,
)
from models.network import Layer, Network


class Stage(NamedTuple):
    """A row of the paper's table 1, for B0."""

    depth: int
    kernel_size: int
    stride: int
    expansion: int
    out_channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def normal_(weight: Tensor) -> Tensor:
    """Normal(0, 0.02), the initializer of all the convolutions."""
    return nn.init.normal_(weight, 0.0, 0.02)


def uniform_fan_out_(weight: Tensor) -> Tensor:
    """Uniform(+-1 / sqrt(class_dim)), the initializer of the classifier."""
    bound = 1.0 / math.sqrt(weight.shape[0])
    return nn.init.uniform_(weight, -bound, bound)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    names: tuple[str, str],
    *,
    stride: int = 1,
    groups: int = 1,
    same: bool = True,
    activation: bool = True,
) -> nn.Sequential:
    """A convolution and its batch norm, published under `names`, and a swish.

    Args:
        same: whether to pad a strided convolution as TensorFlow does, rather than evenly.
    """
    padding = "same" if same else None
    conv = conv2d(
        in_channels, out_channels, kernel_size, stride, padding=padding, groups=groups, name=names[0], init=normal_
    )
    bn = batch_norm(out_channels, names[1], momentum=0.99, epsilon=1e-3)
    return nn.Sequential(conv, bn, swish()) if activation else nn.Sequential(conv, bn)


class MBConv(nn.Module):
    """An inverted residual of MobileNet V2 with squeeze-and-excitation and swish.

    Args:
        stage: gives kernel size and expansion.
        stride: of the depthwise convolution.
        same: as in `conv_bn`.
        use_se: whether to use squeeze-and-excitation, to a quarter of the input's channels.
        drop_connect: probability to drop the residual branch.
        name: published names are NAME._expand_conv, NAME._bn0, ...
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stage: Stage,
        stride: int,
        *,
        same: bool,
        use_se: bool,
        drop_connect: float,
        name: str,
    ) -> None:
        super().__init__()
        width = in_channels * stage.expansion
        # under PaddleClas's names of them, for `paddleclas_path`
        layers: dict[str, nn.Module] = {}
        if stage.expansion != 1:
            layers["_ecn"] = conv_bn(in_channels, width, 1, (f"{name}._expand_conv", f"{name}._bn0"))
        layers["_dcn"] = conv_bn(
            width,
            width,
            stage.kernel_size,
            (f"{name}._depthwise_conv", f"{name}._bn1"),
            stride=stride,
            groups=width,
            same=same,
        )
        if use_se:
            names = (f"{name}._se_reduce", f"{name}._se_expand")
            layers["_se"] = ConvSqueezeExcitation(width, in_channels // 4, names, activation=F.silu, init=normal_)
        layers["_pcn"] = conv_bn(width, out_channels, 1, (f"{name}._project_conv", f"{name}._bn2"), activation=False)
        self.parts = tuple(layers)
        self.block = nn.Sequential(*layers.values())
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop_connect = DropPath(drop_connect)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return self.drop_connect(y) + x if self.shortcut else y


class EfficientNetNet(Network):
    """EfficientNet; the module paths are torchvision's.

    torchvision's networks have padding_type DYNAMIC and, in B0 to B4, an epsilon of 1e-5 in the batch norms, not 1e-3.

    Args:
        width, depth: factors of B0's channels and blocks.
        dropout: probability before the classifier.
        class_dim: number of classes.
        padding_type: SAME pads as TensorFlow, by the size of the input: at stride 2 an even size gets its odd row of
            zeros at the end. DYNAMIC always pads evenly. (VALID, no padding, does not work: the original could not add
            a block's output to its larger input either.)
        use_se: whether to use squeeze-and-excitation.
        drop_connect_rate: probability to drop the last residual branch; it grows linearly from 0 at the first block.
        scale_ends: whether `width` also scales the first and the last convolution.

    Raises:
        OptionError: `padding_type` is neither SAME nor DYNAMIC.
    """

    # Of a scaled stage: how many blocks.
    round_depth = staticmethod(math.ceil)

    def __init__(
        self,
        width: float,
        depth: float,
        dropout: float,
        class_dim: int = 1000,
        *,
        padding_type: str = "SAME",
        use_se: bool = True,
        drop_connect_rate: float = 0.2,
        scale_ends: bool = True,
    ) -> None:
        super().__init__()
        if padding_type not in ("SAME", "DYNAMIC"):
            raise OptionError(
                "padding_type",
                f"EfficientNet cannot be built with {padding_type!r}: its residual blocks keep the size of the image; "
                "give SAME or DYNAMIC",
            )
        same = padding_type == "SAME"
        self.depths = [self.round_depth(depth * stage.depth) for stage in STAGES]
        end_width = width if scale_ends else 1.0
        channels = make_divisible(32 * end_width)
        features = [conv_bn(3, channels, 3, ("_conv_stem", "_bn0"), stride=2, same=same)]
        number = 0
        for stage, stage_depth in zip(STAGES, self.depths, strict=True):
            out_channels = make_divisible(stage.out_channels * width)
            blocks = []
            for index in range(stage_depth):
                blocks.append(
                    MBConv(
                        channels,
                        out_channels,
                        stage,
                        stage.stride if index == 0 else 1,
                        same=same,
                        use_se=use_se,
                        drop_connect=drop_connect_rate * number / sum(self.depths),
                        name=f"_blocks.{number}",
                    )
                )
                channels = out_channels
                number += 1
            features.append(nn.Sequential(*blocks))
        last_channels = make_divisible(1280 * end_width)
        features.append(conv_bn(channels, last_channels, 1, ("_conv_head", "_bn1")))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            Dropout(dropout, UPSCALE_IN_TRAIN), linear(last_channels, class_dim, "_fc", init=uniform_fan_out_)
        )

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the first block of a stage is in _blocks, the others in block, numbered through all."""
        if path == "classifier.1":
            return "_fc"
        match = re.fullmatch(r"features\.(\d)\.(?:(\d+)\.block\.(\d)\.)?(\w+)", path)
        assert match is not None, path
        stage, index, part, leaf = match.groups()
        layer = {"0": "_conv._conv", "1": "_bn", "fc1": "_conv1._conv", "fc2": "_conv2._conv"}[leaf]
        if index is None:
            return f"_ef._conv_stem._conv.{layer}" if stage == "0" else f"_conv.{layer}"
        number = sum(self.depths[: int(stage) - 1]) + int(index)
        module = self.get_submodule(f"features.{stage}.{index}")
        assert isinstance(module, MBConv)
        part = module.parts[int(part)]
        block = f"_ef.{'_blocks' if index == '0' else 'block'}.{number}.."
        return f"{block}{part}.{layer}" if part == "_se" else f"{block}{part}._conv.{layer}"

    def trunk(self) -> list[Layer]:
        return [*self.features][:-1]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.features[-1](self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.forward_features(images))


class SmallEfficientNet(EfficientNetNet):
    """EfficientNet-B0 without squeeze-and-excitation, padded evenly."""

    def __init__(self, class_dim: int = 1000, *, drop_connect_rate: float = 0.2) -> None:
        super().__init__(
            1.0, 1.0, 0.2, class_dim, padding_type="DYNAMIC", use_se=False, drop_connect_rate=drop_connect_rate
        )


# width, depth, dropout
EfficientNetB0 = partial(EfficientNetNet, 1.0, 1.0, 0.2)
EfficientNetB1 = partial(EfficientNetNet, 1.0, 1.1, 0.2)
EfficientNetB2 = partial(EfficientNetNet, 1.1, 1.2, 0.3)
EfficientNetB3 = partial(EfficientNetNet, 1.2, 1.4, 0.3)
EfficientNetB4 = partial(EfficientNetNet, 1.4, 1.8, 0.4)
EfficientNetB5 = partial(EfficientNetNet, 1.6, 2.2, 0.4)
EfficientNetB6 = partial(EfficientNetNet, 1.8, 2.6, 0.5)
EfficientNetB7 = partial(EfficientNetNet, 2.0, 3.1, 0.5)
EfficientNetB0_small = SmallEfficientNet
EfficientNet = EfficientNetB0

INPUTS = {
    "*B1": InputConfig(240, 272, BICUBIC),
    "*B2": InputConfig(260, 292, BICUBIC),
    "*B3": InputConfig(300, 332, BICUBIC),
    "*B4": InputConfig(380, 412, BICUBIC),
    "*B5": InputConfig(456, 488, BICUBIC),
    "*B6": InputConfig(528, 560, BICUBIC),
    "*B7": InputConfig(600, 632, BICUBIC),
    "*": InputConfig(interpolation=BICUBIC),
}
PADDLECLAS_INPUTS = {
    "*B1": InputConfig(240, 272),
    "*B2": InputConfig(260, 292),
    "*B3": InputConfig(300, 332),
    "*B4": InputConfig(380, 412),
    "*B5": InputConfig(456, 488),
    "*B6": InputConfig(528, 560),
    "*B7": InputConfig(600, 632),
    "*": InputConfig(),
}
