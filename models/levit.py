"""LeViT: a fast transformer after a convolutional stem, with batch norms (Graham et al., arXiv:2104.01136).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import DropPath, batch_norm, conv2d
from models.names import override_l2_decay
from models.network import Network
from models.transformer import (
    check_image_size,
    check_images,
    dense,
    merge_heads,
    resize_position_table,
    split_heads,
    to_grid,
    trunc_normal_,
)


class ConvBN(nn.Sequential):
    """A 3x3 convolution of stride 2 and a batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.c = conv2d(in_channels, out_channels, 3, 2, init=trunc_normal_)
        self.bn = batch_norm(out_channels)


class LinearBN(nn.Module):
    """A linear layer without bias, and a batch norm over the tokens (N, L, C)."""

    def __init__(self, in_features: int, out_features: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.c = dense(in_features, out_features, bias=False)
        self.bn = nn.BatchNorm1d(out_features)
        nn.init.constant_(self.bn.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        return self.bn(x.flatten(0, 1)).view(x.shape)


class Residual(nn.Module):
    """`m` with a shortcut."""

    def __init__(self, m: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.m = m
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.m(x))


def mlp(channels: int) -> nn.Sequential:
    """Two linear layers; the hidden one is twice as wide. The last scale starts at 0, so the branch starts as zero."""
    return nn.Sequential(LinearBN(channels, 2 * channels), nn.Hardswish(), LinearBN(2 * channels, channels, scale=0.0))


def distances(size: int, stride: int) -> Tensor:
    """The column of `attention_biases` for each query and key of a size x size map, by their distance.

    The queries are at every `stride`th position: (queries, size * size).
    """
    places = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    queries = torch.cartesian_prod(torch.arange(0, size, stride), torch.arange(0, size, stride))
    apart = (queries[:, None] - places[None]).abs()
    return apart[..., 0] * size + apart[..., 1]


def resize_biases(biases: Tensor, columns: int) -> Tensor:
    """Resizes the biases of distances to another map size, by bicubic interpolation.

    Distances have no sign. Mirrored, they are a table of relative positions, (2 size - 1)^2, whose centre (distance 0)
    stays the centre in `resize_position_table`.

    Args:
        biases: (heads, size * size).
        columns: the network's number of columns. If it is not a square, the biases are returned unchanged.
    """
    if biases.dim() != 2:
        return biases
    size, new_size = math.isqrt(biases.shape[1]), math.isqrt(columns)
    if (size * size, new_size * new_size) != (biases.shape[1], columns):
        return biases
    sides = torch.arange(1 - size, size).abs()
    table = biases.unflatten(1, (size, size))[:, sides][:, :, sides].flatten(1).t()
    resized = resize_position_table(table, (2 * new_size - 1) ** 2).t()
    return resized.unflatten(1, (2 * new_size - 1, -1))[:, new_size - 1 :, new_size - 1 :].flatten(1)


class Attention(nn.Module):
    """Self-attention with a bias for each distance; values are wider than keys.

    Args:
        in_channels, out_channels: of the tokens.
        key_channels: of a head's keys and queries.
        heads: attention heads.
        ratio: width of a head's values over that of its keys.
        size: height and width of the map.
        stride: only every `stride`th row and column has queries, which reduces the map.
    """

    distances: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        key_channels: int,
        heads: int,
        ratio: int,
        size: int,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.size = size
        self.stride = stride
        queries, values = heads * key_channels, heads * key_channels * ratio
        self.parts = [key_channels, key_channels * ratio]
        if stride == 1:
            self.parts.insert(0, key_channels)
            self.qkv = LinearBN(in_channels, 2 * queries + values)
        else:
            self.kv = LinearBN(in_channels, queries + values)
            self.q = nn.Sequential(nn.Identity(), LinearBN(in_channels, queries))
        # In a residual block the branch starts as zero.
        self.proj = nn.Sequential(nn.Hardswish(), LinearBN(values, out_channels, scale=0.0 if stride == 1 else 1.0))
        self.attention_biases = nn.Parameter(torch.zeros(heads, size * size))
        override_l2_decay(self, attention_biases=0.0)
        self.register_buffer("distances", distances(size, stride), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, size * size, in_channels) -> (N, queries, out_channels)."""
        if self.stride == 1:
            q, k, v = split_heads(self.qkv(x), self.heads).split(self.parts, -1)
        else:
            k, v = split_heads(self.kv(x), self.heads).split(self.parts, -1)
            kept = x.unflatten(1, (self.size, self.size))[:, :: self.stride, :: self.stride].flatten(1, 2)
            q = split_heads(self.q(kept), self.heads)
        x = F.scaled_dot_product_attention(q, k, v, self.attention_biases[:, self.distances][None])
        return self.proj(merge_heads(x))


class Classifier(nn.Sequential):
    """A batch norm and a linear layer."""

    def __init__(self, channels: int, class_dim: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels)
        self.l = dense(channels, class_dim)


class LeViT(Network):
    """LeViT.

    Args:
        channels, heads, depths: width of the tokens, attention heads, and pairs of attention and MLP of each stage.
        class_dim: number of classes.
        image_size: height and width of the images, a multiple of 16; the attention biases depend on it.
        key_channels: of a head's keys and queries.
        drop_path_rate: probability to drop a branch.

    Raises:
        OptionError: `image_size` is not a multiple of 16.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        heads: tuple[int, ...],
        depths: tuple[int, ...],
        class_dim: int = 1000,
        *,
        image_size: int = 224,
        key_channels: int = 32,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_image_size(image_size, 16, "LeViT")
        self.image_size = image_size
        self.patch_embed = nn.Sequential(ConvBN(3, channels[0] // 8))
        for reduction in (4, 2, 1):
            self.patch_embed.append(nn.Hardswish())
            self.patch_embed.append(ConvBN(channels[0] // reduction // 2, channels[0] // reduction))
        size = image_size // 16
        blocks: list[nn.Module] = []
        for index, (width, stage_heads, depth) in enumerate(zip(channels, heads, depths, strict=True)):
            if index:
                in_channels = channels[index - 1]
                # Twice as many values, as the map gets smaller.
                blocks.append(Attention(in_channels, width, key_channels, in_channels // key_channels, 4, size, 2))
                blocks.append(Residual(mlp(width), drop_path_rate))
                size = (size + 1) // 2
            for _ in range(depth):
                attention = Attention(width, width, key_channels, stage_heads, 2, size)
                blocks += [Residual(attention, drop_path_rate), Residual(mlp(width), drop_path_rate)]
        self.blocks = nn.Sequential(*blocks)
        self.head = Classifier(channels[-1], class_dim)

    def adapt_tensor(self, key: str, tensor: Tensor) -> Tensor:
        """Resizes the attention biases of a file for another image size: see `resize_biases`."""
        if not key.endswith("attention_biases"):
            return tensor
        return resize_biases(tensor, self.get_parameter(key).shape[1])

    def layer_maps(self, images: Tensor) -> Iterator[Tensor]:
        check_images(images, self.image_size)
        x = self.patch_embed(images)
        yield x
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
            yield to_grid(x, math.isqrt(x.shape[1]))

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        check_images(images, self.image_size)
        return self.blocks(self.patch_embed(images).flatten(2).transpose(1, 2)).mean(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


LeViT_128S = partial(LeViT, (128, 256, 384), (4, 6, 8), (2, 3, 4), key_channels=16)
LeViT_128 = partial(LeViT, (128, 256, 384), (4, 8, 12), (4, 4, 4), key_channels=16)
LeViT_192 = partial(LeViT, (192, 288, 384), (3, 5, 6), (4, 4, 4))
LeViT_256 = partial(LeViT, (256, 384, 512), (4, 6, 8), (4, 4, 4))
LeViT_384 = partial(LeViT, (384, 512, 768), (6, 9, 12), (4, 4, 4), drop_path_rate=0.1)
