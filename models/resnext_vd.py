"""ResNeXt with the stem and the averaging shortcuts of ResNet-D (arXiv:1611.05431, arXiv:1812.01187)."""

from __future__ import annotations

from functools import partial

from models.resnet import Bottleneck
from models.resnet_vc import DEEP_STEM
from models.resnext import ResNeXt

resnext_vd = partial(ResNeXt, Bottleneck, deep_stem=DEEP_STEM, average_shortcut=True, base_width=4)


ResNeXt50_vd_32x4d = partial(resnext_vd, (3, 4, 6, 3), groups=32)
ResNeXt50_vd_64x4d = partial(resnext_vd, (3, 4, 6, 3), groups=64)
ResNeXt101_vd_32x4d = partial(resnext_vd, (3, 4, 23, 3), groups=32)
ResNeXt101_vd_64x4d = partial(resnext_vd, (3, 4, 23, 3), groups=64)
ResNeXt152_vd_32x4d = partial(resnext_vd, (3, 8, 36, 3), groups=32)
ResNeXt152_vd_64x4d = partial(resnext_vd, (3, 8, 36, 3), groups=64)
