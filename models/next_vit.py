"""Next-ViT: convolutional blocks, and a transformer block at the end of each group (Li et al., arXiv:2207.05501).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, batch_norm, conv2d, global_average, make_divisible, relu
from models.network import Layer, Network
from models.transformer import dense, drop_path_rates, merge_heads, split_heads, trunc_normal_

HEAD_CHANNELS = 32

conv = partial(conv2d, init=trunc_normal_)


class ConvBNReLU(nn.Sequential):
    """A 3x3 convolution, a batch norm and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, 3, stride)
        self.norm = batch_norm(out_channels)
        self.act = relu()


def patch_embed(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Halves a map by pooling if `stride` is 2, and changes its channels by a 1x1 convolution with batch norm.

    If neither is necessary, it is the identity.
    """
    embed = nn.Sequential()
    if stride == 2:
        # The last row and column of an odd map are averaged alone.
        embed.append(nn.AvgPool2d(2, 2, ceil_mode=True))
    if stride == 2 or in_channels != out_channels:
        embed.add_module("conv", conv(in_channels, out_channels, 1))
        embed.add_module("norm", batch_norm(out_channels))
    return embed


class ConvAttention(nn.Sequential):
    """The replacement for attention in a convolutional block: a 3x3 convolution per head, then a 1x1 one over all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.group_conv3x3 = conv(channels, channels, 3, groups=channels // HEAD_CHANNELS)
        self.norm = batch_norm(channels)
        self.act = relu()
        self.projection = conv(channels, channels, 1)


class ConvMlp(nn.Sequential):
    """Two 1x1 convolutions with a ReLU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, hidden, 1, bias=True)
        self.act = relu()
        self.conv2 = conv(hidden, channels, 1, bias=True)


class PooledAttention(nn.Module):
    """Self-attention whose keys and values are averages over `pool` consecutive tokens, row by row."""

    def __init__(self, channels: int, pool: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_CHANNELS
        self.q = dense(channels, channels)
        self.k = dense(channels, channels)
        self.v = dense(channels, channels)
        self.proj = dense(channels, channels)
        self.pool = pool
        self.norm = nn.BatchNorm1d(channels) if pool > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        tokens = x.flatten(2)
        context = tokens if self.norm is None else self.norm(F.avg_pool1d(tokens, self.pool))
        tokens, context = tokens.transpose(1, 2), context.transpose(1, 2)
        q = split_heads(self.q(tokens), self.heads)
        k, v = split_heads(self.k(context), self.heads), split_heads(self.v(context), self.heads)
        y = self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return y.transpose(1, 2).reshape(x.shape)


class ConvBlock(nn.Module):
    """`ConvAttention`, then an MLP, each with a shortcut ("NCB")."""

    def __init__(self, in_channels: int, channels: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.patch_embed = patch_embed(in_channels, channels, stride)
        self.mhca = ConvAttention(channels)
        self.norm = batch_norm(channels)
        self.mlp = ConvMlp(channels, make_divisible(3 * channels, 32))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = x + self.drop_path(self.mhca(x))
        return x + self.drop_path(self.mlp(self.norm(x)))


class TransformerBlock(nn.Module):
    """Attention in three quarters of the channels, `ConvAttention` after it in the others, an MLP over all ("NTB").

    The drop-path probability of either kind of attention is in proportion to its channels.
    """

    attention_share = 0.75

    def __init__(self, in_channels: int, channels: int, stride: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        attended = make_divisible(int(self.attention_share * channels), 32)
        self.patch_embed = patch_embed(in_channels, attended, stride)
        self.norm1 = batch_norm(attended)
        self.e_mhsa = PooledAttention(attended, reduction**2)
        self.mhsa_drop_path = DropPath(self.attention_share * drop_path)
        self.projection = patch_embed(attended, channels - attended)
        self.mhca = ConvAttention(channels - attended)
        self.mhca_drop_path = DropPath((1 - self.attention_share) * drop_path)
        self.norm2 = batch_norm(channels)
        self.mlp = ConvMlp(channels, make_divisible(2 * channels, 32))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = x + self.mhsa_drop_path(self.e_mhsa(self.norm1(x)))
        y = self.projection(x)
        y = y + self.mhca_drop_path(self.mhca(y))
        x = torch.cat([x, y], 1)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class NextViT(Network):
    """Next-ViT.

    Args:
        groups: number of groups of five blocks, four convolutional and one transformer block, in the third stage.
        class_dim: number of classes.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
    """

    # For each stage: width of the convolutional and of the transformer blocks, and reduction of the map of keys and
    # values.
    stages = ((96, 96, 8), (192, 256, 4), (384, 512, 2), (768, 1024, 1))

    def __init__(self, groups: int, class_dim: int = 1000, *, drop_path_rate: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBNReLU(3, 64, 2), ConvBNReLU(64, 32, 1), ConvBNReLU(32, 64, 1), ConvBNReLU(64, 64, 2)
        )
        # False: convolutional blocks; True: transformer blocks.
        kinds = [[False] * 3, [False] * 3 + [True], ([False] * 4 + [True]) * groups, [False] * 2 + [True]]
        rates = iter(drop_path_rates(drop_path_rate, sum(map(len, kinds))))
        self.features = nn.Sequential(*self._blocks(kinds, rates))
        out_channels = self.stages[-1][1]
        self.norm = batch_norm(out_channels)
        self.proj_head = nn.Sequential(dense(out_channels, class_dim))

    def _blocks(self, kinds: list[list[bool]], rates: Iterator[float]) -> Iterator[nn.Module]:
        in_channels = 64
        for number, stage_kinds in enumerate(kinds):
            width, transformer_width, reduction = self.stages[number]
            for index, transformer in enumerate(stage_kinds):
                stride = 2 if number and not index else 1
                if transformer:
                    yield TransformerBlock(in_channels, transformer_width, stride, reduction, next(rates))
                else:
                    yield ConvBlock(in_channels, width, stride, next(rates))
                in_channels = transformer_width if transformer else width

    def trunk(self) -> list[Layer]:
        return [self.stem, *self.features]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.norm(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.proj_head(self.forward_features(images))


NextViT_small_224 = partial(NextViT, 2, drop_path_rate=0.1)
NextViT_base_224 = partial(NextViT, 4)
NextViT_large_224 = partial(NextViT, 6)
NextViT_small_384 = NextViT_small_224
NextViT_base_384 = NextViT_base_224
NextViT_large_384 = NextViT_large_224

INPUTS = {
    "*_384": InputConfig(384, 384, BICUBIC, resize_backend="pil"),
    "*": InputConfig(interpolation=BICUBIC, resize_backend="pil"),
}
