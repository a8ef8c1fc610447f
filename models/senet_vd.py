"""SENet154, the winner of ILSVRC 2017 (Hu et al., arXiv:1709.01507), with the averaging shortcuts of ResNet-D."""

from __future__ import annotations

from functools import partial

from models.resnet import Bottleneck
from models.se_resnext import WIDE_STEM, SEResNeXt


class SENet154(SEResNeXt):
    """`SEResNeXt` whose first stage is published as number 4, as if the stem's convolutions were counted."""

    first_stage = 4


SENet154_vd = partial(
    SENet154,
    Bottleneck,
    (3, 8, 36, 3),
    deep_stem=WIDE_STEM,
    average_shortcut=True,
    groups=64,
    base_width=4,
    dropout=0.2,
)
