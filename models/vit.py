"""ViT: a transformer over the patches of an image (Dosovitskiy et al., arXiv:2010.11929).

The module paths are timm's, which PaddleClas has too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.inputs import BILINEAR, MINUS_ONE_TO_ONE, InputConfig
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
    resize_position_embedding,
    to_grid,
)


class Block(nn.Module):
    """Self-attention, then an MLP, each with a layer norm before it and a shortcut around it."""

    def __init__(
        self,
        channels: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float,
        *,
        qkv_bias: bool = True,
        scale: float | None = None,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, epsilon)
        self.attn = SelfAttention(channels, heads, qkv_bias=qkv_bias, scale=scale)
        self.norm2 = nn.LayerNorm(channels, epsilon)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(Network):
    """A vision transformer that classifies with a class token.

    Args:
        class_dim: number of classes.
        image_size: height and width of the images, which determine the length of the position embedding.
        patch_size: height and width of a patch.
        channels, depth, heads: width of the tokens, number of blocks, attention heads of a block.
        mlp_ratio: hidden width of the MLPs over `channels`.
        qkv_bias, attention_scale: as in `SelfAttention`.
        epsilon: of the layer norms.
        drop_path_rate: probability to drop a branch of the last block; it grows linearly from 0 at the first.

    Raises:
        OptionError: `image_size` is not a multiple of `patch_size`.
    """

    head: nn.Module

    # Tokens without a patch, and their classifiers.
    extra_tokens = ("cls_token",)
    classifiers = ("head",)

    def __init__(
        self,
        class_dim: int = 1000,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        channels: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attention_scale: float | None = None,
        epsilon: float = 1e-6,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_image_size(image_size, patch_size, f"a transformer with patches of {patch_size} x {patch_size}")
        patches = (image_size // patch_size) ** 2
        self.image_size = image_size
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(3, channels, patch_size)
        for name in self.extra_tokens:
            self.register_parameter(name, embedding(1, 1, channels))
        self.pos_embed = embedding(1, len(self.extra_tokens) + patches, channels)
        override_l2_decay(self, pos_embed=0.0, **dict.fromkeys(self.extra_tokens, 0.0))
        self.blocks = nn.Sequential(
            *(
                Block(channels, heads, mlp_ratio, rate, qkv_bias=qkv_bias, scale=attention_scale, epsilon=epsilon)
                for rate in drop_path_rates(drop_path_rate, depth)
            )
        )
        self.norm = nn.LayerNorm(channels, epsilon)
        for name in self.classifiers:
            self.add_module(name, dense(channels, class_dim))

    def adapt_tensor(self, key: str, tensor: Tensor) -> Tensor:
        """Resizes the position embedding of a file for another image size: see `resize_position_embedding`."""
        if key != "pos_embed":
            return tensor
        return resize_position_embedding(tensor, self.pos_embed.shape[1], len(self.extra_tokens))

    def layer_numbers(self) -> dict[str, int]:
        """The embeddings are layer 0, the blocks 1, 2, ...; everything after the blocks is the last layer."""
        numbers = {}
        for name, _ in self.named_parameters():
            first, _, rest = name.partition(".")
            embeds = first in ("patch_embed", "pos_embed", "ln_pre", *self.extra_tokens)
            block = int(rest.partition(".")[0]) + 1 if first == "blocks" else len(self.blocks) + 1
            numbers[name] = 0 if embeds else block
        return numbers

    def embedded(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the extra tokens and the patches', without their positions, (N, L, C)."""
        check_images(images, self.image_size)
        patches = self.patch_embed(images).flatten(1, 2)
        extra = [self.get_parameter(name).expand(images.shape[0], -1, -1) for name in self.extra_tokens]
        return torch.cat([*extra, patches], 1)

    def tokens(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the extra tokens and the patches' after the last block, (N, L, C)."""
        return self.blocks(self.embedded(images) + self.pos_embed)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        patches = self.norm(self.tokens(images)[:, len(self.extra_tokens) :])
        return [to_grid(patches, images.shape[2] // self.patch_size)]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the extra tokens after the last block, one after another, (N, C)."""
        return self.norm(self.tokens(images)[:, : len(self.extra_tokens)]).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


LARGE = {"channels": 1024, "depth": 24, "heads": 16}

# Not the paper's ViT-S, which has DeiT-S's shape: it is wider and shallower, and scales attention by the whole width.
ViT_small_patch16_224 = partial(
    VisionTransformer, depth=8, heads=8, mlp_ratio=3.0, qkv_bias=False, attention_scale=768**-0.5, epsilon=1e-5
)
ViT_base_patch16_224 = VisionTransformer
ViT_base_patch16_384 = partial(VisionTransformer, image_size=384)
ViT_base_patch32_384 = partial(VisionTransformer, image_size=384, patch_size=32)
ViT_large_patch16_224 = partial(VisionTransformer, **LARGE)
ViT_large_patch16_384 = partial(VisionTransformer, image_size=384, **LARGE)
ViT_large_patch32_384 = partial(VisionTransformer, image_size=384, patch_size=32, **LARGE)

INPUTS = {
    "*_384": InputConfig(384, 384, BILINEAR, *MINUS_ONE_TO_ONE),
    "*": InputConfig(224, 256, BILINEAR, *MINUS_ONE_TO_ONE),
}
