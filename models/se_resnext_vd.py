"""ResNeXt-D with squeeze-and-excitation (arXiv:1709.01507, arXiv:1812.01187)."""

from __future__ import annotations

from functools import partial

from models.resnet import Bottleneck
from models.se_resnext import WIDE_STEM, SEResNeXt

se_resnext_vd = partial(SEResNeXt, Bottleneck, deep_stem=WIDE_STEM, average_shortcut=True, groups=32, base_width=4)


SE_ResNeXt50_vd_32x4d = partial(se_resnext_vd, (3, 4, 6, 3))
SE_ResNeXt101_vd_32x4d = partial(se_resnext_vd, (3, 4, 23, 3))
