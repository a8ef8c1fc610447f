"""DeiT: vision transformers trained on ImageNet alone, and distilled by a token (Touvron et al., arXiv:2012.12877)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from models.inputs import BICUBIC, InputConfig
from models.vit import VisionTransformer


class DistilledVisionTransformer(VisionTransformer):
    """A vision transformer with a second token that learns from a teacher, and a classifier for that token."""

    head_dist: nn.Linear

    extra_tokens = ("cls_token", "dist_token")
    classifiers = ("head", "head_dist")

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim), the mean of the two classifiers."""
        token, dist_token = self.forward_features(images).chunk(2, 1)
        return (self.head(token) + self.head_dist(dist_token)) / 2


TINY = {"channels": 192, "heads": 3, "drop_path_rate": 0.1}
SMALL = {"channels": 384, "heads": 6, "drop_path_rate": 0.1}
BASE = {"channels": 768, "heads": 12, "drop_path_rate": 0.1}

DeiT_tiny_patch16_224 = partial(VisionTransformer, **TINY)
DeiT_small_patch16_224 = partial(VisionTransformer, **SMALL)
DeiT_base_patch16_224 = partial(VisionTransformer, **BASE)
DeiT_base_patch16_384 = partial(VisionTransformer, image_size=384, **BASE)
DeiT_tiny_distilled_patch16_224 = partial(DistilledVisionTransformer, **TINY)
DeiT_small_distilled_patch16_224 = partial(DistilledVisionTransformer, **SMALL)
DeiT_base_distilled_patch16_224 = partial(DistilledVisionTransformer, **BASE)
DeiT_base_distilled_patch16_384 = partial(DistilledVisionTransformer, image_size=384, **BASE)

INPUTS = {
    "*_384": InputConfig(384, 438, BICUBIC, resize_backend="pil"),
    "*": InputConfig(interpolation=BICUBIC, resize_backend="pil"),
}
