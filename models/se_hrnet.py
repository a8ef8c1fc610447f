"""SE_HRNet: HRNet with squeeze-and-excitation (Hu et al., arXiv:1709.01507) in every block."""

from __future__ import annotations

from models.hrnet import HRNet


def SE_HRNet_W18_C(class_dim: int = 1000) -> HRNet:
    return HRNet(18, class_dim, has_se=True)


def SE_HRNet_W30_C(class_dim: int = 1000) -> HRNet:
    return HRNet(30, class_dim, has_se=True)


def SE_HRNet_W32_C(class_dim: int = 1000) -> HRNet:
    return HRNet(32, class_dim, has_se=True)


def SE_HRNet_W40_C(class_dim: int = 1000) -> HRNet:
    return HRNet(40, class_dim, has_se=True)


def SE_HRNet_W44_C(class_dim: int = 1000) -> HRNet:
    return HRNet(44, class_dim, has_se=True)


def SE_HRNet_W48_C(class_dim: int = 1000) -> HRNet:
    return HRNet(48, class_dim, has_se=True)


def SE_HRNet_W60_C(class_dim: int = 1000) -> HRNet:
    return HRNet(60, class_dim, has_se=True)


def SE_HRNet_W64_C(class_dim: int = 1000) -> HRNet:
    return HRNet(64, class_dim, has_se=True)
