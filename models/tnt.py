"""TNT: a transformer within each patch, in addition to the one over the patches (Han et al., arXiv:2103.00112).

The module paths are the authors', which PaddleClas has too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, MINUS_ONE_TO_ONE, InputConfig
from models.layers import DropPath, conv2d
from models.names import override_l2_decay
from models.network import Network
from models.transformer import (
    Mlp,
    check_image_size,
    check_images,
    dense,
    drop_path_rates,
    embedding,
    merge_heads,
    resize_position_embedding,
    split_heads,
    to_grid,
)

PATCH = 16
# Each patch becomes a map of 4 x 4 "pixels", each of them a token.
PIXEL_STRIDE = 4
PIXELS = (PATCH // PIXEL_STRIDE) ** 2


class Attention(nn.Module):
    """Multi-head self-attention whose queries, keys and values have no bias."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk = dense(channels, 2 * channels, bias=False)
        self.v = dense(channels, channels, bias=False)
        self.proj = dense(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        q, k = (split_heads(part, self.heads) for part in self.qk(x).chunk(2, -1))
        v = split_heads(self.v(x), self.heads)
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))


class Block(nn.Module):
    """A transformer block over each patch's pixels, whose result is added to the patches; then one over the patches."""

    def __init__(self, channels: int, heads: int, pixel_channels: int, pixel_heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(pixel_channels)
        self.attn_in = Attention(pixel_channels, pixel_heads)
        self.norm_mlp_in = nn.LayerNorm(pixel_channels)
        self.mlp_in = Mlp(pixel_channels, 4 * pixel_channels)
        self.norm1_proj = nn.LayerNorm(PIXELS * pixel_channels)
        self.proj = dense(PIXELS * pixel_channels, channels, bias=False)
        self.norm2_proj = nn.LayerNorm(channels)
        self.norm_out = nn.LayerNorm(channels)
        self.attn_out = Attention(channels, heads)
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, pixels: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N * L, 16, c) and a class token before patches, (N, 1 + L, C) -> the same."""
        pixels = pixels + self.drop_path(self.attn_in(self.norm_in(pixels)))
        pixels = pixels + self.drop_path(self.mlp_in(self.norm_mlp_in(pixels)))
        inner = pixels.reshape(patches.shape[0], patches.shape[1] - 1, -1)
        inner = self.norm2_proj(self.proj(self.norm1_proj(inner)))
        patches = patches + F.pad(inner, (0, 0, 1, 0))
        patches = patches + self.drop_path(self.attn_out(self.norm_out(patches)))
        return pixels, patches + self.drop_path(self.mlp(self.norm_mlp(patches)))


class PixelEmbed(nn.Module):
    """Maps the pixels of each patch to tokens, with a convolution that does not cross patch borders."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = conv2d(3, channels, 7, PIXEL_STRIDE, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N * patches, 16, channels)."""
        patches = images.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return self.proj(patches).flatten(2).transpose(1, 2)


class TransformerInTransformer(Network):
    """TNT.

    Args:
        channels, heads: width of the patches' tokens, and attention heads of a block.
        pixel_channels: width of the pixels' tokens.
        class_dim: number of classes.
        image_size: height and width of the images, a multiple of 16.
        depth: number of blocks.
        pixel_heads: attention heads of a block over pixels.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.

    Raises:
        OptionError: `image_size` is not a multiple of 16.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        pixel_channels: int,
        class_dim: int = 1000,
        *,
        image_size: int = 224,
        depth: int = 12,
        pixel_heads: int = 4,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        check_image_size(image_size, PATCH, "TNT")
        self.image_size = image_size
        self.cls_token = embedding(1, 1, channels)
        self.patch_pos = embedding(1, 1 + (image_size // PATCH) ** 2, channels)
        self.pixel_pos = embedding(1, PIXELS, pixel_channels)
        override_l2_decay(self, cls_token=0.0, patch_pos=0.0, pixel_pos=0.0)
        self.pixel_embed = PixelEmbed(pixel_channels)
        self.norm1_proj = nn.LayerNorm(PIXELS * pixel_channels)
        self.proj = dense(PIXELS * pixel_channels, channels)
        self.norm2_proj = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(
            Block(channels, heads, pixel_channels, pixel_heads, rate) for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.LayerNorm(channels)
        self.head = dense(channels, class_dim)

    def adapt_tensor(self, key: str, tensor: Tensor) -> Tensor:
        """Resizes the patches' position embedding of a file for another image size: see `resize_position_embedding`."""
        return resize_position_embedding(tensor, self.patch_pos.shape[1], 1) if key == "patch_pos" else tensor

    def patches(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the class token and the patches' tokens after the last block, (N, 1 + H W / 256, C)."""
        check_images(images, self.image_size)
        pixels = self.pixel_embed(images) + self.pixel_pos
        patches = pixels.reshape(images.shape[0], self.patch_pos.shape[1] - 1, -1)
        patches = self.norm2_proj(self.proj(self.norm1_proj(patches)))
        patches = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], 1) + self.patch_pos
        for block in self.blocks:
            pixels, patches = block(pixels, patches)
        return patches

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        return [to_grid(self.norm(self.patches(images)[:, 1:]), images.shape[2] // PATCH)]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the class token after the last block, (N, C)."""
        return self.norm(self.patches(images)[:, 0])

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


TNT_small = partial(TransformerInTransformer, 384, 6, 24)
TNT_base = partial(TransformerInTransformer, 640, 10, 40)

INPUTS = {"*": InputConfig(224, 248, BICUBIC, *MINUS_ONE_TO_ONE, resize_backend="pil")}
