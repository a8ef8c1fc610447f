"""ResNeXt with squeeze-and-excitation (Hu et al., arXiv:1709.01507) and dropout before the classifier."""

from __future__ import annotations

from functools import partial

from models.layers import UPSCALE_IN_TRAIN
from models.resnet import SHORTCUT, Bottleneck, Place
from models.se_resnet_vd import SEResNet

# Widths of the stem of SE_ResNeXt152_32x4d and of the vd networks.
WIDE_STEM = (64, 64, 128)


class SEResNeXt(SEResNet):
    """`SEResNet` under the published names of SE_ResNeXt: conv2_1_x1, conv2_1_x1_bn, ..., conv2_1_prj, fc2_1_sqz."""

    # Number of the first stage in the published names.
    first_stage = 2

    # PaddleClas has no dropout here, so its weights need no scaling in evaluation.
    paddleclas_dropout = UPSCALE_IN_TRAIN

    def fluid_names(self, place: Place) -> tuple[str, str]:
        if place.stage > 0:
            part = "prj" if place.part == SHORTCUT else f"x{place.part + 1}"
            conv = f"conv{self.fluid_block(place.stage, place.index)}_{part}"
        else:
            conv = self.fluid_stem(place.part)
        return conv, f"{conv}_bn"

    def fluid_stem(self, part: int) -> str:
        """Published name of a convolution of the stem."""
        return super().fluid_names(Place(0, 0, part))[0]

    def fluid_block(self, stage: int, index: int) -> str:
        return f"{stage - 1 + self.first_stage}_{index + 1}"

    def fluid_excitation(self, stage: int, index: int) -> str:
        return f"fc{self.fluid_block(stage, index)}"


class SEResNeXt152(SEResNeXt):
    """`SEResNeXt` whose deep stem's convolutions are published as conv1, conv2 and conv3."""

    first_stage = 4

    def fluid_stem(self, part: int) -> str:
        return f"conv{part + 1}"


SE_ResNeXt50_32x4d = partial(SEResNeXt, Bottleneck, (3, 4, 6, 3), groups=32, base_width=4, dropout=0.5)
SE_ResNeXt101_32x4d = partial(SEResNeXt, Bottleneck, (3, 4, 23, 3), groups=32, base_width=4, dropout=0.5)
# PaddleClas's own, without dropout.
SE_ResNeXt152_64x4d = partial(SEResNeXt152, Bottleneck, (3, 8, 36, 3), deep_stem=WIDE_STEM, groups=64, base_width=4)
# Published with 64 groups of width 2, despite its name.
SE_ResNeXt152_32x4d = partial(
    SEResNeXt152, Bottleneck, (3, 8, 36, 3), deep_stem=WIDE_STEM, groups=64, base_width=2, dropout=0.5
)
