"""ResNet-C: a ResNet with three 3x3 convolutions in place of the 7x7 one (He et al., arXiv:1812.01187)."""

from __future__ import annotations

from models.resnet import Bottleneck, ResNet, ResNetBB

DEEP_STEM = (32, 32, 64)


def ResNet50_vc(class_dim: int = 1000) -> ResNet:
    return ResNetBB(Bottleneck, (3, 4, 6, 3), class_dim, deep_stem=DEEP_STEM)


def ResNet101_vc(class_dim: int = 1000) -> ResNet:
    return ResNetBB(Bottleneck, (3, 4, 23, 3), class_dim, deep_stem=DEEP_STEM)


def ResNet152_vc(class_dim: int = 1000) -> ResNet:
    return ResNetBB(Bottleneck, (3, 8, 36, 3), class_dim, deep_stem=DEEP_STEM)
