"""SqueezeNet (Iandola et al., arXiv:1602.07360): few parameters, by squeezing the channels before every 3x3."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.layers import Dropout, conv2d, global_average, relu
from models.names import notes
from models.network import Layer, Network


class Fire(nn.Module):
    """Squeezes the channels, then expands them with parallel 1x1 and 3x3 convolutions."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int, name: str) -> None:
        super().__init__()
        self.squeeze = conv2d(in_channels, squeezed, 1, bias=True, name=f"{name}_squeeze1x1")
        self.expand1x1 = conv2d(squeezed, expanded, 1, bias=True, name=f"{name}_expand1x1")
        self.expand3x3 = conv2d(squeezed, expanded, 3, bias=True, name=f"{name}_expand3x3")
        self.relu = relu()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return self.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))


class SqueezeNet(Network):
    """A convolution, eight fire modules and a convolution whose average over all positions gives the logits.

    The module paths are torchvision's.

    Args:
        stem: channels, kernel size and padding of the first convolution.
        pool_after: numbers of the layers (the stem is 1, the fire modules 2 to 9) that a max-pool follows.
        class_dim: number of classes.
    """

    def __init__(self, stem: tuple[int, int, int], pool_after: tuple[int, int, int], class_dim: int = 1000) -> None:
        super().__init__()
        channels, kernel_size, padding = stem
        layers: list[nn.Module] = [
            conv2d(3, channels, kernel_size, 2, padding=padding, bias=True, name="conv1"),
            relu(),
        ]
        for number in range(1, 10):
            if number > 1:
                squeezed = 16 * (number // 2)
                layers.append(Fire(channels, squeezed, 4 * squeezed, f"fire{number}"))
                channels = 8 * squeezed
            if number in pool_after:
                layers.append(nn.MaxPool2d(3, 2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(Dropout(0.5), conv2d(channels, class_dim, 1, bias=True, name="conv10"), relu())

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's stem is _conv, its fire modules _conv1 ... _conv8, its last convolution _conv9."""
        layer, *part = notes(self.get_submodule(path)).published["weight"].removesuffix("_weights").split("_")
        if not part:
            return "_conv" if layer == "conv1" else "_conv9"
        part = {"squeeze1x1": "_conv", "expand1x1": "_conv_path1", "expand3x3": "_conv_path2"}[part[0]]
        return f"_conv{int(layer.removeprefix('fire')) - 1}.{part}._conv"

    def trunk(self) -> list[Layer]:
        return [*self.features]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return global_average(self.classifier(self.forward_trunk(images)))


SqueezeNet1_0 = partial(SqueezeNet, (96, 7, 0), (1, 4, 8))
SqueezeNet1_1 = partial(SqueezeNet, (64, 3, 1), (1, 3, 5))
