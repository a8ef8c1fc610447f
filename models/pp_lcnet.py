"""PP-LCNet: a MobileNet V1 tuned for CPUs (Cui et al., arXiv:2109.15099)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvBNAct, ConvSqueezeExcitation, Dropout, conv2d, hard_swish, linear, make_divisible
from models.names import override_batch_norm_decay
from models.network import Layer, Network


class Block(NamedTuple):
    """A row of the paper's table 2, channels at width 1."""

    kernel_size: int
    out_channels: int
    stride: int
    squeeze: bool = False


# by the stage's published number
STAGES = {
    2: (Block(3, 32, 1),),
    3: (Block(3, 64, 2), Block(3, 64, 1)),
    4: (Block(3, 128, 2), Block(3, 128, 1)),
    5: (Block(3, 256, 2), *[Block(5, 256, 1)] * 5),
    6: (Block(5, 512, 2, True), Block(5, 512, 1, True)),
}


class DepthwiseSeparable(nn.Module):
    """A depthwise convolution, squeeze-and-excitation if the table has it, and a 1x1 convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, block: Block, stride: int | tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        stride = block.stride if stride is None else stride
        options = {"activation": hard_swish, "init": nn.init.kaiming_normal_}
        self.dw_conv = ConvBNAct(in_channels, in_channels, block.kernel_size, stride, groups=in_channels, **options)
        self.se: nn.Module = nn.Identity()
        if block.squeeze:
            self.se = ConvSqueezeExcitation(in_channels, in_channels // 4, gate=F.hardsigmoid)
        self.pw_conv = ConvBNAct(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw_conv(self.se(self.dw_conv(x)))


class PPLCNet(Network):
    """PP-LCNet; the module paths are PaddleClas's.

    Args:
        scale: factor of all channels, except the features.
        class_dim: number of classes.
        strides: vertical and horizontal strides of the stem and of stages 3 to 6.
        use_last_conv: without it the last stage gives the features, and there is no dropout.
        class_expand: number of features.
        dropout: probability before the classifier.
    """

    blocks2: nn.Sequential
    blocks3: nn.Sequential
    blocks4: nn.Sequential
    blocks5: nn.Sequential
    blocks6: nn.Sequential

    def __init__(
        self,
        scale: float,
        class_dim: int = 1000,
        *,
        strides: Sequence[tuple[int, int]] = ((2, 2),) * 5,
        use_last_conv: bool = True,
        class_expand: int = 1280,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        channels = make_divisible(16 * scale)
        self.conv1 = ConvBNAct(3, channels, 3, strides[0], activation=hard_swish, init=nn.init.kaiming_normal_)
        for number, stage in STAGES.items():
            blocks = []
            for index, block in enumerate(stage):
                out_channels = make_divisible(block.out_channels * scale)
                stride = strides[number - 2] if number > 2 and index == 0 else None
                blocks.append(DepthwiseSeparable(channels, out_channels, block, stride))
                channels = out_channels
            setattr(self, f"blocks{number}", nn.Sequential(*blocks))
        self.last_conv = conv2d(channels, class_expand, 1) if use_last_conv else None
        self.dropout = Dropout(dropout if use_last_conv else 0.0)
        self.fc = linear(class_expand if use_last_conv else channels, class_dim, init=nn.init.xavier_uniform_)
        override_batch_norm_decay(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: se.conv1 and se.conv2 in the blocks."""
        return path.replace(".fc", ".conv")

    def stem_and_stages(self) -> tuple[tuple[str, ...], ...]:
        """Prefixes of the parameter names of the stem and of each stage."""
        return (("conv1.",), *((f"blocks{number}.",) for number in STAGES))

    def trunk(self) -> list[Layer]:
        return [self.conv1, self.blocks2, self.blocks3, self.blocks4, self.blocks5, self.blocks6]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the values that the classifier sees, usually (N, 1280)."""
        x = self.forward_trunk(images).mean((2, 3), keepdim=True)
        return (x if self.last_conv is None else F.hardswish(self.last_conv(x))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


PPLCNet_x0_25 = partial(PPLCNet, 0.25)
PPLCNet_x0_35 = partial(PPLCNet, 0.35)
PPLCNet_x0_5 = partial(PPLCNet, 0.5)
PPLCNet_x0_75 = partial(PPLCNet, 0.75)
PPLCNet_x1_0 = partial(PPLCNet, 1.0)
PPLCNet_x1_5 = partial(PPLCNet, 1.5)
PPLCNet_x2_0 = partial(PPLCNet, 2.0)
PPLCNet_x2_5 = partial(PPLCNet, 2.5)
