"""Wide ResNet (Zagoruyko and Komodakis, arXiv:1605.07146): twice the width inside every bottleneck."""

from __future__ import annotations

from functools import partial

from models.resnet import Bottleneck, CaffeNames, ResNet


class WideResNet(CaffeNames, ResNet):
    """`ResNet`, with names in Caffe."""


WideResNet50_2 = partial(WideResNet, Bottleneck, (3, 4, 6, 3), base_width=128)
