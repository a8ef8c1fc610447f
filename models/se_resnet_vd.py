"""ResNet-D with squeeze-and-excitation in every block (Hu et al., arXiv:1709.01507, and arXiv:1812.01187)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

from models.names import publish_conv
from models.resnet import BasicBlock, Bottleneck, ResNetBB
from models.resnet_vc import DEEP_STEM


class SEResNet(ResNetBB):
    """`ResNet` with squeeze-and-excitation, to a 16th of the channels, and its published names."""

    fluid_classifier = "fc6"

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], class_dim: int = 1000, **options
    ) -> None:
        super().__init__(block, depths, class_dim, se_reduction=16, **options)

    def publish_names(self) -> None:
        super().publish_names()
        for stage, blocks in enumerate(self.stages(), 1):
            for index, block in enumerate(cast(Iterable[Any], blocks)):
                name = self.fluid_excitation(stage, index)
                publish_conv(block.se.fc1, f"{name}_sqz")
                publish_conv(block.se.fc2, f"{name}_exc")

    def fluid_excitation(self, stage: int, index: int) -> str:
        """Published name of the squeeze-and-excitation of a block, before _sqz and _exc."""
        return f"fc_res{self.fluid_block(stage, index)}"

    def paddleclas_path(self, path: str) -> str:
        if excitation := re.fullmatch(r"layer(\d)\.(\d+)\.se\.fc(\d)", path):
            stage, index, number = map(int, excitation.groups())
            return f"bb_{stage - 1}_{index}.scale.{'squeeze' if number == 1 else 'excitation'}"
        return super().paddleclas_path(path)


se_resnet_vd = partial(SEResNet, deep_stem=DEEP_STEM, average_shortcut=True)


SE_ResNet18_vd = partial(se_resnet_vd, BasicBlock, (2, 2, 2, 2))
SE_ResNet34_vd = partial(se_resnet_vd, BasicBlock, (3, 4, 6, 3))
SE_ResNet50_vd = partial(se_resnet_vd, Bottleneck, (3, 4, 6, 3))
SE_ResNet101_vd = partial(se_resnet_vd, Bottleneck, (3, 4, 23, 3))
SE_ResNet152_vd = partial(se_resnet_vd, Bottleneck, (3, 8, 36, 3))
SE_ResNet200_vd = partial(se_resnet_vd, Bottleneck, (3, 12, 48, 3))
