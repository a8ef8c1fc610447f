"""TinyNet: EfficientNet scaled down, resolution and depth before width (Han et al., arXiv:2010.14819)."""

from __future__ import annotations

from functools import partial

from models.efficientnet import EfficientNetNet

tiny = partial(EfficientNetNet, dropout=0.2, padding_type="DYNAMIC", scale_ends=False)


def TinyNet_A(class_dim: int = 1000) -> EfficientNetNet:
    return tiny(width=1.0, depth=1.2, class_dim=class_dim)


def TinyNet_B(class_dim: int = 1000) -> EfficientNetNet:
    return tiny(width=0.75, depth=1.1, class_dim=class_dim)


def TinyNet_C(class_dim: int = 1000) -> EfficientNetNet:
    return tiny(width=0.54, depth=0.85, class_dim=class_dim)


def TinyNet_D(class_dim: int = 1000) -> EfficientNetNet:
    return tiny(width=0.54, depth=0.695, class_dim=class_dim)


def TinyNet_E(class_dim: int = 1000) -> EfficientNetNet:
    return tiny(width=0.51, depth=0.6, class_dim=class_dim)
