"""Swin: a pyramid of transformers within windows that shift (Liu et al., arXiv:2103.14030).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath
from models.names import override_l2_decay
from models.network import Network
from models.transformer import (
    Mlp,
    PatchEmbed,
    SelfAttention,
    check_image_size,
    check_images,
    dense,
    drop_path_rates,
    embedding,
    join_windows,
    resize_position_table,
    split_windows,
    to_channels_first,
)


def relative_positions(window: int) -> Tensor:
    """The row of each pair of a window's tokens in the table of relative positions, (window^2, window^2)."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offsets = places[:, None] - places[None] + window - 1
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


def shifted_mask(size: int, window: int, shift: int) -> Tensor:
    """The mask that separates tokens from different sides of the image: 0 or -100, (windows, window^2, window^2).

    In a map rolled by `shift`, the last row and column of windows hold tokens of opposite borders.
    """
    # Each axis has three regions: whole windows, and the two parts of the last window.
    axis = torch.zeros(size, dtype=torch.long)
    axis[size - window :] = 1
    axis[size - shift :] = 2
    regions = (3 * axis[:, None] + axis)[None, :, :, None]
    regions = split_windows(regions, window, window).squeeze(2)
    return torch.where(regions[:, :, None] == regions[:, None], 0.0, -100.0)


class ShiftedWindows(nn.Module):
    """Attention within windows of a feature map; a subclass has `attend` and `bias`."""

    positions: Tensor
    mask: Tensor  # for shifted windows

    def set_windows(self, window: int, shift: int, size: int) -> None:
        """Sets the windows.

        Args:
            window: their height and width, in tokens.
            shift: how far they are shifted, down and to the right.
            size: height and width of the feature map, which is padded with zeros to whole windows.
        """
        self.window = window
        self.shift = shift
        self.padding = -size % window
        self.register_buffer("positions", relative_positions(window), persistent=False)
        shifted = shifted_mask(size + self.padding, window, shift)[:, None] if shift else None
        self.register_buffer("mask", shifted, persistent=False)

    def bias(self) -> Tensor:
        """The bias of the products of a window's queries and keys, (heads, window^2, window^2)."""
        raise NotImplementedError

    def attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Tokens of all windows (N * windows, window^2, C) -> the same form."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        size = x.shape[1]
        if self.padding:
            x = F.pad(x, (0, 0, 0, self.padding, 0, self.padding))
        bias = self.bias()[None]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            bias = (bias + self.mask).repeat(x.shape[0], 1, 1, 1)
        windows = self.attend(split_windows(x, self.window, self.window), bias)
        x = join_windows(windows, self.window, self.window, x.shape)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :size, :size] if self.padding else x


class WindowAttention(ShiftedWindows, SelfAttention):
    """Self-attention within windows, with a bias for each relative position."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, size: int) -> None:
        super().__init__(channels, heads)
        self.set_windows(window, shift, size)
        self.relative_position_bias_table = embedding((2 * window - 1) ** 2, heads)
        override_l2_decay(self, relative_position_bias_table=0.0)

    def bias(self) -> Tensor:
        return self.relative_position_bias_table[self.positions].permute(2, 0, 1)

    def attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        return SelfAttention.forward(self, tokens, bias)


class Block(nn.Module):
    """Attention within windows, then an MLP, each with a layer norm before it and a shortcut around it."""

    def __init__(self, channels: int, attention: WindowAttention, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Merges 2 x 2 tokens into one with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = dense(4 * channels, 2 * channels, bias=False)

    @staticmethod
    def merged(x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H / 2, W / 2, 4 C); the left column of the four comes first."""
        n, height, width, channels = x.shape
        x = x.view(n, height // 2, 2, width // 2, 2, channels)
        return x.permute(0, 1, 3, 4, 2, 5).flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(self.merged(x)))


class Stage(nn.Module):
    """Blocks, of which every second one shifts its windows by half a window, then `PatchMerging`."""

    def __init__(
        self, channels: int, heads: int, rates: list[float], *, window: int, shift: int, size: int, merge: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Block(channels, WindowAttention(channels, heads, window, shift * (index % 2), size), rate)
                for index, rate in enumerate(rates)
            )
        )
        self.downsample = PatchMerging(channels) if merge else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class SwinTransformer(Network):
    """Swin.

    Args:
        class_dim: number of classes.
        image_size: height and width of the images, a multiple of 32.
        window: height and width of the windows, in tokens.
        channels: of the first stage; they double from stage to stage.
        depths, heads: number of blocks, and attention heads of a block, of each stage.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
        shift_single_window: whether to shift the window in maps of one window too, as PaddleClas 2.6 does. The authors
            do not, so weights from elsewhere, such as timm's, need False.

    Raises:
        OptionError: `image_size` is not a multiple of 32.
    """

    def __init__(
        self,
        class_dim: int = 1000,
        *,
        image_size: int = 224,
        window: int = 7,
        channels: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        drop_path_rate: float = 0.2,
        shift_single_window: bool = True,
    ) -> None:
        super().__init__()
        check_image_size(image_size, 32, "Swin")
        self.image_size = image_size
        self.window = window
        self.shift_single_window = shift_single_window
        self.patch_embed = PatchEmbed(3, channels, 4, epsilon=1e-5)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        self.layers = nn.Sequential()
        for index, (depth, stage_heads) in enumerate(zip(depths, heads, strict=True)):
            stage_rates, rates = rates[:depth], rates[depth:]
            last = index + 1 == len(depths)
            self.layers.append(self.build_stage(index, channels << index, stage_heads, stage_rates, merge=not last))
        features = channels << (len(depths) - 1)
        self.norm = nn.LayerNorm(features)
        self.head = dense(features, class_dim)

    def build_stage(self, index: int, channels: int, heads: int, rates: list[float], *, merge: bool) -> nn.Module:
        """The stage of this index; `rates` are the drop-path probabilities of its blocks."""
        size = self.image_size // (4 << index)
        shift = self.window // 2 if size > self.window or self.shift_single_window else 0
        return Stage(channels, heads, rates, window=self.window, shift=shift, size=size, merge=merge)

    def adapt_tensor(self, key: str, tensor: Tensor) -> Tensor:
        """Resizes the position tables of a file for another window size: see `resize_position_table`."""
        if not key.endswith("relative_position_bias_table"):
            return tensor
        return resize_position_table(tensor, len(self.get_parameter(key)))

    def embedded(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the first tokens, (N, H / 4, W / 4, C)."""
        check_images(images, self.image_size)
        return self.patch_embed(images)

    def stage_maps(self, images: Tensor) -> Iterator[Tensor]:
        x = self.embedded(images)
        for stage in cast(Iterable[Any], self.layers):  # stages of both Swins have blocks, then a downsampling
            x = stage.blocks(x)
            yield to_channels_first(x)
            x = stage.downsample(x)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return self.norm(self.layers(self.embedded(images))).mean((1, 2))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


# The rates are those of the paper's training on ImageNet-1K (base for large, which was trained on ImageNet-22K).
TINY = {"drop_path_rate": 0.2}
SMALL = {"depths": (2, 2, 18, 2), "drop_path_rate": 0.3}
BASE = {"channels": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path_rate": 0.5}
LARGE = {"channels": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "drop_path_rate": 0.5}
WINDOW_12 = {"image_size": 384, "window": 12}

SwinTransformer_tiny_patch4_window7_224 = partial(SwinTransformer, **TINY)
SwinTransformer_small_patch4_window7_224 = partial(SwinTransformer, **SMALL)
SwinTransformer_base_patch4_window7_224 = partial(SwinTransformer, **BASE)
SwinTransformer_base_patch4_window12_384 = partial(SwinTransformer, **BASE, **WINDOW_12)
SwinTransformer_large_patch4_window7_224 = partial(SwinTransformer, **LARGE)
SwinTransformer_large_patch4_window12_384 = partial(SwinTransformer, **LARGE, **WINDOW_12)

INPUTS = {
    "*_384": InputConfig(384, 438, BICUBIC, resize_backend="pil"),
    "*": InputConfig(interpolation=BICUBIC, resize_backend="pil"),
}
