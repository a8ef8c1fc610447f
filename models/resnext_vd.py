"""ResNeXt with the stem and the averaging shortcuts of ResNet-D (arXiv:1611.05431, arXiv:1812.01187)."""

from __future__ import annotations

from collections.abc import Sequence

from models.resnet import Bottleneck, ResNet
from models.resnet_vc import DEEP_STEM
from models.resnext import ResNeXt


def _resnext_vd(depths: Sequence[int], groups: int, class_dim: int) -> ResNet:
    return ResNeXt(
        Bottleneck, depths, class_dim, deep_stem=DEEP_STEM, average_shortcut=True, groups=groups, base_width=4
    )


def ResNeXt50_vd_32x4d(class_dim: int = 1000) -> ResNet:
    return _resnext_vd((3, 4, 6, 3), 32, class_dim)


def ResNeXt50_vd_64x4d(class_dim: int = 1000) -> ResNet:
    return _resnext_vd((3, 4, 6, 3), 64, class_dim)


def ResNeXt101_vd_32x4d(class_dim: int = 1000) -> ResNet:
    return _resnext_vd((3, 4, 23, 3), 32, class_dim)


def ResNeXt101_vd_64x4d(class_dim: int = 1000) -> ResNet:
    return _resnext_vd((3, 4, 23, 3), 64, class_dim)


def ResNeXt152_vd_32x4d(class_dim: int = 1000) -> ResNet:
    return _resnext_vd((3, 8, 36, 3), 32, class_dim)


def ResNeXt152_vd_64x4d(class_dim: int = 1000) -> ResNet:
    return _resnext_vd((3, 8, 36, 3), 64, class_dim)
