"""DenseNet (Huang et al., arXiv:1608.06993): every layer sees the feature maps of all earlier ones of its block."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from models.layers import batch_norm, conv2d, linear, relu
from models.names import notes
from models.network import Layer, Network


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution, each after its batch norm and ReLU; the result is appended to the input."""

    def __init__(self, in_channels: int, growth_rate: int, name: str) -> None:
        super().__init__()
        width = 4 * growth_rate
        self.norm1 = batch_norm(in_channels, f"{name}_x1_bn")
        self.conv1 = conv2d(in_channels, width, 1, name=f"{name}_x1")
        self.norm2 = batch_norm(width, f"{name}_x2_bn")
        self.conv2 = conv2d(width, growth_rate, 3, name=f"{name}_x2")
        self.relu = relu()

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu(self.norm1(x)))
        new = self.conv2(self.relu(self.norm2(new)))
        return torch.cat((x, new), 1)


def transition(in_channels: int, out_channels: int, name: str) -> nn.Sequential:
    """The transition between two blocks: reduces the channels and halves the size."""
    return nn.Sequential(
        OrderedDict(
            norm=batch_norm(in_channels, f"{name}_bn"),
            relu=relu(),
            conv=conv2d(in_channels, out_channels, 1, name=name),
            pool=nn.AvgPool2d(2, 2),
        )
    )


class DenseNet(Network):
    """Four dense blocks with transitions between them; the module paths are torchvision's.

    Args:
        growth_rate: channels that each layer adds.
        depths: layers per block.
        stem_width: channels of the first convolution.
        class_dim: number of classes.
    """

    def __init__(
        self, growth_rate: int, depths: tuple[int, int, int, int], stem_width: int, class_dim: int = 1000
    ) -> None:
        super().__init__()
        self.depths = depths
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=conv2d(3, stem_width, 7, 2, name="conv1"),
            norm0=batch_norm(stem_width, "conv1_bn"),
            relu0=relu(),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        channels = stem_width
        for number, depth in enumerate(depths, 1):
            name = f"conv{number + 1}"
            block = OrderedDict()
            for layer in range(1, depth + 1):
                block[f"denselayer{layer}"] = DenseLayer(channels, growth_rate, f"{name}_{layer}")
                channels += growth_rate
            layers[f"denseblock{number}"] = nn.Sequential(block)
            if number < len(depths):
                layers[f"transition{number}"] = transition(channels, channels // 2, f"{name}_blk")
                channels //= 2
        layers["norm5"] = batch_norm(channels, "conv5_blk_bn")
        layers["relu5"] = relu()
        self.features = nn.Sequential(layers)
        self.classifier = linear(channels, class_dim, "fc")

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's blocks are db_conv_2 ... db_conv_5, its transitions tr_conv2_blk ... tr_conv4_blk."""
        if path in ("features.norm5", "classifier"):
            return "batch_norm" if path == "features.norm5" else "out"
        name = notes(self.get_submodule(path)).published["weight"]
        leaf = "_batch_norm" if name.endswith("_bn_scale") else "_conv"
        name = name.removesuffix("_weights").removesuffix("_bn_scale")
        block, _, rest = name.partition("_")
        if not rest:
            return f"{name}_func.{leaf}"
        if rest == "blk":
            return f"tr_{name}.conv_ac_func.{leaf}"
        layer, part = rest.split("_x")
        return f"db_conv_{block.removeprefix('conv')}.{block}_{layer}.bn_ac_func{part}.{leaf}"

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: conv1, dense1, dense1_conv1, ..., dense6_concat and conv2 (a transition), ..."""
        if path == "classifier":
            return path
        module, _, rest = path.removeprefix("features.").partition(".")
        block = int(module[-1])
        before = sum(self.depths[: block - 1])
        if module.startswith("denseblock"):
            layer, part = rest.split(".")
            name = f"dense{before + int(layer.removeprefix('denselayer'))}"
            # In Caffe the second batch norm is named after the convolution before it.
            return name if part == "norm1" else f"{name}_{'conv2' if part == 'conv2' else 'conv1'}"
        if module.startswith("transition"):
            return f"dense{before + self.depths[block - 1]}_concat" if rest == "norm" else f"conv{block + 1}"
        return f"dense{sum(self.depths)}_concat" if module == "norm5" else "conv1"

    def trunk(self) -> list[Layer]:
        return [*self.features]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.forward_features(images))


DenseNet121 = partial(DenseNet, 32, (6, 12, 24, 16), 64)
DenseNet161 = partial(DenseNet, 48, (6, 12, 36, 24), 96)
DenseNet169 = partial(DenseNet, 32, (6, 12, 32, 32), 64)
DenseNet201 = partial(DenseNet, 32, (6, 12, 48, 32), 64)
DenseNet264 = partial(DenseNet, 32, (6, 12, 64, 48), 64)
