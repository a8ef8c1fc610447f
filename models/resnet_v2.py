"""ResNet v2 (He et al., arXiv:1603.05027): batch norm and ReLU come before every convolution, not after it.

The stem keeps its batch norm and ReLU, so that the first block begins with its convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from models.inputs import BILINEAR, InputConfig, Normalisation
from models.layers import batch_norm, conv2d, global_average, linear, relu
from models.network import Layer, Network


class PreActBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, the identity or a projection of the activated input.

    Args:
        planes: a quarter of the output channels.
        project: the shortcut is a projection.
        activate: whether the block begins with batch norm and ReLU; if not, its input is already activated.
    """

    def __init__(
        self, in_channels: int, planes: int, stride: int = 1, *, project: bool = False, activate: bool = True
    ) -> None:
        super().__init__()
        self.bn1 = batch_norm(in_channels) if activate else None
        self.conv1 = conv2d(in_channels, planes, 1)
        self.bn2 = batch_norm(planes)
        self.conv2 = conv2d(planes, planes, 3, stride)
        self.bn3 = batch_norm(planes)
        self.conv3 = conv2d(planes, 4 * planes, 1)
        self.relu = relu()
        self.downsample = conv2d(in_channels, 4 * planes, 1, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        activated = x if self.bn1 is None else self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(activated)
        x = self.conv1(activated)
        x = self.conv2(self.relu(self.bn2(x)))
        return self.conv3(self.relu(self.bn3(x))) + shortcut


class ResNetV2(Network):
    """A pre-activation network of four stages, as published for Caffe.

    Args:
        depths: blocks per stage.
        class_dim: number of classes.
    """

    def __init__(self, depths: Sequence[int], class_dim: int = 1000) -> None:
        super().__init__()
        self.depths = tuple(depths)
        self.conv1 = conv2d(3, 64, 7, 2)
        self.bn1 = batch_norm(64)
        self.relu = relu()
        # Without padding and with sizes rounded up, so that the windows start at the image's corner.
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = 64
        for stage, depth in enumerate(self.depths):
            planes = 64 * 2**stage
            blocks = []
            for index in range(depth):
                first = index == 0
                stride = 2 if first and stage > 0 else 1
                blocks.append(
                    PreActBottleneck(channels, planes, stride, project=first, activate=not (first and stage == 0))
                )
                channels = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.norm = batch_norm(channels)
        self.fc = linear(channels, class_dim)

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: conv1, res1_conv1, res1_match_conv, res2, res2_conv1, ..., res33_eletwise."""
        if path in ("fc", "norm"):
            return "classifier" if path == "fc" else f"res{sum(self.depths)}_eletwise"
        stage, *rest = path.split(".")
        if not rest:
            return "conv1"
        index, part = rest
        name = f"res{sum(self.depths[: int(stage.removeprefix('layer')) - 1]) + int(index) + 1}"
        # Caffe names a batch norm after the layer whose output it takes; for the first that is the block's input.
        suffixes = {"bn1": "", "bn2": "_conv1", "bn3": "_conv2", "downsample": "_match_conv"}
        return name + suffixes.get(part, f"_{part}")

    def trunk(self) -> list[Layer]:
        stages = [self.get_submodule(f"layer{stage + 1}") for stage in range(len(self.depths))]
        return [self.conv1, self.bn1, self.relu, self.maxpool, *stages]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, 2048)."""
        return global_average(self.relu(self.norm(self.forward_trunk(images))))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


ResNet101_v2 = partial(ResNetV2, (3, 4, 23, 3))
ResNet152_v2 = partial(ResNetV2, (3, 8, 36, 3))
ResNet269_v2 = partial(ResNetV2, (3, 30, 48, 8))


# Caffe's pixels are 0 to 255, minus these means.
CAFFE_MEANS = Normalisation((122.7717 / 255, 115.9465 / 255, 102.9801 / 255), (1 / 255, 1 / 255, 1 / 255))

INPUTS = {"*": InputConfig(224, 256, BILINEAR, *CAFFE_MEANS)}
