"""ResNeXt-D with squeeze-and-excitation (arXiv:1709.01507, arXiv:1812.01187)."""

from __future__ import annotations

from collections.abc import Sequence

from models.resnet import Bottleneck, ResNet
from models.se_resnext import WIDE_STEM, SEResNeXt


def _se_resnext_vd(depths: Sequence[int], class_dim: int) -> ResNet:
    return SEResNeXt(Bottleneck, depths, class_dim, deep_stem=WIDE_STEM, average_shortcut=True, groups=32, base_width=4)


def SE_ResNeXt50_vd_32x4d(class_dim: int = 1000) -> ResNet:
    return _se_resnext_vd((3, 4, 6, 3), class_dim)


def SE_ResNeXt101_vd_32x4d(class_dim: int = 1000) -> ResNet:
    return _se_resnext_vd((3, 4, 23, 3), class_dim)
