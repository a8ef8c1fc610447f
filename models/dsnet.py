"""DSNet: convolution and attention side by side, at two resolutions (Mao et al., arXiv:2105.14734).

The module paths are PaddleClas's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, batch_norm, conv2d, global_average
from models.network import Layer, Network
from models.transformer import dense, drop_path_rates, merge_heads, split_heads

# Dropout of the attention weights in training, the same for all networks.
ATTENTION_DROPOUT = 0.1

conv = partial(conv2d, bias=True)


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(N, H * W, C) -> (N, C, H, W), the shape of `like`."""
    return tokens.transpose(1, 2).reshape(like.shape)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation between the pixels' centres."""
    return F.interpolate(x, size, mode="bilinear")


class ConvMlp(nn.Module):
    """Two 1x1 convolutions with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = conv(channels, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = conv(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DualStreamBlock(nn.Module):
    """Half of the channels go through a convolution, half through attention over a smaller map; each half then attends
    to the other. An MLP follows. A convolution at the start encodes the positions.

    Args:
        channels: channels of the map, (N, C, H, W).
        heads: attention heads of each attention.
        reduction: how many times smaller the map of self-attention is.
        drop_path: probability to drop a branch.
    """

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        half = channels // 2
        self.heads = heads
        self.reduction = reduction
        self.pos_embed = conv(channels, channels, 3, groups=channels)
        self.norm1 = batch_norm(channels)
        self.conv1 = conv(channels, channels, 1)
        self.conv2 = conv(channels, channels, 1)
        self.norm_conv1 = batch_norm(half)
        self.norm_sa1 = nn.LayerNorm(half)
        self.conv = conv(half, half, 3, groups=half)
        self.channel_up = dense(half, 3 * half)
        self.cross_channel_up_conv = conv(half, 3 * half, 1)
        self.cross_channel_up_sa = dense(half, 3 * half)
        self.fuse_channel_conv = dense(half, half)
        self.fuse_channel_sa = dense(half, half)
        self.norm_conv2 = batch_norm(half)
        self.norm_sa2 = nn.LayerNorm(half)
        self.norm2 = batch_norm(channels)
        self.mlp = ConvMlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Multi-head attention from (N, L, C) to (N, M, C): (N, L, C)."""
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        dropout = ATTENTION_DROPOUT if self.training else 0.0
        return merge_heads(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout))

    def streams(self, x: Tensor) -> Tensor:
        """Both streams, (N, C, H, W) -> (N, C, H, W)."""
        size = x.shape[2:]
        attended, convolved = x.chunk(2, 1)
        convolved = convolved + self.conv(self.norm_conv1(convolved))
        small = resize(attended, [max(side // self.reduction, 1) for side in size])
        tokens = to_tokens(small)
        tokens = tokens + self.attend(*self.channel_up(self.norm_sa1(tokens)).chunk(3, -1))
        # Each stream attends to the other as it was before this step.
        conv_q, conv_k, conv_v = to_tokens(self.cross_channel_up_conv(self.norm_conv2(convolved))).chunk(3, -1)
        q, k, v = self.cross_channel_up_sa(self.norm_sa2(tokens)).chunk(3, -1)
        convolved = convolved + to_map(self.fuse_channel_conv(self.attend(conv_q, k, v)), convolved)
        tokens = tokens + self.fuse_channel_sa(self.attend(q, conv_k, conv_v))
        return torch.cat([convolved, resize(to_map(tokens, small), size)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.streams(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Cuts a map into patches with a convolution."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.proj = conv(in_channels, out_channels, size, size, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class DSNet(Network):
    """DSNet.

    Args:
        depths: number of blocks of each stage.
        class_dim: number of classes.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
    """

    # Of each stage: width, attention heads, how many times smaller the map of self-attention is.
    stages = ((64, 1, 8), (128, 2, 4), (320, 5, 2), (512, 8, 2))

    def __init__(self, depths: tuple[int, ...], class_dim: int = 1000, *, drop_path_rate: float = 0.1) -> None:
        super().__init__()
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        in_channels = 3
        for number, (depth, (width, heads, reduction)) in enumerate(zip(depths, self.stages, strict=True), 1):
            blocks = (DualStreamBlock(width, heads, reduction, next(rates)) for _ in range(depth))
            self.add_module(f"patch_embed{number}", PatchEmbed(in_channels, width, 4 if number == 1 else 2))
            self.add_module(f"blocks{number}", nn.Sequential(*blocks))
            in_channels = width
        self.norm = batch_norm(in_channels)
        self.head = dense(in_channels, class_dim)

    def trunk(self) -> list[Layer]:
        stages = range(1, len(self.stages) + 1)
        return [self.get_submodule(f"{name}{number}") for number in stages for name in ("patch_embed", "blocks")]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.norm(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


DSNet_tiny = partial(DSNet, (2, 2, 4, 1))
DSNet_small = partial(DSNet, (3, 4, 8, 3))
DSNet_base = partial(DSNet, (3, 4, 28, 3))

INPUTS = {"*": InputConfig(224, 248, BICUBIC, resize_backend="pil")}
