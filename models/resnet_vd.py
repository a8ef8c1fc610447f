"""ResNet-D: ResNet-C whose projecting shortcuts average before they project (He et al., arXiv:1812.01187)."""

from __future__ import annotations

from functools import partial

from models.inputs import InputConfig
from models.resnet import BasicBlock, Bottleneck, ResNet
from models.resnet_vc import DEEP_STEM

resnet_vd = partial(ResNet, deep_stem=DEEP_STEM, average_shortcut=True)


ResNet18_vd = partial(resnet_vd, BasicBlock, (2, 2, 2, 2))
ResNet34_vd = partial(resnet_vd, BasicBlock, (3, 4, 6, 3))
ResNet50_vd = partial(resnet_vd, Bottleneck, (3, 4, 6, 3))
ResNet101_vd = partial(resnet_vd, Bottleneck, (3, 4, 23, 3))
ResNet152_vd = partial(resnet_vd, Bottleneck, (3, 8, 36, 3))
ResNet200_vd = partial(resnet_vd, Bottleneck, (3, 12, 48, 3))


# Other published weights of the same networks. SSLD: distilled (arXiv:2103.05959); Fix_: finetuned at 320 x 320.
ResNet50_vd_v2 = ResNet50_vd
ResNet34_vd_ssld = ResNet34_vd
ResNet50_vd_ssld = ResNet50_vd
ResNet50_vd_ssld_v2 = ResNet50_vd
ResNet101_vd_ssld = ResNet101_vd
Fix_ResNet50_vd_ssld_v2 = ResNet50_vd

INPUTS = {"Fix_*": InputConfig(320, 320)}
