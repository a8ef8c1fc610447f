"""ACNet: a ResNet trained with asymmetric convolutions, deployed without them (Ding et al., arXiv:1908.03930).

In training, a k x k convolution is the sum of k x k, k x 1 and 1 x k ones, each with its batch norm. All of this is
linear in evaluation, so `models.fusion.fuse` turns it into a single k x k convolution with bias, the form that
`deploy=True` builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from models.fusion import Fusable, sum_branches_, take_sum_
from models.layers import batch_norm, conv2d
from models.names import publish
from models.resnet import BasicBlock, Bottleneck, ResNet


def deployed_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, name: str) -> nn.Conv2d:
    """The fused form of `AsymmetricConv`, published as NAME_acsquare_weights and NAME_acsquare_bias."""
    conv = conv2d(in_channels, out_channels, kernel_size, stride, bias=True)
    publish(conv, weight=f"{name}_acsquare_weights", bias=f"{name}_acsquare_bias")
    return conv


class AsymmetricConv(Fusable):
    """The sum of a square, a vertical and a horizontal convolution, each with its batch norm.

    Args:
        name: the convolutions are published as NAME_acsquare, NAME_acver and NAME_achor.
        bn_name: the same for the batch norms.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, name: str, bn_name: str
    ) -> None:
        super().__init__()
        self.name = name
        self.square_conv = conv2d(in_channels, out_channels, kernel_size, stride, name=f"{name}_acsquare")
        self.square_bn = batch_norm(out_channels, f"{bn_name}_acsquare")
        self.ver_conv = conv2d(in_channels, out_channels, (kernel_size, 1), stride, name=f"{name}_acver")
        self.ver_bn = batch_norm(out_channels, f"{bn_name}_acver")
        self.hor_conv = conv2d(in_channels, out_channels, (1, kernel_size), stride, name=f"{name}_achor")
        self.hor_bn = batch_norm(out_channels, f"{bn_name}_achor")

    def forward(self, x: Tensor) -> Tensor:
        square = self.square_bn(self.square_conv(x))
        return square + self.ver_bn(self.ver_conv(x)) + self.hor_bn(self.hor_conv(x))

    def fused(self) -> nn.Conv2d:
        """One convolution with the same result in evaluation."""
        square = self.square_conv
        kernel_size, stride = square.kernel_size[0], square.stride[0]
        return sum_branches_(
            deployed_conv(square.in_channels, square.out_channels, kernel_size, stride, self.name),
            [(square, self.square_bn), (self.ver_conv, self.ver_bn), (self.hor_conv, self.hor_bn)],
        )

    def take_fused(self, fused: nn.Module) -> None:
        """Takes the weights of the single convolution."""
        branches = [self.square_bn, self.ver_bn, self.hor_bn]
        take_sum_(cast(nn.Conv2d, fused), branches, self.square_conv.weight)


class ResNetACNet(ResNet):
    """`ResNet` whose 3x3 and 7x7 convolutions, with their batch norms, are `AsymmetricConv`s.

    Args:
        deploy: whether to use single convolutions with bias instead of `AsymmetricConv`s.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        class_dim: int = 1000,
        deploy: bool = False,
    ) -> None:
        super().__init__(block, depths, class_dim)
        for place, conv_path, bn_path in list(self.places()):
            conv = cast(nn.Conv2d, self.get_submodule(conv_path))
            kernel_size, stride = conv.kernel_size[0], conv.stride[0]
            if kernel_size == 1:
                continue
            name, bn_name = self.fluid_names(place)
            shape = (conv.in_channels, conv.out_channels, kernel_size, stride)
            replacement = deployed_conv(*shape, name) if deploy else AsymmetricConv(*shape, name, bn_name)
            self.set_submodule(conv_path, replacement)
            self.set_submodule(bn_path, nn.Identity())


ResNet18_ACNet = partial(ResNetACNet, BasicBlock, (2, 2, 2, 2))
ResNet34_ACNet = partial(ResNetACNet, BasicBlock, (3, 4, 6, 3))
ResNet50_ACNet = partial(ResNetACNet, Bottleneck, (3, 4, 6, 3))
ResNet101_ACNet = partial(ResNetACNet, Bottleneck, (3, 4, 23, 3))
ResNet152_ACNet = partial(ResNetACNet, Bottleneck, (3, 8, 36, 3))
