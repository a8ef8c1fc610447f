"""SE_HRNet: HRNet with squeeze-and-excitation (Hu et al., arXiv:1709.01507) in every block."""

from __future__ import annotations

from functools import partial

from models.hrnet import HRNet

SE_HRNet_W18_C = partial(HRNet, 18, has_se=True)
SE_HRNet_W30_C = partial(HRNet, 30, has_se=True)
SE_HRNet_W32_C = partial(HRNet, 32, has_se=True)
SE_HRNet_W40_C = partial(HRNet, 40, has_se=True)
SE_HRNet_W44_C = partial(HRNet, 44, has_se=True)
SE_HRNet_W48_C = partial(HRNet, 48, has_se=True)
SE_HRNet_W60_C = partial(HRNet, 60, has_se=True)
SE_HRNet_W64_C = partial(HRNet, 64, has_se=True)
SE_HRNet_W18_C_paddleclas = partial(HRNet, 18, has_se=True, align_corners=False)
SE_HRNet_W30_C_paddleclas = partial(HRNet, 30, has_se=True, align_corners=False)
SE_HRNet_W32_C_paddleclas = partial(HRNet, 32, has_se=True, align_corners=False)
SE_HRNet_W40_C_paddleclas = partial(HRNet, 40, has_se=True, align_corners=False)
SE_HRNet_W44_C_paddleclas = partial(HRNet, 44, has_se=True, align_corners=False)
SE_HRNet_W48_C_paddleclas = partial(HRNet, 48, has_se=True, align_corners=False)
SE_HRNet_W60_C_paddleclas = partial(HRNet, 60, has_se=True, align_corners=False)
SE_HRNet_W64_C_paddleclas = partial(HRNet, 64, has_se=True, align_corners=False)
