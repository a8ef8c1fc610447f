"""FastImageNet: ResNet50, initialized and regularized for training in few epochs with growing image sizes.

After fast.ai's entry to DAWNBench (https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html): the last batch norm
of a block starts at 0, so that blocks start as their shortcuts (Goyal et al., arXiv:1706.02677).
"""

from __future__ import annotations

from torch import nn

from models.names import override_l2_decay
from models.resnet import Bottleneck, ResNet


class FastImageNetNet(ResNet):
    """ResNet50 published under automatic names."""

    def __init__(self, class_dim: int = 1000) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), class_dim)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
            elif isinstance(module, nn.Conv2d):
                override_l2_decay(module, weight=1e-4)
        nn.init.normal_(self.fc.weight, 0.0, 0.01)
        override_l2_decay(self.fc, weight=1e-4, bias=1e-4)

    def publish_names(self) -> None:
        """All layers keep their automatic names."""


FastImageNet = FastImageNetNet
