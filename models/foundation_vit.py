"""ViTs of foundation models, for finetuning: CLIP (Radford et al., arXiv:2103.00020), MAE, MoCo V3, BEiT V2, CAE, EVA.

MAE: He et al., arXiv:2111.06377; MoCo V3: Chen et al., arXiv:2104.02057; BEiT V2: Peng et al., arXiv:2208.06366; CAE:
Chen et al., arXiv:2202.03026; EVA: Fang et al., arXiv:2211.07636. The module paths are PaddleClas's.

The published files hold weights that were trained without labels. They have no classifier, so that is initialized.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.names import override_l2_decay
from models.swin import relative_positions
from models.transformer import dense, drop_path_rates, merge_heads, resize_position_table, split_heads
from models.vit import Block, VisionTransformer

# Rows at the end of a table of relative positions: from the class token to a patch, from a patch to it, to itself.
CLASS_TOKEN_ROWS = 3
# Width of the space that PaddleClas maps features to in networks without a classifier.
EMBEDDING = 512


def positions_with_class_token(window: int) -> Tensor:
    """The row of each pair of tokens, the class token first, in the table of relative positions, (L, L)."""
    first = (2 * window - 1) ** 2
    rows = F.pad(relative_positions(window), (1, 0, 1, 0))
    rows[0], rows[:, 0], rows[0, 0] = first, first + 1, first + 2
    return rows


class RelativeAttention(nn.Module):
    """Self-attention with a bias for each relative position; `window` x `window` patches follow the class token."""

    positions: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = dense(channels, 3 * channels)
        self.proj = dense(channels, channels)
        rows = (2 * window - 1) ** 2 + CLASS_TOKEN_ROWS
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        override_l2_decay(self, relative_position_bias_table=0.0)
        self.register_buffer("positions", positions_with_class_token(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        bias = self.relative_position_bias_table[self.positions].permute(2, 0, 1)[None]
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v, bias)))


class RelativeBlock(Block):
    """A block with `RelativeAttention`; both branches have a scale per channel, initialized to `layer_scale`."""

    def __init__(
        self, channels: int, heads: int, drop_path: float, *, window: int, layer_scale: float, epsilon: float
    ) -> None:
        super().__init__(channels, heads, 4.0, drop_path, epsilon=epsilon)
        self.attn = RelativeAttention(channels, heads, window)
        self.gamma_1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.gamma_2 = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class FoundationTransformer(VisionTransformer):
    """A vision transformer with the parts of the foundation models.

    Args:
        class_dim: number of classes.
        normalize_tokens: whether a layer norm comes before the first block (CLIP).
        layer_scale: initial scale of `RelativeBlock`s (BEiT V2, CAE); None: plain blocks.
        absolute_positions: whether there is a position embedding.
        classify_by: number of the token that is classified, 0 being the class token; None: the mean of all patches,
            with its own layer norm.
        options: as in `VisionTransformer`.
    """

    paddleclas_computed = r"blocks\.\d+\.attn\.relative_position_index"
    new_parts = r"head\..*|proj"

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
        epsilon: float = 1e-5,
        drop_path_rate: float = 0.0,
        normalize_tokens: bool = False,
        layer_scale: float | None = None,
        absolute_positions: bool = True,
        classify_by: int | None = 0,
    ) -> None:
        super().__init__(
            class_dim,
            image_size=image_size,
            patch_size=patch_size,
            channels=channels,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            epsilon=epsilon,
            drop_path_rate=drop_path_rate,
        )
        self.classify_by = classify_by
        self.patch_embed.proj.register_parameter("bias", None)
        if not absolute_positions:
            self.register_parameter("pos_embed", None)
            override_l2_decay(self, cls_token=0.0)
        # Maps the features into the space of the pretraining; the classifier does not use it.
        self.proj = nn.Parameter(torch.randn(channels, EMBEDDING) * channels**-0.5, requires_grad=False)
        self.ln_pre = nn.LayerNorm(channels) if normalize_tokens else nn.Identity()
        if layer_scale is not None:
            blocks = partial(
                RelativeBlock,
                channels,
                heads,
                window=image_size // patch_size,
                layer_scale=layer_scale,
                epsilon=epsilon,
            )
            self.blocks = nn.Sequential(*(blocks(rate) for rate in drop_path_rates(drop_path_rate, depth)))
        self.head = nn.Sequential()
        if classify_by is None:
            self.head.fc_norm = nn.LayerNorm(channels)
        self.head.fc_head = dense(channels, class_dim)
        nn.init.trunc_normal_(self.head.fc_head.weight, std=0.02 * 0.001)

    def adapt_tensor(self, key: str, tensor: Tensor) -> Tensor:
        """Interpolates the position embedding and tables of a file for another image size."""
        if not key.endswith("relative_position_bias_table"):
            return super().adapt_tensor(key, tensor)
        table, rest = tensor[:-CLASS_TOKEN_ROWS], tensor[-CLASS_TOKEN_ROWS:]
        return torch.cat([resize_position_table(table, len(self.get_parameter(key)) - CLASS_TOKEN_ROWS), rest])

    def tokens(self, images: Tensor) -> Tensor:
        x = self.embedded(images)
        return self.blocks(self.ln_pre(x if self.pos_embed is None else x + self.pos_embed))

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the token that is classified, or the mean of the patches, normalized, (N, C)."""
        x = self.tokens(images)
        return self.norm(x[:, 1:]).mean(1) if self.classify_by is None else self.norm(x[:, self.classify_by])

    def forward_embedding(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the features in the space of the pretraining, (N, 512), as PaddleClas has them for search."""
        return self.forward_features(images) @ self.proj


BASE_32 = {"patch_size": 32}
LARGE = {"channels": 1024, "depth": 24, "heads": 16}
LARGE_14 = {"patch_size": 14, **LARGE}

clip = partial(FoundationTransformer, normalize_tokens=True)
beit = partial(FoundationTransformer, absolute_positions=False, epsilon=1e-6)

# PaddleClas drops the class token here and classifies the first patch instead.
CLIP_vit_base_patch16_224 = partial(clip, classify_by=1)
CLIP_vit_base_patch32_224 = partial(clip, **BASE_32)
CLIP_vit_large_patch14_224 = partial(clip, **LARGE_14)
CLIP_vit_large_patch14_336 = partial(clip, image_size=336, **LARGE_14)
BEiTv2_vit_base_patch16_224 = partial(beit, layer_scale=0.1)
BEiTv2_vit_large_patch16_224 = partial(beit, layer_scale=1e-5, **LARGE)
CAE_vit_base_patch16_224 = partial(FoundationTransformer, layer_scale=0.1, epsilon=1e-6)
MOCOV3_vit_small = partial(FoundationTransformer, channels=384)
MOCOV3_vit_base = FoundationTransformer
MAE_vit_base_patch16 = FoundationTransformer
MAE_vit_large_patch16 = partial(FoundationTransformer, **LARGE)
MAE_vit_huge_patch14 = partial(
    FoundationTransformer, patch_size=14, channels=1280, depth=32, heads=16, classify_by=None
)
EVA_vit_giant_patch14 = partial(
    FoundationTransformer, patch_size=14, channels=1408, depth=40, heads=16, mlp_ratio=4.3637
)

# PaddleClas has configurations only for CLIP; the others are evaluated as by their authors.
INPUTS = {
    "CLIP_*_336": InputConfig(336, 336, BICUBIC, resize_backend="pil"),
    "CLIP_*": InputConfig(224, 224, BICUBIC, resize_backend="pil"),
    "*": InputConfig(interpolation=BICUBIC, resize_backend="pil"),
}
