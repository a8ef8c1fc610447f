"""ResNeXt: a ResNet whose 3x3 convolutions are grouped (Xie et al., arXiv:1611.05431).

The name ends in (cardinality) x (width of each group at 64 planes).
"""

from __future__ import annotations

from functools import partial

from models.resnet import Bottleneck, CaffeNames, Place, ResNetBB


class ResNeXt(CaffeNames, ResNetBB):
    """`ResNet` under the published names of ResNeXt."""

    fluid_classifier = "fc"
    caffe_block = "resx"

    def fluid_names(self, place: Place) -> tuple[str, str]:
        conv, bn = super().fluid_names(place)
        return f"res_{conv}" if conv == "conv1" else conv, bn


ResNeXt50_32x4d = partial(ResNeXt, Bottleneck, (3, 4, 6, 3), groups=32, base_width=4)
ResNeXt50_64x4d = partial(ResNeXt, Bottleneck, (3, 4, 6, 3), groups=64, base_width=4)
ResNeXt101_32x4d = partial(ResNeXt, Bottleneck, (3, 4, 23, 3), groups=32, base_width=4)
ResNeXt101_64x4d = partial(ResNeXt, Bottleneck, (3, 4, 23, 3), groups=64, base_width=4)
ResNeXt152_32x4d = partial(ResNeXt, Bottleneck, (3, 8, 36, 3), groups=32, base_width=4)
ResNeXt152_64x4d = partial(ResNeXt, Bottleneck, (3, 8, 36, 3), groups=64, base_width=4)
