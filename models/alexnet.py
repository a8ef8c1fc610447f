"""AlexNet in its one-column form (Krizhevsky, arXiv:1404.5997)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.initializers import uniform_fan_in_
from models.layers import Dropout, conv2d, linear, relu
from models.network import Layer, Network


class AlexNet(Network):
    """Five convolutions and three linear layers; the module paths are torchvision's.

    The features of images of other sizes than 224 x 224 are pooled to the 6 x 6 positions of the first linear layer.
    """

    def __init__(self, class_dim: int = 1000) -> None:
        super().__init__()
        options = {"bias": True, "init": uniform_fan_in_}
        self.features = nn.Sequential(
            conv2d(3, 64, 11, 4, padding=2, name="conv1", **options),
            relu(),
            nn.MaxPool2d(3, 2),
            conv2d(64, 192, 5, name="conv2", **options),
            relu(),
            nn.MaxPool2d(3, 2),
            conv2d(192, 384, 3, name="conv3", **options),
            relu(),
            conv2d(384, 256, 3, name="conv4", **options),
            relu(),
            conv2d(256, 256, 3, name="conv5", **options),
            relu(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            Dropout(0.5),
            linear(256 * 6 * 6, 4096, "fc6"),
            relu(),
            Dropout(0.5),
            linear(4096, 4096, "fc7"),
            relu(),
            linear(4096, class_dim, "fc8"),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                bound = layer.weight[0].numel() ** -0.5
                nn.init.uniform_(layer.bias, -bound, bound)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas names the layers as the paper does: _conv1 ... _conv5, _fc6 ... _fc8."""
        layers = [name for name, layer in self.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        if path not in layers:
            return path
        number = layers.index(path) + 1
        if number > 5:
            return f"_fc{number}"
        return f"_conv{number}._conv" if number in (1, 2, 5) else f"_conv{number}"

    def trunk(self) -> list[Layer]:
        return [*self.features]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 4,096 values that the classifier sees, (N, 4096)."""
        x = torch.flatten(self.avgpool(self.forward_trunk(images)), 1)
        return self.classifier[:-1](x)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier[-1](self.forward_features(images))
