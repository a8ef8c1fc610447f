"""ResNet-D: ResNet-C whose projecting shortcuts average before they project (He et al., arXiv:1812.01187)."""

from __future__ import annotations

from collections.abc import Sequence

from models.inputs import InputConfig
from models.resnet import BasicBlock, Bottleneck, ResNet
from models.resnet_vc import DEEP_STEM


def _resnet_vd(block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], class_dim: int) -> ResNet:
    return ResNet(block, depths, class_dim, deep_stem=DEEP_STEM, average_shortcut=True)


def ResNet18_vd(class_dim: int = 1000) -> ResNet:
    return _resnet_vd(BasicBlock, (2, 2, 2, 2), class_dim)


def ResNet34_vd(class_dim: int = 1000) -> ResNet:
    return _resnet_vd(BasicBlock, (3, 4, 6, 3), class_dim)


def ResNet50_vd(class_dim: int = 1000) -> ResNet:
    return _resnet_vd(Bottleneck, (3, 4, 6, 3), class_dim)


def ResNet101_vd(class_dim: int = 1000) -> ResNet:
    return _resnet_vd(Bottleneck, (3, 4, 23, 3), class_dim)


def ResNet152_vd(class_dim: int = 1000) -> ResNet:
    return _resnet_vd(Bottleneck, (3, 8, 36, 3), class_dim)


def ResNet200_vd(class_dim: int = 1000) -> ResNet:
    return _resnet_vd(Bottleneck, (3, 12, 48, 3), class_dim)


# Other published weights of the same networks. SSLD: distilled (arXiv:2103.05959); Fix_: finetuned at 320 x 320.
ResNet50_vd_v2 = ResNet50_vd
ResNet34_vd_ssld = ResNet34_vd
ResNet50_vd_ssld = ResNet50_vd
ResNet50_vd_ssld_v2 = ResNet50_vd
ResNet101_vd_ssld = ResNet101_vd
Fix_ResNet50_vd_ssld_v2 = ResNet50_vd

INPUTS = {"Fix_*": InputConfig(320, 320)}
