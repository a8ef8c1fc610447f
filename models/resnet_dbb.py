"""ResNet with diverse branch blocks: four branches in training, one convolution when deployed (arXiv:2103.13425)."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.fusion import Fusable, sum_branches_
from models.inputs import InputConfig
from models.layers import ConvBNAct, batch_norm, conv2d
from models.resnet import BasicBlock, ResNet


class PaddingBatchNorm(nn.Module):
    """A batch norm that pads each side by one position with its output for 0 in evaluation, so that it can be fused
    with a 1x1 convolution before it and a larger one after it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = batch_norm(channels, momentum=0.1)  # as in PaddleClas, where it is the weight of the old statistics

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        border = F.pad(torch.zeros_like(x[:1, :1]), (1, 1, 1, 1), value=1.0)
        mean, variance = cast(Tensor, self.bn.running_mean), cast(Tensor, self.bn.running_var)
        edge = self.bn.bias - self.bn.weight * (mean / (variance + self.bn.eps).sqrt())
        return F.pad(x, (1, 1, 1, 1)) + border * edge[:, None, None].to(x.dtype)


class IdentityConv(nn.Conv2d):
    """A 1x1 convolution whose weights are added to the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, bias=False)
        nn.init.zeros_(self.weight)

    def kernel(self) -> Tensor:
        """The weights plus the identity, (channels, channels, 1, 1)."""
        identity = torch.eye(self.in_channels, dtype=self.weight.dtype, device=self.weight.device)
        return self.weight + identity[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel())


class AveragingBranch(nn.Module):
    """A 1x1 convolution and a 3x3 average pool, each with a batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, 1)
        self.bn = PaddingBatchNorm(out_channels)
        self.avg = nn.AvgPool2d(3, stride)
        self.avgbn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.avgbn(self.avg(self.bn(self.conv(x))))

    def kernels(self) -> tuple[Tensor, Tensor]:
        """The two layers' weights: the convolution's, and the pool's as a convolution."""
        channels = self.conv.out_channels
        pool = torch.eye(channels, dtype=self.conv.weight.dtype, device=self.conv.weight.device) / 9
        return self.conv.weight, pool[:, :, None, None].expand(channels, channels, 3, 3)


class SequenceBranch(nn.Module):
    """A 1x1 convolution and a 3x3 one, each with a batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.idconv1 = IdentityConv(in_channels)
        self.bn1 = PaddingBatchNorm(in_channels)
        self.conv2 = conv2d(in_channels, out_channels, 3, stride, padding=0)
        self.bn2 = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.idconv1(x))))

    def kernels(self) -> tuple[Tensor, Tensor]:
        """The two layers' weights."""
        return self.idconv1.kernel(), self.conv2.weight


class DiverseBranchBlock(Fusable):
    """The sum of a 3x3 convolution, a 1x1 one, a 1x1 before a 3x3 one, and a 1x1 one before an average pool; each has
    its batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.dbb_origin = ConvBNAct(in_channels, out_channels, 3, stride)
        self.dbb_avg = AveragingBranch(in_channels, out_channels, stride)
        self.dbb_1x1 = ConvBNAct(in_channels, out_channels, 1, stride)
        self.dbb_1x1_kxk = SequenceBranch(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.dbb_origin(x) + self.dbb_1x1(x) + self.dbb_avg(x) + self.dbb_1x1_kxk(x)

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """One 3x3 convolution with the same result in evaluation."""
        origin, pointwise = self.dbb_origin, self.dbb_1x1
        conv = conv2d(origin.conv.in_channels, origin.conv.out_channels, 3, origin.conv.stride[0], bias=True)
        sum_branches_(conv, [(branch.conv, branch.bn) for branch in (origin, pointwise)])
        assert conv.bias is not None
        weight, bias = conv.weight.double(), conv.bias.double()
        for branch, norms in (
            (self.dbb_avg, (self.dbb_avg.bn.bn, self.dbb_avg.avgbn)),
            (self.dbb_1x1_kxk, (self.dbb_1x1_kxk.bn1.bn, self.dbb_1x1_kxk.bn2)),
        ):
            (first, shift), (second, offset) = (
                _with_norm(kernel, bn) for kernel, bn in zip(branch.kernels(), norms, strict=True)
            )
            weight = weight + torch.einsum("omhw,mi->oihw", second, first[:, :, 0, 0])
            bias = bias + torch.einsum("omhw,m->o", second, shift) + offset
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
        return conv


def _with_norm(kernel: Tensor, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weights and bias, in double precision, of a convolution fused with the batch norm after it."""
    mean, variance = cast(Tensor, bn.running_mean).double(), cast(Tensor, bn.running_var).double()
    scale = bn.weight.double() / (variance + bn.eps).sqrt()
    return kernel.double() * scale[:, None, None, None], bn.bias.double() - mean * scale


class ResNetDBB(ResNet):
    """`ResNet` with its 3x3 convolutions and their batch norms replaced; the first block has no projection.

    The paths inside a block are PaddleClas's.
    """

    def __init__(self, depths: tuple[int, ...], class_dim: int = 1000) -> None:
        super().__init__(BasicBlock, depths, class_dim)
        first = cast(BasicBlock, self.get_submodule("layer1.0"))
        first.downsample = None
        for place, conv_path, bn_path in list(self.places()):
            conv = cast(nn.Conv2d, self.get_submodule(conv_path))
            if place.stage and conv.kernel_size[0] == 3:
                block = DiverseBranchBlock(conv.in_channels, conv.out_channels, conv.stride[0])
                self.set_submodule(conv_path, block)
                self.set_submodule(bn_path, nn.Identity())

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path of the layer at `path`."""
        for place, conv_path, _ in self.places():
            if path.startswith(f"{conv_path}.dbb_"):
                return self.paddleclas_block(place) + path.removeprefix(conv_path)
        return super().paddleclas_path(path)


ResNet18_dbb = partial(ResNetDBB, (2, 2, 2, 2))

INPUTS = {"ResNet18_dbb": InputConfig(resize_backend="pil")}
