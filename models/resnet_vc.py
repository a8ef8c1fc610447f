"""ResNet-C: a ResNet with three 3x3 convolutions instead of the 7x7 one (He et al., arXiv:1812.01187)."""

from __future__ import annotations

from functools import partial

from models.resnet import Bottleneck, ResNetBB

DEEP_STEM = (32, 32, 64)

ResNet50_vc = partial(ResNetBB, Bottleneck, (3, 4, 6, 3), deep_stem=DEEP_STEM)
ResNet101_vc = partial(ResNetBB, Bottleneck, (3, 4, 23, 3), deep_stem=DEEP_STEM)
ResNet152_vc = partial(ResNetBB, Bottleneck, (3, 8, 36, 3), deep_stem=DEEP_STEM)
