"""Twins: pyramids of transformers with convolutional position encodings (Chu et al., arXiv:2104.13840).

Twins-PCPVT attends to a reduced map; Twins-SVT (`alt_gvt`) alternates that with attention within windows. The module
paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import Tensor, nn

from models.errors import OptionError
from models.inputs import BICUBIC, InputConfig
from models.layers import conv2d
from models.network import Layer, Network
from models.pvt_v2 import Block, ReducedAttention
from models.transformer import (
    Mlp,
    PatchEmbed,
    SelfAttention,
    dense,
    drop_path_rates,
    init_convolutions,
    join_windows,
    split_windows,
    to_channels_first,
    to_channels_last,
)

WINDOW = 7


class WindowAttention(SelfAttention):
    """Self-attention within windows of 7 x 7 tokens; (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % WINDOW or x.shape[2] % WINDOW:
            raise OptionError(
                "image_size",
                "this network has windows of 7 tokens in every stage, and only takes images whose size is a multiple "
                "of 224",
            )
        return join_windows(super().forward(split_windows(x, WINDOW, WINDOW)), WINDOW, WINDOW, x.shape)


class PositionEncoding(nn.Module):
    """A 3x3 depthwise convolution with a shortcut; (N, H, W, C). See arXiv:2102.10882."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(conv2d(channels, channels, 3, groups=channels, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        return x + to_channels_last(self.proj(to_channels_first(x)))


class Twins(Network):
    """Twins.

    Args:
        depths, channels, heads: number of blocks, width of the tokens and attention heads of each stage.
        class_dim: number of classes.
        mlp_ratios: hidden width of the MLPs over that of the tokens, of each stage.
        windows: whether every second block, beginning with the first, attends within windows.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        channels: tuple[int, ...],
        heads: tuple[int, ...],
        class_dim: int = 1000,
        *,
        mlp_ratios: tuple[int, ...] = (4, 4, 4, 4),
        windows: bool = False,
        drop_path_rate: float = 0.2,
    ) -> None:
        super().__init__()
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.patch_embeds, self.blocks, self.pos_block = (nn.ModuleList() for _ in range(3))
        in_channels = 3
        for index, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            self.patch_embeds.append(PatchEmbed(in_channels, width, 2 if index else 4, epsilon=1e-5))
            self.pos_block.append(PositionEncoding(width))
            blocks = nn.ModuleList()
            for block in range(depth):
                within_windows = windows and block % 2 == 0
                attention = (
                    WindowAttention(width, heads[index])
                    if within_windows
                    else ReducedAttention(width, heads[index], 8 >> index)
                )
                blocks.append(Block(width, attention, Mlp(width, mlp_ratios[index] * width), next(rates)))
            self.blocks.append(blocks)
            in_channels = width
        self.norm = nn.LayerNorm(in_channels, 1e-6)
        self.head = dense(in_channels, class_dim)
        init_convolutions(self)

    def trunk(self) -> list[Layer]:
        return [partial(self.stage, number) for number in range(len(self.blocks))]

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Applies the stage of this number: (N, C, H, W) -> the same form."""
        first, *others = cast(nn.ModuleList, self.blocks[number])
        x = self.pos_block[number](first(self.patch_embeds[number](x)))
        for block in others:
            x = block(x)
        return to_channels_first(x)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return self.norm(to_channels_last(self.forward_trunk(images))).mean((1, 2))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


def pcpvt(depths: tuple[int, ...], drop_path_rate: float) -> partial[Twins]:
    """Twins-PCPVT; all sizes have the same widths."""
    return partial(
        Twins, depths, (64, 128, 320, 512), (1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4), drop_path_rate=drop_path_rate
    )


pcpvt_small = pcpvt((3, 4, 6, 3), 0.2)
pcpvt_base = pcpvt((3, 4, 18, 3), 0.3)
pcpvt_large = pcpvt((3, 8, 27, 3), 0.3)

alt_gvt_small = partial(Twins, (2, 2, 10, 4), (64, 128, 256, 512), (2, 4, 8, 16), windows=True, drop_path_rate=0.2)
alt_gvt_base = partial(Twins, (2, 2, 18, 2), (96, 192, 384, 768), (3, 6, 12, 24), windows=True, drop_path_rate=0.3)
alt_gvt_large = partial(Twins, (2, 2, 18, 2), (128, 256, 512, 1024), (4, 8, 16, 32), windows=True, drop_path_rate=0.5)

INPUTS = {"*": InputConfig(interpolation=BICUBIC, resize_backend="pil")}
