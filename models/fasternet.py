"""FasterNet: 3x3 convolutions on a quarter of the channels only (Chen et al., arXiv:2303.03667)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, batch_norm, conv2d, linear, relu
from models.network import Layer, Network
from models.transformer import drop_path_rates, trunc_normal_


class PartialConv(nn.Module):
    """A 3x3 convolution of the first quarter of the channels; the others stay unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [channels // 4, channels - channels // 4]
        self.partial_conv3 = conv2d(self.sizes[0], self.sizes[0], 3, init=trunc_normal_)

    def forward(self, x: Tensor) -> Tensor:
        convolved, untouched = x.split(self.sizes, 1)
        return torch.cat([self.partial_conv3(convolved), untouched], 1)


class MLPBlock(nn.Module):
    """A partial convolution and two 1x1 convolutions, through twice the channels, around a shortcut."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module], drop_path: float) -> None:
        super().__init__()
        self.spatial_mixing = PartialConv(channels)
        self.mlp = nn.Sequential(
            conv2d(channels, 2 * channels, 1, init=trunc_normal_),
            batch_norm(2 * channels),
            activation(),
            conv2d(2 * channels, channels, 1, init=trunc_normal_),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.spatial_mixing(x)))


class Stage(nn.Module):
    """Blocks that keep the resolution and the channels."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module], drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(MLPBlock(channels, activation, p) for p in drop_paths))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class PatchMerging(nn.Module):
    """A convolution whose kernel is as large as its stride, and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.reduction = conv2d(in_channels, out_channels, size, size, padding=0, init=trunc_normal_)
        self.norm = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x))


class FasterNet(Network):
    """FasterNet; the module paths are those of the paper's authors.

    Args:
        channels: channels of the first stage; each later stage has twice as many.
        depths: blocks of each of the four stages.
        class_dim: number of classes.
        activation: of the blocks and of the features.
        drop_path_rate: probability to drop the last residual branch; it grows linearly from 0 at the first block.
    """

    def __init__(
        self,
        channels: int,
        depths: Sequence[int],
        class_dim: int = 1000,
        *,
        activation: Callable[[], nn.Module] = relu,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchMerging(3, channels, 4)
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.Sequential()
        for number, depth in enumerate(depths):
            if number > 0:
                self.stages.append(PatchMerging(channels, 2 * channels, 2))
                channels *= 2
            self.stages.append(Stage(channels, activation, [next(rates) for _ in range(depth)]))
        self.avgpool_pre_head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv2d(channels, 1280, 1, init=trunc_normal_), activation()
        )
        self.head = linear(1280, class_dim, init=trunc_normal_)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: the first convolution has its own name."""
        return "patch_embed.proj" if path == "patch_embed.reduction" else path

    def trunk(self) -> list[Layer]:
        return [self.patch_embed, *self.stages]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 1,280 values that the classifier sees, (N, 1280)."""
        return self.avgpool_pre_head(self.forward_trunk(images)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


FasterNet_T0 = partial(FasterNet, 40, (1, 2, 8, 2), activation=nn.GELU, drop_path_rate=0.0)
FasterNet_T1 = partial(FasterNet, 64, (1, 2, 8, 2), activation=nn.GELU, drop_path_rate=0.02)
FasterNet_T2 = partial(FasterNet, 96, (1, 2, 8, 2), drop_path_rate=0.05)
FasterNet_S = partial(FasterNet, 128, (1, 2, 13, 2), drop_path_rate=0.1)
FasterNet_M = partial(FasterNet, 144, (3, 4, 18, 3), drop_path_rate=0.2)
FasterNet_L = partial(FasterNet, 192, (3, 4, 18, 3), drop_path_rate=0.3)

INPUTS = {"*": InputConfig(224, 248, BICUBIC, resize_backend="pil", decode_backend="pil")}
