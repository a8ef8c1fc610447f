"""Wide ResNet (Zagoruyko and Komodakis, arXiv:1605.07146): twice the width inside every bottleneck."""

from __future__ import annotations

from models.resnet import Bottleneck, CaffeNames, ResNet


class WideResNet(CaffeNames, ResNet):
    """`ResNet`, with names in Caffe."""


def WideResNet50_2(class_dim: int = 1000) -> ResNet:
    return WideResNet(Bottleneck, (3, 4, 6, 3), class_dim, base_width=128)
