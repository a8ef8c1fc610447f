"""GoogLeNet (Szegedy et al., arXiv:1409.4842).

As published here, the convolutions have no bias, and a ReLU follows only the concatenated result of an inception
module: neither the convolutions within the modules nor those before them have one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import Dropout, conv2d, global_average, linear
from models.network import Layer, Network


def lecun_uniform_(weight: Tensor, fan_in: int | None = None) -> Tensor:
    """Uniform(+-sqrt(3 / fan_in)), whose variance is 1 / fan_in."""
    bound = (3.0 / (fan_in or weight[0].numel())) ** 0.5
    return nn.init.uniform_(weight, -bound, bound)


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and 5x5; max-pool and 1x1.

    Args:
        in_channels: channels of the input.
        widths: of the convolutions 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5 and projection, as in the columns of
            the paper's table 1.
        name: published as inception_NAME_...
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int], name: str) -> None:
        super().__init__()
        width1, width3r, width3, width5r, width5, width_proj = widths
        name = f"inception_{name}"
        self.conv1 = conv2d(in_channels, width1, 1, name=f"{name}_1x1", init=lecun_uniform_)
        self.conv3r = conv2d(in_channels, width3r, 1, name=f"{name}_3x3_reduce", init=lecun_uniform_)
        self.conv3 = conv2d(width3r, width3, 3, name=f"{name}_3x3", init=lecun_uniform_)
        self.conv5r = conv2d(in_channels, width5r, 1, name=f"{name}_5x5_reduce", init=lecun_uniform_)
        self.conv5 = conv2d(width5r, width5, 5, name=f"{name}_5x5", init=lecun_uniform_)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.convprj = conv2d(in_channels, width_proj, 1, name=f"{name}_3x3_proj")

    def forward(self, x: Tensor) -> Tensor:
        branches = self.conv1(x), self.conv3(self.conv3r(x)), self.conv5(self.conv5r(x)), self.convprj(self.pool(x))
        return F.relu(torch.cat(branches, 1))


class AuxiliaryClassifier(nn.Module):
    """A small classifier on an inner feature map, for training; `number` is part of its published names.

    Its linear layer expects 3 x 3 positions, as from images of 224 x 224; other maps are pooled to that size.
    """

    def __init__(self, in_channels: int, class_dim: int, number: int) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, 128, 1, name=f"conv_o{number}", init=lecun_uniform_)
        # The original initializer assumes 2,048 inputs.
        self.fc = linear(128 * 3 * 3, 1024, f"fc_o{number}", init=lambda weight: lecun_uniform_(weight, fan_in=2048))
        self.dropout = Dropout(0.7)
        self.out = linear(1024, class_dim, f"out{number}", init=lecun_uniform_)

    def forward(self, x: Tensor) -> Tensor:
        window = [min(5, side) for side in x.shape[2:]]
        x = F.adaptive_avg_pool2d(F.avg_pool2d(x, window, 3), 3)
        x = torch.flatten(self.conv(x), 1)
        return self.out(self.dropout(F.relu(self.fc(x))))


class GoogLeNet(Network):
    """Nine inception modules, and two auxiliary classifiers for training."""

    def __init__(self, class_dim: int = 1000) -> None:
        super().__init__()
        self.conv1 = conv2d(3, 64, 7, 2, name="conv1", init=lecun_uniform_)
        self.conv2 = conv2d(64, 64, 1, name="conv2_1x1", init=lecun_uniform_)
        self.conv3 = conv2d(64, 192, 3, name="conv2_3x3", init=lecun_uniform_)
        self.pool = nn.MaxPool2d(3, 2)
        self.ince3a = Inception(192, (64, 96, 128, 16, 32, 32), "ince3a")
        self.ince3b = Inception(256, (128, 128, 192, 32, 96, 64), "ince3b")
        self.ince4a = Inception(480, (192, 96, 208, 16, 48, 64), "ince4a")
        self.ince4b = Inception(512, (160, 112, 224, 24, 64, 64), "ince4b")
        self.ince4c = Inception(512, (128, 128, 256, 24, 64, 64), "ince4c")
        self.ince4d = Inception(512, (112, 144, 288, 32, 64, 64), "ince4d")
        self.ince4e = Inception(528, (256, 160, 320, 32, 128, 128), "ince4e")
        self.ince5a = Inception(832, (256, 160, 320, 32, 128, 128), "ince5a")
        self.ince5b = Inception(832, (384, 192, 384, 48, 128, 128), "ince5b")
        self.dropout = Dropout(0.4)
        self.fc = linear(1024, class_dim, "out", init=lecun_uniform_)
        self.aux1 = AuxiliaryClassifier(512, class_dim, 1)
        self.aux2 = AuxiliaryClassifier(528, class_dim, 2)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's names have a leading underscore, and its convolutions are one level deeper."""
        outer = {"conv1": "_conv._conv", "conv2": "_conv_1._conv", "conv3": "_conv_2._conv", "fc": "_fc_out"}
        if path in outer:
            return outer[path]
        parent, leaf = path.split(".")
        if parent.startswith("aux"):
            number = parent[-1]
            return {"conv": f"_conv_o{number}._conv", "fc": f"_fc_o{number}", "out": f"_out{number}"}[leaf]
        return f"_{parent}._{leaf}._conv"

    def trunk(self) -> list[Layer]:
        return [
            *(self.conv1, self.pool, self.conv2, self.conv3, self.pool),
            *(self.ince3a, self.ince3b, self.pool),
            *(self.ince4a, self.ince4b, self.ince4c, self.ince4d, self.ince4e, self.pool),
            *(self.ince5a, self.ince5b),
        ]

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> logits (N, class_dim); in training the main and the two auxiliary classifiers' logits."""
        if not self.training:
            return self.fc(self.dropout(self.forward_features(images)))
        maps = dict(zip(self.trunk(), self.layer_maps(images), strict=True))
        logits = self.fc(self.dropout(global_average(maps[self.ince5b])))
        return logits, self.aux1(maps[self.ince4a]), self.aux2(maps[self.ince4d])
