"""VGG (Simonyan and Zisserman, arXiv:1409.1556); as published here, the convolutions have no bias."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from models.layers import Dropout, conv2d, linear, relu
from models.names import notes
from models.network import Layer, Network

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five groups of 3x3 convolutions, each followed by a max-pool, and three linear layers.

    The module paths are torchvision's, whose convolutions also have a bias. The features of images of other sizes than
    224 x 224 are pooled to the 7 x 7 positions of the first linear layer.

    Args:
        depths: convolutions per group.
        class_dim: number of classes.
    """

    def __init__(self, depths: Sequence[int], class_dim: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for group, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True), 1):
            for number in range(1, depth + 1):
                layers += [conv2d(channels, width, 3, name=f"conv{group}_{number}"), relu()]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            linear(512 * 7 * 7, 4096, "fc6", init=nn.init.xavier_uniform_),
            relu(),
            Dropout(0.5),
            linear(4096, 4096, "fc7", init=nn.init.xavier_uniform_),
            relu(),
            Dropout(0.5),
            linear(4096, class_dim, "fc8", init=nn.init.xavier_uniform_),
        )

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's conv3_2 is conv_block_3.conv2, and its linear layers are fc1, fc2 and fc3."""
        name = notes(self.get_submodule(path)).published.get("weight", "").removesuffix("_weights")
        if name.startswith("conv"):
            group, number = name.removeprefix("conv").split("_")
            return f"conv_block_{group}.conv{number}"
        return f"fc{int(name[2:]) - 5}" if name else path

    def trunk(self) -> list[Layer]:
        return [*self.features]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the 4,096 values that the classifier sees, (N, 4096)."""
        x = torch.flatten(self.avgpool(self.forward_trunk(images)), 1)
        return self.classifier[:-2](x)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier[-2:](self.forward_features(images))


VGG11 = partial(VGG, (1, 1, 2, 2, 2))
VGG13 = partial(VGG, (2, 2, 2, 2, 2))
VGG16 = partial(VGG, (2, 2, 3, 3, 3))
VGG19 = partial(VGG, (2, 2, 4, 4, 4))
