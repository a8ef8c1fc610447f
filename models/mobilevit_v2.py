"""MobileViT V2: attention that is linear in the number of pixels (Mehta and Rastegari, arXiv:2206.02680).

The module paths are the authors', except those of the batch norms.
"""

from __future__ import annotations

import re
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, ZERO_TO_ONE, InputConfig
from models.layers import ConvBNAct, conv2d, swish
from models.mobilevit import Residual, fold, unfold
from models.network import Layer, Network
from models.transformer import check_image_size, dense, init_convolutions


class SeparableAttention(nn.Module):
    """Every pixel gets the same context, a softmax-weighted mean over the pixels, gated by its own values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parts = [1, channels, channels]
        self.qkv_proj = conv2d(channels, 1 + 2 * channels, 1, bias=True)
        self.out_proj = conv2d(channels, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, positions, patches) -> the same; each position in the patches has its own context."""
        q, k, v = self.qkv_proj(x).split(self.parts, 1)
        context = (k * q.softmax(-1)).sum(-1, keepdim=True)
        return self.out_proj(F.relu(v) * context)


class Block(nn.Module):
    """Attention, then an MLP, each with a group norm before it and a shortcut around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pre_norm_attn = nn.Sequential(nn.GroupNorm(1, channels), SeparableAttention(channels))
        self.pre_norm_ffn = nn.Sequential(
            nn.GroupNorm(1, channels),
            conv2d(channels, 2 * channels, 1, bias=True),
            swish(),
            nn.Identity(),
            conv2d(2 * channels, channels, 1, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_attn(x)
        return x + self.pre_norm_ffn(x)


class MobileViTV2Block(nn.Module):
    """Convolutions, then attention blocks of `width` channels, then a convolution.

    Args:
        third: whether it has the form of MobileViT V3: the last convolution also sees the blocks' input, and there is
            a shortcut.
    """

    def __init__(self, channels: int, width: int, depth: int, *, third: bool) -> None:
        super().__init__()
        self.third = third
        self.local_rep = nn.Sequential(
            ConvBNAct(channels, channels, 3, groups=channels, activation=swish), conv2d(channels, width, 1)
        )
        self.global_rep = nn.Sequential(*(Block(width) for _ in range(depth)), nn.GroupNorm(1, width))
        self.conv_proj = ConvBNAct(2 * width if third else width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # (N * 4, patches, C) -> (N, C, 4, patches), and back
        local = self.local_rep(x)
        y = unfold(local).unflatten(0, (-1, 4)).permute(0, 3, 1, 2)
        y = fold(self.global_rep(y).permute(0, 2, 3, 1).flatten(0, 1), *x.shape[2:])
        if self.third:
            return x + self.conv_proj(torch.cat([y, local], 1))
        return self.conv_proj(y)


class MobileViTV2(Network):
    """MobileViT V2, or V3 based on it (arXiv:2209.15159); it takes images whose size is a multiple of 64.

    Args:
        scale: factor of all channels.
        class_dim: number of classes.
        third: whether to build V3, as in `MobileViTV2Block`.
    """

    layer_3: nn.Sequential
    layer_4: nn.Sequential
    layer_5: nn.Sequential

    image_size = 256

    def __init__(self, scale: float, class_dim: int = 1000, *, third: bool = False) -> None:
        super().__init__()
        stem, *channels = (int(scale * width) for width in (32, 64, 128, 256, 384, 512))
        first, second, *rest = channels
        residual = partial(Residual, expansion=2)
        self.conv_1 = ConvBNAct(3, stem, 3, 2, activation=swish)
        self.layer_1 = nn.Sequential(residual(stem, first, 1))
        self.layer_2 = nn.Sequential(residual(first, second, 2), residual(second, second, 1))
        in_channels = second
        for index, (width, depth) in enumerate(zip(rest, (2, 4, 3), strict=True)):
            block = MobileViTV2Block(width, width // 2, depth, third=third)
            self.add_module(f"layer_{index + 3}", nn.Sequential(residual(in_channels, width, 2), block))
            in_channels = width
        self.classifier = nn.Sequential()
        self.classifier.fc = dense(in_channels, class_dim)
        init_convolutions(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the batch norms are called norm; local_rep.1, without one, is in a layer too."""
        return re.sub(r"local_rep\.1$", "local_rep.1.conv", re.sub(r"\.bn$", ".norm", path))

    def trunk(self) -> list[Layer]:
        return [self.checked, self.conv_1, self.layer_1, self.layer_2, self.layer_3, self.layer_4, self.layer_5]

    @staticmethod
    def checked(images: Tensor) -> Tensor:
        """Returns the images if their size is a multiple of 64, and raises otherwise."""
        for size in images.shape[2:]:
            check_image_size(size, 64, "MobileViT V2")
        return images

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.forward_features(images))


MobileViTV2_x0_5 = partial(MobileViTV2, 0.5)
MobileViTV2_x0_75 = partial(MobileViTV2, 0.75)
MobileViTV2_x1_0 = partial(MobileViTV2, 1.0)
MobileViTV2_x1_25 = partial(MobileViTV2, 1.25)
MobileViTV2_x1_5 = partial(MobileViTV2, 1.5)
MobileViTV2_x1_75 = partial(MobileViTV2, 1.75)
MobileViTV2_x2_0 = partial(MobileViTV2, 2.0)
MobileViTV3_x0_5 = partial(MobileViTV2, 0.5, third=True)
MobileViTV3_x0_75 = partial(MobileViTV2, 0.75, third=True)
MobileViTV3_x1_0 = partial(MobileViTV2, 1.0, third=True)

INPUTS = {"*": InputConfig(256, 288, BICUBIC, *ZERO_TO_ONE, resize_backend="pil", decode_backend="pil")}
