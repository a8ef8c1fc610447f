"""StarNet: features of higher order through products of two branches (Ma et al., arXiv:2403.19967)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BICUBIC, InputConfig
from models.layers import DropPath, batch_norm, conv2d, global_average, linear
from models.network import Layer, Network


class ConvBN(nn.Sequential):
    """A convolution with bias and, if `norm`, batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=True)
        if norm:
            self.bn = batch_norm(out_channels)


class Block(nn.Module):
    """The product of two expansions between two 7x7 depthwise convolutions, with a shortcut.

    Args:
        expansion: expansion of the channels for the product.
        drop_path: probability to drop everything except the shortcut.
    """

    def __init__(self, channels: int, expansion: int, drop_path: float) -> None:
        super().__init__()
        width = channels * expansion
        self.dwconv = ConvBN(channels, channels, 7, groups=channels)
        self.f1 = ConvBN(channels, width, 1, norm=False)
        self.f2 = ConvBN(channels, width, 1, norm=False)
        self.g = ConvBN(width, channels, 1)
        self.dwconv2 = ConvBN(channels, channels, 7, groups=channels, norm=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x)
        y = F.relu6(self.f1(y)) * self.f2(y)
        return x + self.drop_path(self.dwconv2(self.g(y)))


class StarNet(Network):
    """StarNet; the module paths are those of the paper's authors.

    Args:
        channels: channels of the first stage; each later stage has twice as many.
        depths: blocks of each of the four stages.
        class_dim: number of classes.
        drop_path_rate: `drop_path` of the last block; it grows linearly from 0 in the first.
    """

    def __init__(
        self, channels: int, depths: Sequence[int], class_dim: int = 1000, *, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        in_channels = 32
        blocks_after_first = sum(depths) - 1
        rates = iter([drop_path_rate * number / blocks_after_first for number in range(sum(depths))])
        self.stem = nn.Sequential(ConvBN(3, in_channels, 3, 2), nn.ReLU6(inplace=True))
        self.stages = nn.Sequential()
        for number, depth in enumerate(depths):
            width = channels * 2**number
            blocks = (Block(width, 4, next(rates)) for _ in range(depth))
            self.stages.append(nn.Sequential(ConvBN(in_channels, width, 3, 2), *blocks))
            in_channels = width
        self.norm = batch_norm(in_channels)
        self.head = linear(in_channels, class_dim, init=nn.init.xavier_uniform_)

    def trunk(self) -> list[Layer]:
        return [self.stem, *self.stages]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.norm(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.head(self.forward_features(images))


StarNet_S1 = partial(StarNet, 24, (2, 2, 8, 3))
StarNet_S2 = partial(StarNet, 32, (1, 2, 6, 2))
StarNet_S3 = partial(StarNet, 32, (2, 2, 8, 4))
StarNet_S4 = partial(StarNet, 32, (3, 3, 12, 5))

INPUTS = {"*": InputConfig(interpolation=BICUBIC, resize_backend="pil", decode_backend="pil")}
