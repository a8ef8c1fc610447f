"""PP-LCNet: a MobileNet V1 tuned for CPUs (Cui et al., arXiv:2109.15099)."""

from __future__ import annotations

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
    """A convolution per channel, squeeze-and-excitation where the table has it, a 1x1 convolution over the channels."""

    def __init__(self, in_channels: int, out_channels: int, block: Block) -> None:
        super().__init__()
        options = {"activation": hard_swish, "init": nn.init.kaiming_normal_}
        self.dw_conv = ConvBNAct(
            in_channels, in_channels, block.kernel_size, block.stride, groups=in_channels, **options
        )
        self.se: nn.Module = nn.Identity()
        if block.squeeze:
            self.se = ConvSqueezeExcitation(in_channels, in_channels // 4, gate=F.hardsigmoid)
        self.pw_conv = ConvBNAct(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw_conv(self.se(self.dw_conv(x)))


class PPLCNet(Network):
    """PP-LCNet with its channels multiplied by `scale`, but for the 1,280 features; the paths are PaddleClas's."""

    blocks2: nn.Sequential
    blocks3: nn.Sequential
    blocks4: nn.Sequential
    blocks5: nn.Sequential
    blocks6: nn.Sequential

    def __init__(self, scale: float, class_dim: int = 1000) -> None:
        super().__init__()
        channels = make_divisible(16 * scale)
        self.conv1 = ConvBNAct(3, channels, 3, 2, activation=hard_swish, init=nn.init.kaiming_normal_)
        for number, stage in STAGES.items():
            blocks = []
            for block in stage:
                out_channels = make_divisible(block.out_channels * scale)
                blocks.append(DepthwiseSeparable(channels, out_channels, block))
                channels = out_channels
            setattr(self, f"blocks{number}", nn.Sequential(*blocks))
        self.last_conv = conv2d(channels, 1280, 1)
        self.dropout = Dropout(0.2)
        self.fc = linear(1280, class_dim, init=nn.init.xavier_uniform_)
        override_batch_norm_decay(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: se.conv1 and se.conv2 in the blocks."""
        return path.replace(".fc", ".conv")

    def trunk(self) -> list[Layer]:
        return [self.conv1, self.blocks2, self.blocks3, self.blocks4, self.blocks5, self.blocks6]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 1,280 values that the classifier sees, (N, 1280)."""
        x = self.forward_trunk(images)
        return F.hardswish(self.last_conv(x.mean((2, 3), keepdim=True))).flatten(1)

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
