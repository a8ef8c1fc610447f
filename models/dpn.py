"""DPN, dual path networks (Chen et al., arXiv:1707.01629): a residual path next to a densely connected one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import batch_norm, conv2d, global_average, linear, relu
from models.network import Layer, Network


class BNActConv(nn.Sequential):
    """Batch norm, ReLU, convolution; published as NAME_bn and NAME."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, name: str, groups: int = 1
    ) -> None:
        super().__init__()
        self.bn = batch_norm(in_channels, f"{name}_bn")
        self.act = relu()
        self.conv = conv2d(in_channels, out_channels, kernel_size, stride, groups=groups, name=name)


class DualPathBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions; part of the result is added to one path, the rest appended to the other.

    The two paths travel as one tensor of `residual` channels followed by those of the dense path.

    Args:
        in_channels: channels of both paths together.
        width: channels of the first two convolutions.
        residual: channels of the residual path.
        growth: channels that the block appends to the dense path.
        groups: of the 3x3 convolution.
        stride: of the block.
        project: whether the block begins a stage, where both paths start from a projection of the input.
        name: published name.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        residual: int,
        growth: int,
        *,
        groups: int,
        stride: int,
        project: bool,
        name: str,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.match = (
            BNActConv(in_channels, residual + 2 * growth, 1, stride, f"{name}_match") if project else nn.Identity()
        )
        self.conv1 = BNActConv(in_channels, width, 1, 1, f"{name}_conv1")
        self.conv2 = BNActConv(width, width, 3, stride, f"{name}_conv2", groups)
        self.conv3 = BNActConv(width, residual + growth, 1, 1, f"{name}_conv3")

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.match(x)
        x = self.conv3(self.conv2(self.conv1(x)))
        summed = shortcut[:, : self.residual] + x[:, : self.residual]
        return torch.cat((summed, shortcut[:, self.residual :], x[:, self.residual :]), 1)


class DPN(Network):
    """Four stages of dual path blocks.

    Args:
        stem_width, stem_size: channels and kernel size of the first convolution.
        width: channels of the first stage's 3x3 convolutions, doubled in every later stage.
        groups: of the 3x3 convolutions.
        residual: channels of the first stage's residual path, doubled in every later stage.
        depths: blocks per stage.
        growths: channels that a block appends to the dense path, per stage.
        class_dim: number of classes.
    """

    def __init__(
        self,
        stem_width: int,
        stem_size: int,
        width: int,
        groups: int,
        residual: int,
        depths: tuple[int, int, int, int],
        growths: tuple[int, int, int, int],
        class_dim: int = 1000,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.conv = conv2d(3, stem_width, stem_size, 2, name="conv1")
        self.stem.bn = batch_norm(stem_width, "conv1_bn")
        self.stem.act = relu()
        self.stem.pool = nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        channels = stem_width
        for stage, (depth, growth) in enumerate(zip(depths, growths, strict=True)):
            for index in range(depth):
                first = index == 0
                block = DualPathBlock(
                    channels,
                    width * 2**stage,
                    residual * 2**stage,
                    growth,
                    groups=groups,
                    stride=2 if first and stage > 0 else 1,
                    project=first,
                    name=f"dpn{len(blocks) + 1}",
                )
                blocks.append(block)
                channels = residual * 2**stage + 3 * growth if first else channels + growth
        self.blocks = nn.Sequential(*blocks)
        self.norm = batch_norm(channels, "final_concat_bn")
        # Fluid's classifier starts at +-0.01, whatever its width.
        self.fc = linear(channels, class_dim, "fc", init=lambda weight: nn.init.uniform_(weight, -0.01, 0.01))

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's blocks are dpn1, dpn2, ..., and its convolutions are named by kernel size and order."""
        if path in ("norm", "fc"):
            return "conv5_x_x_bn" if path == "norm" else "out"
        *parents, leaf = path.split(".")
        leaf = "_conv" if leaf == "conv" else "_batch_norm"
        if parents == ["stem"]:
            return f"conv1_x_1_func.{leaf}"
        _, index, part = parents
        part = {"match": "c1x1_w", "conv1": "c1x1_a", "conv2": "c3x3_b", "conv3": "c1x1_c"}[part]
        return f"dpn{int(index) + 1}.{part}_func.{leaf}"

    def trunk(self) -> list[Layer]:
        return [self.stem, *self.blocks]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(F.relu(self.norm(self.forward_trunk(images))))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


DPN68 = partial(DPN, 10, 3, 128, 32, 64, (3, 4, 12, 3), (16, 32, 32, 64))
DPN92 = partial(DPN, 64, 7, 96, 32, 256, (3, 4, 20, 3), (16, 32, 24, 128))
DPN98 = partial(DPN, 96, 7, 160, 40, 256, (3, 6, 20, 3), (16, 32, 32, 128))
DPN107 = partial(DPN, 128, 7, 200, 50, 256, (4, 8, 20, 3), (20, 64, 64, 128))
DPN131 = partial(DPN, 128, 7, 160, 40, 256, (4, 8, 28, 3), (16, 32, 32, 128))
