"""Parts that transformers share: initializers, layer norm, self-attention, MLP, patches, tables of relative positions.

The module paths `attn.qkv`, `attn.proj`, `mlp.fc1`, `mlp.fc2`, `patch_embed.proj` are timm's and PaddleClas's.
Tokens are (N, L, C); those of a pyramid keep their positions in the image, (N, H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import OptionError


def trunc_normal_(weight: Tensor) -> Tensor:
    """Normal(0, 0.02), truncated at +-2, the usual initializer of transformers."""
    return nn.init.trunc_normal_(weight, std=0.02)


def dense(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer, initialized by `trunc_normal_` (bias 0)."""
    fc = nn.Linear(in_features, out_features, bias=bias)
    with torch.no_grad():
        trunc_normal_(fc.weight)
        if bias:
            nn.init.zeros_(fc.bias)
    return fc


def init_convolutions(model: nn.Module) -> None:
    """Initializes all convolutions of `model`: Normal(0, sqrt(2 / fan_out)), with fan_out of one group; bias 0."""
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
            nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / fan_out))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def embedding(*shape: int) -> nn.Parameter:
    """A learned embedding, initialized by `trunc_normal_`."""
    return nn.Parameter(trunc_normal_(torch.empty(shape)))


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """The probabilities of `DropPath` in `depth` blocks: they grow linearly, from 0 to `rate`."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]


def check_image_size(size: int, divisor: int, network: str) -> None:
    """Raises `OptionError` unless `size`, the images' height and width, is a multiple of `divisor`."""
    if size <= 0 or size % divisor:
        near = max(divisor, round(size / divisor) * divisor)
        raise OptionError(
            "image_size", f"{network} takes images whose size is a multiple of {divisor}, not {size}; try {near}"
        )


def check_images(images: Tensor, size: int) -> None:
    """Raises `OptionError` unless `images`, (N, C, H, W), have the height and width that a network was built for."""
    if images.shape[2] != size or images.shape[3] != size:
        raise OptionError(
            "image_size",
            f"the network was built for images of {size} x {size}, not {images.shape[2]} x {images.shape[3]}; "
            f"build it with image_size={images.shape[2]}",
        )


def to_channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def to_grid(tokens: Tensor, height: int) -> Tensor:
    """Tokens, row by row, to a feature map of height `height`: (N, H * W, C) -> (N, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, (height, -1))


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a feature map, (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_first(super().forward(to_channels_last(x)))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int, activation: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1 = dense(channels, hidden)
        self.act = activation()
        self.fc2 = dense(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, heads * D) -> (N, heads, L, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, L, D) -> (N, L, heads * D)."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., arXiv:1706.03762).

    Args:
        channels: channels of the tokens; a multiple of `heads`.
        qkv_bias: whether queries, keys and values have a bias.
        scale: factor of the products of queries and keys; None: 1 / sqrt(channels / heads).
    """

    def __init__(self, channels: int, heads: int, *, qkv_bias: bool = True, scale: float | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        self.qkv = dense(channels, 3 * channels, bias=qkv_bias)
        self.proj = dense(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (N, L, C) -> (N, L, C); `mask`, broadcastable to (N, heads, L, L), is added before the softmax."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        x = F.scaled_dot_product_attention(q, k, v, mask, scale=self.scale)
        return self.proj(merge_heads(x))


class PatchEmbed(nn.Module):
    """Cuts a feature map into patches and maps each of them to a token.

    Args:
        kernel_size: height and width of a patch.
        stride: distance of patches; None: `kernel_size`. If it is smaller, patches overlap and the map is padded.
        epsilon: epsilon of the layer norm at the end; None: no layer norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | None = None,
        *,
        epsilon: float | None = None,
    ) -> None:
        super().__init__()
        padding = 0 if stride is None else kernel_size // 2
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size, stride or kernel_size, padding)
        self.norm = nn.Identity() if epsilon is None else nn.LayerNorm(out_channels, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> tokens (N, H / stride, W / stride, out_channels)."""
        return self.norm(to_channels_last(self.proj(x)))


def split_windows(x: Tensor, height: int, width: int) -> Tensor:
    """The tokens of each window of `height` x `width`: (N, H, W, C) -> (N * windows, height * width, C).

    The windows of an image are ordered row by row, left to right.
    """
    n, map_height, map_width, channels = x.shape
    x = x.reshape(n, map_height // height, height, map_width // width, width, channels)
    return x.transpose(2, 3).reshape(-1, height * width, channels)


def join_windows(x: Tensor, height: int, width: int, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `split_windows`, to maps of `shape`, (N, H, W, any number of channels)."""
    n, map_height, map_width, _ = shape
    x = x.reshape(n, map_height // height, map_width // width, height, width, -1)
    return x.transpose(2, 3).reshape(n, map_height, map_width, -1)


# ------------------------------------------------------------------------------------------------- other image sizes


def resize_position_embedding(embedding: Tensor, tokens: int, extra: int) -> Tensor:
    """Resizes the position embedding of a square image to another number of tokens, by bicubic interpolation.

    Args:
        embedding: (1, extra + side * side, C).
        tokens: the network's number of tokens, including the extra ones.
        extra: number of tokens at the start without a position, such as the class token; theirs stay unchanged.

    Returns:
        (1, tokens, C); the embedding itself if it does not belong to a square image.
    """
    if embedding.dim() != 3:
        return embedding
    side, new_side = (math.isqrt(max(count - extra, 0)) for count in (embedding.shape[1], tokens))
    if side == 0 or (side * side + extra, new_side * new_side + extra) != (embedding.shape[1], tokens):
        return embedding
    grid = embedding[:, extra:].transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid.double(), (new_side, new_side), mode="bicubic").to(embedding.dtype)
    return torch.cat([embedding[:, :extra], grid.flatten(2).transpose(1, 2)], 1)


def resize_position_table(table: Tensor, rows: int) -> Tensor:
    """Resizes a table of relative positions to another window size, by bicubic interpolation.

    Args:
        table: ((2 w - 1)^2, heads), for windows of w x w tokens.
        rows: number of rows of the network's table. If it does not belong to a square window, the table is returned
            unchanged.
    """
    side, new_side = math.isqrt(len(table)), math.isqrt(rows)
    if table.dim() != 2 or (side * side, new_side * new_side) != (len(table), rows):
        return table
    grid = table.t().unflatten(1, (side, side))[None].double()
    grid = F.interpolate(grid, (new_side, new_side), mode="bicubic").to(table.dtype)
    return grid[0].flatten(1).t().contiguous()
