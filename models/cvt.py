"""CvT: transformers whose queries, keys and values are convolutions of the tokens (Wu et al., arXiv:2103.15808).

The module paths are PaddleClas's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import ConvBNAct, DropPath, conv2d
from models.names import override_l2_decay
from models.network import Network
from models.transformer import (
    Mlp,
    dense,
    drop_path_rates,
    embedding,
    merge_heads,
    split_heads,
    to_channels_first,
    to_channels_last,
    trunc_normal_,
)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), an approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ConvAttention(nn.Module):
    """Self-attention after 3x3 depthwise convolutions, which halve the map for keys and values.

    The products of queries and keys are scaled by the width of all heads together.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name, stride in (("q", 1), ("k", 2), ("v", 2)):
            conv = ConvBNAct(channels, channels, 3, stride, groups=channels, init=trunc_normal_)
            self.add_module(f"conv_proj_{name}", conv)
            self.add_module(f"proj_{name}", dense(channels, channels))
        self.proj = dense(channels, channels)

    def forward(self, x: Tensor, extra: int, height: int, width: int) -> Tensor:
        """Tokens (N, extra + height * width, C) -> the same; the first `extra` tokens are not convolved."""
        extra_tokens, grid = x[:, :extra], x[:, extra:].transpose(1, 2).unflatten(2, (height, width))
        parts = []
        for name in "qkv":
            tokens = to_channels_last(self.get_submodule(f"conv_proj_{name}")(grid)).flatten(1, 2)
            tokens = torch.cat([extra_tokens, tokens], 1) if extra else tokens
            parts.append(split_heads(self.get_submodule(f"proj_{name}")(tokens), self.heads))
        return self.proj(merge_heads(F.scaled_dot_product_attention(*parts, scale=x.shape[-1] ** -0.5)))


class Block(nn.Module):
    """Attention, then an MLP, each with a layer norm before it and a shortcut around it."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ConvAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels, QuickGELU)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, extra: int, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), extra, height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ConvEmbed(nn.Module):
    """A strided convolution and a layer norm: (N, C, H, W) -> (N, H, W, C)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = conv2d(in_channels, out_channels, kernel_size, stride, padding=padding, bias=True)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(to_channels_last(self.proj(x)))


class Stage(nn.Module):
    """Patches and blocks; with a class token if `classify`."""

    def __init__(self, embed: ConvEmbed, channels: int, heads: int, rates: list[float], classify: bool) -> None:
        super().__init__()
        self.patch_embed = embed
        self.cls_token = embedding(1, 1, channels) if classify else None
        if classify:
            override_l2_decay(self, cls_token=0.0)
        self.blocks = nn.ModuleList(Block(channels, heads, rate) for rate in rates)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the class token, (N, 0 or 1, C), and the map, (N, C, H, W)."""
        x = self.patch_embed(x)
        height, width = x.shape[1:3]
        x = x.flatten(1, 2)
        extra = 0
        if self.cls_token is not None:
            extra = 1
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, extra, height, width)
        return x[:, :extra], to_channels_first(x[:, extra:].unflatten(1, (height, width)))


class CvT(Network):
    """CvT; it takes images of any size.

    Args:
        depths: number of blocks of each stage.
        channels, heads: width of the tokens, and attention heads of a block, of each stage.
        class_dim: number of classes.
        drop_path_rate: probability to drop a branch of the last block; within the last stage it grows linearly from 0.
    """

    stage0: nn.Module
    stage1: nn.Module
    stage2: nn.Module

    def __init__(
        self,
        depths: tuple[int, int, int],
        class_dim: int = 1000,
        *,
        channels: tuple[int, int, int] = (64, 192, 384),
        heads: tuple[int, int, int] = (1, 3, 6),
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        in_channels = 3
        for index, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            last = index + 1 == len(depths)
            embed = ConvEmbed(in_channels, width, *((3, 2, 1) if index else (7, 4, 2)))
            rates = drop_path_rates(drop_path_rate if last else 0.0, depth)
            self.add_module(f"stage{index}", Stage(embed, width, heads[index], rates, classify=last))
            in_channels = width
        self.norm = nn.LayerNorm(in_channels)
        self.head = dense(in_channels, class_dim)

    def stages(self) -> list[nn.Module]:
        """The three stages, each from a map to the class token and a map."""
        return [self.stage0, self.stage1, self.stage2]

    def stage_maps(self, images: Tensor) -> Iterator[Tensor]:
        x = images
        for stage in self.stages():
            _, x = stage(x)
            yield x

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the class token after the last block, (N, C)."""
        token, x = None, images
        for stage in self.stages():
            token, x = stage(x)
        return self.norm(token).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


CvT_13_224 = partial(CvT, (1, 2, 10))
CvT_21_224 = partial(CvT, (1, 4, 16))
CvT_13_384 = CvT_13_224
CvT_21_384 = CvT_21_224
CvT_W24_384 = partial(CvT, (2, 2, 20), channels=(192, 768, 1024), heads=(3, 12, 16), drop_path_rate=0.3)

INPUTS = {
    "*_384": InputConfig(384, 384, BICUBIC, resize_mode="exact", resize_backend="pil", decode_backend="pil"),
    "*": InputConfig(interpolation=BICUBIC, resize_backend="pil", decode_backend="pil"),
}
