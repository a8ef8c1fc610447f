"""RepVGG: trained with three branches, deployed as a plain stack of convolutions (Ding et al., arXiv:2101.03697)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from models.fusion import Fusable, sum_branches_, take_sum_
from models.inputs import BICUBIC, InputConfig
from models.layers import ConvBNAct, ConvSqueezeExcitation, batch_norm, conv2d, linear, relu
from models.network import Layer, Network


class RepVGGBlock(Fusable):
    """The sum of a 3x3 convolution, a 1x1 one and, if the shape allows it, the identity, each with its batch norm.

    Args:
        has_se: whether squeeze-and-excitation, to a sixteenth, comes before the ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, has_se: bool) -> None:
        super().__init__()
        self.rbr_identity = batch_norm(in_channels) if in_channels == out_channels and stride == 1 else None
        self.rbr_dense = ConvBNAct(in_channels, out_channels, 3, stride, groups=groups)
        self.rbr_1x1 = ConvBNAct(in_channels, out_channels, 1, stride, groups=groups)
        self.se = ConvSqueezeExcitation(out_channels, out_channels // 16) if has_se else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            y = y + self.rbr_identity(x)
        return F.relu(self.se(y))

    def fused(self) -> nn.Sequential:
        """One 3x3 convolution with the same result in evaluation, and the layers after it."""
        dense = self.rbr_dense.conv
        branches: list[tuple[nn.Conv2d | None, nn.BatchNorm2d]] = [
            (branch.conv, branch.bn) for branch in (self.rbr_dense, self.rbr_1x1)
        ]
        if self.rbr_identity is not None:
            branches.append((None, self.rbr_identity))
        conv = conv2d(dense.in_channels, dense.out_channels, 3, dense.stride[0], groups=dense.groups, bias=True)
        return nn.Sequential(sum_branches_(conv, branches), self.se, relu())

    def take_fused(self, fused: nn.Module) -> None:
        """Takes the weights of the single convolution, and of the layers after it."""
        branches = [self.rbr_dense.bn, self.rbr_1x1.bn, *([] if self.rbr_identity is None else [self.rbr_identity])]
        take_sum_(cast(nn.Conv2d, fused.get_submodule("0")), branches, self.rbr_dense.conv.weight)
        self.se.load_state_dict(fused.get_submodule("1").state_dict())


class RepVGG(Network):
    """RepVGG; the module paths are PaddleClas's.

    Args:
        depths: blocks of the stages 1 to 4.
        widths: factors of the stages' 64, 128, 256 and 512 channels.
        class_dim: number of classes.
        groups: of the convolutions of every second block.
        has_se: whether the blocks have squeeze-and-excitation.
    """

    stage1: nn.Sequential
    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[float],
        class_dim: int = 1000,
        *,
        groups: int = 1,
        has_se: bool = False,
    ) -> None:
        super().__init__()
        channels = min(64, int(64 * widths[0]))
        self.stage0 = RepVGGBlock(3, channels, 2, 1, has_se)
        number = 0  # numbers the blocks through all stages
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            blocks = []
            for index in range(depth):
                number += 1
                out_channels = int(32 * 2**stage * width)
                block_groups = groups if number % 2 == 0 else 1
                blocks.append(RepVGGBlock(channels, out_channels, 2 if index == 0 else 1, block_groups, has_se))
                channels = out_channels
            setattr(self, f"stage{stage}", nn.Sequential(*blocks))
        self.linear = linear(channels, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: se.down and se.up in the blocks."""
        return path.replace(".fc1", ".down").replace(".fc2", ".up")

    def trunk(self) -> list[Layer]:
        return [self.stage0, self.stage1, self.stage2, self.stage3, self.stage4]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.linear(self.forward_features(images))


A = (2, 4, 14, 1)
B = (4, 6, 16, 1)
D = (8, 14, 24, 1)

RepVGG_A0 = partial(RepVGG, A, (0.75, 0.75, 0.75, 2.5))
RepVGG_A1 = partial(RepVGG, A, (1.0, 1.0, 1.0, 2.5))
RepVGG_A2 = partial(RepVGG, A, (1.5, 1.5, 1.5, 2.75))
RepVGG_B0 = partial(RepVGG, B, (1.0, 1.0, 1.0, 2.5))
RepVGG_B1 = partial(RepVGG, B, (2.0, 2.0, 2.0, 4.0))
RepVGG_B1g2 = partial(RepVGG, B, (2.0, 2.0, 2.0, 4.0), groups=2)
RepVGG_B1g4 = partial(RepVGG, B, (2.0, 2.0, 2.0, 4.0), groups=4)
RepVGG_B2 = partial(RepVGG, B, (2.5, 2.5, 2.5, 5.0))
RepVGG_B2g4 = partial(RepVGG, B, (2.5, 2.5, 2.5, 5.0), groups=4)
RepVGG_B3 = partial(RepVGG, B, (3.0, 3.0, 3.0, 5.0))
RepVGG_B3g4 = partial(RepVGG, B, (3.0, 3.0, 3.0, 5.0), groups=4)
RepVGG_D2se = partial(RepVGG, D, (2.5, 2.5, 2.5, 5.0), has_se=True)

INPUTS = {
    "RepVGG_B3*": InputConfig(interpolation=BICUBIC, resize_backend="pil"),
    "RepVGG_D2se": InputConfig(320, 320, BICUBIC, resize_backend="pil"),
}
