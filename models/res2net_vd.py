"""Res2Net with the stem and the averaging shortcuts of ResNet-D (arXiv:1904.01169, arXiv:1812.01187)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from models.res2net import Res2Net
from models.resnet_vc import DEEP_STEM


class Res2NetVd(Res2Net):
    """Res2Net-D."""

    def __init__(self, depths: Sequence[int], class_dim: int = 1000, *, scales: int, base_width: int) -> None:
        options = {"deep_stem": DEEP_STEM, "average_shortcut": True}
        super().__init__(depths, class_dim, scales=scales, base_width=base_width, **options)


class Res2Net200Vd(Res2NetVd):
    """The network whose published names label all blocks by letters, and go on through ASCII: z, {, |, ..."""

    def fluid_block(self, stage: int, index: int) -> str:
        return f"{stage + 1}{chr(ord('a') + index)}"


Res2Net50_vd_48w_2s = partial(Res2NetVd, (3, 4, 6, 3), scales=2, base_width=48)
Res2Net50_vd_26w_4s = partial(Res2NetVd, (3, 4, 6, 3), scales=4, base_width=26)
Res2Net50_vd_14w_8s = partial(Res2NetVd, (3, 4, 6, 3), scales=8, base_width=14)
Res2Net50_vd_26w_6s = partial(Res2NetVd, (3, 4, 6, 3), scales=6, base_width=26)
Res2Net50_vd_26w_8s = partial(Res2NetVd, (3, 4, 6, 3), scales=8, base_width=26)
Res2Net101_vd_26w_4s = partial(Res2NetVd, (3, 4, 23, 3), scales=4, base_width=26)
Res2Net152_vd_26w_4s = partial(Res2NetVd, (3, 8, 36, 3), scales=4, base_width=26)
Res2Net200_vd_26w_4s = partial(Res2Net200Vd, (3, 12, 48, 3), scales=4, base_width=26)

# Distilled weights (SSLD, arXiv:2103.05959) of the same networks.
Res2Net50_vd_26w_4s_ssld = Res2Net50_vd_26w_4s
Res2Net101_vd_26w_4s_ssld = Res2Net101_vd_26w_4s
Res2Net200_vd_26w_4s_ssld = Res2Net200_vd_26w_4s
