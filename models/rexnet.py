"""ReXNet: inverted residuals whose widths grow linearly with depth (Han et al., arXiv:2007.00992)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.layers import UPSCALE_IN_TRAIN, Dropout, batch_norm, conv2d, global_average, relu, swish
from models.network import Layer, Network

# (blocks, stride, squeeze-and-excitation) of the stages
STAGES = ((1, 1, False), (2, 2, False), (2, 2, True), (3, 2, True), (3, 1, True), (5, 2, True))
# channels of the first block, and growth over all blocks; at width 1
FIRST, ADDED = 16, 180


class SqueezeExcitation(nn.Module):
    """Channel attention (arXiv:1709.01507) to a twelfth, with a batch norm between the layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 12
        self.fc = nn.Sequential(
            conv2d(channels, squeezed, 1, bias=True),
            batch_norm(squeezed),
            relu(),
            conv2d(squeezed, channels, 1, bias=True),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True))


class LinearBottleneck(nn.Module):
    """An inverted residual; if it has more output channels, the shortcut is added to the first of them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, squeeze: bool) -> None:
        super().__init__()
        width = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [conv2d(in_channels, width, 1), batch_norm(width), swish()]
        layers += [conv2d(width, width, 3, stride, groups=width), batch_norm(width)]
        if squeeze:
            layers.append(SqueezeExcitation(width))
        layers += [nn.ReLU6(inplace=True), conv2d(width, out_channels, 1), batch_norm(out_channels)]
        self.out = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.shortcut = stride == 1 and in_channels <= out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(x)
        if not self.shortcut:
            return y
        return torch.cat([y[:, : self.in_channels] + x, y[:, self.in_channels :]], 1)


class ReXNet(Network):
    """ReXNet with its channels multiplied by `scale`, at least 1; the module paths are those of the paper's authors."""

    def __init__(self, scale: float, class_dim: int = 1000) -> None:
        super().__init__()
        channels = round(32 * scale)
        layers: list[nn.Module] = [conv2d(3, channels, 3, 2), batch_norm(channels), swish()]
        blocks = sum(depth for depth, _, _ in STAGES)
        width = float(FIRST)
        for number, (depth, stride, squeeze) in enumerate(STAGES):
            for index in range(depth):
                out_channels = round(width * scale)
                layers.append(
                    LinearBottleneck(channels, out_channels, stride if index == 0 else 1, 6 if number else 1, squeeze)
                )
                channels = out_channels
                width += ADDED / blocks
        features = int(1280 * scale)
        layers += [conv2d(channels, features, 1), batch_norm(features), swish()]
        self.features = nn.Sequential(*layers)
        self.output = nn.Sequential(Dropout(0.2, UPSCALE_IN_TRAIN), conv2d(features, class_dim, 1, bias=True))

    def trunk(self) -> list[Layer]:
        return [*self.features][:-3]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.features[-3:](self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.output(self.forward_features(images)[:, :, None, None]).flatten(1)


ReXNet_1_0 = partial(ReXNet, 1.0)
ReXNet_1_3 = partial(ReXNet, 1.3)
ReXNet_1_5 = partial(ReXNet, 1.5)
ReXNet_2_0 = partial(ReXNet, 2.0)
ReXNet_3_0 = partial(ReXNet, 3.0)
