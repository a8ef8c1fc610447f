"""PVT V2: a pyramid of transformers whose keys and values are pooled (Wang et al., arXiv:2106.13797).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, conv2d
from models.network import Layer, Network
from models.transformer import (
    PatchEmbed,
    dense,
    drop_path_rates,
    init_convolutions,
    merge_heads,
    split_heads,
    to_channels_first,
    to_channels_last,
)

POOLED_SIZE = 7


class ReducedAttention(nn.Module):
    """Self-attention over a map, with keys and values from a smaller map.

    Args:
        reduction: stride of the convolution that makes the smaller map.
        pooled: whether the smaller map is average-pooled to 7 x 7 instead, for every image size (the paper's "linear").
    """

    def __init__(self, channels: int, heads: int, reduction: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.pooled = pooled
        self.q = dense(channels, channels)
        self.kv = dense(channels, 2 * channels)
        self.proj = dense(channels, channels)
        self.sr = self.norm = None
        if reduction > 1 or pooled:
            size = 1 if pooled else reduction
            self.sr = conv2d(channels, channels, size, size, padding=0, bias=True)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        context = x
        if self.sr is not None and self.norm is not None:
            context = to_channels_first(x)
            if self.pooled:
                context = F.adaptive_avg_pool2d(context, POOLED_SIZE)
            context = self.norm(to_channels_last(self.sr(context)))
            if self.pooled:
                context = F.gelu(context)
        q = split_heads(self.q(x).flatten(1, 2), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.kv(context).flatten(1, 2).chunk(2, -1))
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v))).view(x.shape)


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution of (N, H, W, C), which encodes the tokens' positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = conv2d(channels, channels, 3, groups=channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_last(self.dwconv(to_channels_first(x)))


class ConvMlp(nn.Module):
    """Two linear layers with a convolution and a GELU between them, and a ReLU before the convolution if `relu`."""

    def __init__(self, channels: int, hidden: int, *, relu: bool) -> None:
        super().__init__()
        self.fc1 = dense(channels, hidden)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = dense(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.relu(self.fc1(x)))))


class Block(nn.Module):
    """Attention, then an MLP, each with a layer norm before it and a shortcut around it; (N, H, W, C)."""

    def __init__(self, channels: int, attention: nn.Module, mlp: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, 1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, 1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PyramidVisionTransformerV2(Network):
    """PVT V2.

    Args:
        depths: number of blocks of each stage.
        class_dim: number of classes.
        channels, heads, mlp_ratios: width of the tokens, attention heads, and hidden width of the MLPs over the
            tokens', of each stage.
        linear: whether to pool keys and values to 7 x 7 instead of reducing them with convolutions.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        class_dim: int = 1000,
        *,
        channels: tuple[int, ...] = (64, 128, 320, 512),
        heads: tuple[int, ...] = (1, 2, 5, 8),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        linear: bool = False,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = len(depths)
        in_channels = 3
        for index, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            kernel_size, stride = (3, 2) if index else (7, 4)
            embed = PatchEmbed(in_channels, width, kernel_size, stride, epsilon=1e-5)
            blocks = nn.Sequential(
                *(
                    Block(
                        width,
                        ReducedAttention(width, heads[index], 8 >> index, pooled=linear),
                        ConvMlp(width, mlp_ratios[index] * width, relu=linear),
                        next(rates),
                    )
                    for _ in range(depth)
                )
            )
            self.add_module(f"patch_embed{index + 1}", embed)
            self.add_module(f"block{index + 1}", blocks)
            self.add_module(f"norm{index + 1}", nn.LayerNorm(width, 1e-6))
            in_channels = width
        self.head = dense(in_channels, class_dim)
        init_convolutions(self)

    def trunk(self) -> list[Layer]:
        return [partial(self.stage, number) for number in range(1, self.stages + 1)]

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Applies the stage of this number: (N, C, H, W) -> the same form."""
        embed, blocks, norm = (self.get_submodule(f"{name}{number}") for name in ("patch_embed", "block", "norm"))
        return to_channels_first(norm(blocks(embed(x))))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


PVT_V2_B0 = partial(PyramidVisionTransformerV2, (2, 2, 2, 2), channels=(32, 64, 160, 256))
PVT_V2_B1 = partial(PyramidVisionTransformerV2, (2, 2, 2, 2))
PVT_V2_B2 = partial(PyramidVisionTransformerV2, (3, 4, 6, 3))
PVT_V2_B2_Linear = partial(PyramidVisionTransformerV2, (3, 4, 6, 3), linear=True)
PVT_V2_B3 = partial(PyramidVisionTransformerV2, (3, 4, 18, 3), drop_path_rate=0.3)
PVT_V2_B4 = partial(PyramidVisionTransformerV2, (3, 8, 27, 3), drop_path_rate=0.3)
PVT_V2_B5 = partial(PyramidVisionTransformerV2, (3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4), drop_path_rate=0.3)

INPUTS = {"*": InputConfig(interpolation=BICUBIC, resize_backend="pil")}
