"""Inception V4 (Szegedy et al., arXiv:1602.07261)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.inputs import AROUND_128, BILINEAR, InputConfig
from models.layers import ConvBNAct, Dropout, linear, relu
from models.names import notes
from models.network import Layer, Network


def conv(
    in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], name: str, *, stride: int = 1, **options
) -> ConvBNAct:
    """A convolution with its batch norm and ReLU, published as NAME and NAME_bn."""
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, name=name, activation=relu, **options)


# Published names of kernels that are not square.
LABELS = {(1, 7): "1x7", (7, 1): "7x1", (1, 3): "1x3", (3, 1): "3x1"}


def average_pool(fluid: bool) -> nn.AvgPool2d:
    """The average pool of an inception module; positions outside the map count as zeros, except in fluid's form."""
    return nn.AvgPool2d(3, 1, 1, count_include_pad=not fluid)


class Mixed(nn.Module):
    """A module of several branches, whose results are concatenated.

    Args:
        fluid: as in `InceptionV4`; the pooling branch then comes first, otherwise last.
    """

    def __init__(self, fluid: bool) -> None:
        super().__init__()
        self.pool_first = fluid

    def join(self, pooled: Tensor, *others: Tensor) -> Tensor:
        """The channels of all branches."""
        return torch.cat((pooled, *others) if self.pool_first else (*others, pooled), 1)


class Stem(nn.Module):
    """Figure 3 of the paper: 3 channels to 384, about an eighth of the size."""

    def __init__(self, fluid: bool) -> None:
        super().__init__()
        name = "inception_stem"
        self.conv_1 = conv(3, 32, 3, "conv1_3x3_s2", stride=2, padding=0)
        self.conv_2 = conv(32, 32, 3, "conv2_3x3_s1", padding=0)
        self.conv_3 = conv(32, 64, 3, "conv3_3x3_s1")
        self.pool = nn.MaxPool2d(3, 2)
        self.conv2 = conv(64, 96, 3, f"{name}1_3x3_s2", stride=2, padding=0)
        self.conv1_1 = conv(160, 64, 1, f"{name}2_3x3_reduce")
        self.conv1_2 = conv(64, 96, 3, f"{name}2_3x3", padding=0)
        self.conv2_1 = conv(160, 64, 1, f"{name}2_1x7_reduce")
        self.conv2_2 = conv(64, 64, (7, 1) if fluid else (1, 7), f"{name}2_1x7")
        self.conv2_3 = conv(64, 64, (1, 7) if fluid else (7, 1), f"{name}2_7x1")
        self.conv2_4 = conv(64, 96, 3, f"{name}2_3x3_2", padding=0)
        self.conv3 = conv(192, 192, 3, f"{name}3_3x3_s2", stride=2, padding=0)

    def first_half(self, images: Tensor) -> Tensor:
        """3 channels to 160, about a quarter of the size."""
        x = self.conv_3(self.conv_2(self.conv_1(images)))
        return torch.cat((self.pool(x), self.conv2(x)), 1)

    def second_half(self, x: Tensor) -> Tensor:
        """160 channels to 384, about half of the size."""
        short = self.conv1_2(self.conv1_1(x))
        long = self.conv2_4(self.conv2_3(self.conv2_2(self.conv2_1(x))))
        x = torch.cat((short, long), 1)
        return torch.cat((self.conv3(x), self.pool(x)), 1)


class InceptionA(Mixed):
    """Figure 4: 384 channels, 35 x 35."""

    def __init__(self, name: str, fluid: bool) -> None:
        super().__init__(fluid)
        self.pool = average_pool(fluid)
        self.conv1 = conv(384, 96, 1, f"{name}_1x1")
        self.conv2 = conv(384, 96, 1, f"{name}_1x1_2")
        self.conv3_1 = conv(384, 64, 1, f"{name}_3x3_reduce")
        self.conv3_2 = conv(64, 96, 3, f"{name}_3x3")
        self.conv4_1 = conv(384, 64, 1, f"{name}_3x3_2_reduce")
        self.conv4_2 = conv(64, 96, 3, f"{name}_3x3_2")
        self.conv4_3 = conv(96, 96, 3, f"{name}_3x3_3")

    def forward(self, x: Tensor) -> Tensor:
        branch1 = self.conv1(self.pool(x))
        branch2 = self.conv2(x)
        branch3 = self.conv3_2(self.conv3_1(x))
        branch4 = self.conv4_3(self.conv4_2(self.conv4_1(x)))
        return self.join(branch1, branch2, branch3, branch4)


class ReductionA(Mixed):
    """Figure 7: 384 channels, 35 x 35 -> 1,024 channels, 17 x 17."""

    def __init__(self, fluid: bool) -> None:
        super().__init__(fluid)
        name = "reduction_a"
        self.pool = nn.MaxPool2d(3, 2)
        self.conv2 = conv(384, 384, 3, f"{name}_3x3", stride=2, padding=0)
        self.conv3_1 = conv(384, 192, 1, f"{name}_3x3_2_reduce")
        self.conv3_2 = conv(192, 224, 3, f"{name}_3x3_2")
        self.conv3_3 = conv(224, 256, 3, f"{name}_3x3_3", stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        branch3 = self.conv3_3(self.conv3_2(self.conv3_1(x)))
        return self.join(self.pool(x), self.conv2(x), branch3)


class InceptionB(Mixed):
    """Figure 5: 1,024 channels, 17 x 17."""

    def __init__(self, name: str, fluid: bool) -> None:
        super().__init__(fluid)
        first, second = ((1, 7), (7, 1)) if fluid else ((7, 1), (1, 7))
        self.pool = average_pool(fluid)
        self.conv1 = conv(1024, 128, 1, f"{name}_1x1")
        self.conv2 = conv(1024, 384, 1, f"{name}_1x1_2")
        self.conv3_1 = conv(1024, 192, 1, f"{name}_1x7_reduce")
        self.conv3_2 = conv(192, 224, (1, 7), f"{name}_1x7")
        self.conv3_3 = conv(224, 256, (7, 1), f"{name}_7x1")
        self.conv4_1 = conv(1024, 192, 1, f"{name}_7x1_2_reduce")
        self.conv4_2 = conv(192, 192, first, f"{name}_{LABELS[first]}_2")
        self.conv4_3 = conv(192, 224, second, f"{name}_{LABELS[second]}_2")
        self.conv4_4 = conv(224, 224, first, f"{name}_{LABELS[first]}_3")
        self.conv4_5 = conv(224, 256, second, f"{name}_{LABELS[second]}_3")

    def forward(self, x: Tensor) -> Tensor:
        branch1 = self.conv1(self.pool(x))
        branch2 = self.conv2(x)
        branch3 = self.conv3_3(self.conv3_2(self.conv3_1(x)))
        branch4 = self.conv4_5(self.conv4_4(self.conv4_3(self.conv4_2(self.conv4_1(x)))))
        return self.join(branch1, branch2, branch3, branch4)


class ReductionB(Mixed):
    """Figure 8: 1,024 channels, 17 x 17 -> 1,536 channels, 8 x 8."""

    def __init__(self, fluid: bool) -> None:
        super().__init__(fluid)
        name = "reduction_b"
        self.pool = nn.MaxPool2d(3, 2)
        self.conv2_1 = conv(1024, 192, 1, f"{name}_3x3_reduce")
        self.conv2_2 = conv(192, 192, 3, f"{name}_3x3", stride=2, padding=0)
        self.conv3_1 = conv(1024, 256, 1, f"{name}_1x7_reduce")
        self.conv3_2 = conv(256, 256, (1, 7), f"{name}_1x7")
        self.conv3_3 = conv(256, 320, (7, 1), f"{name}_7x1")
        self.conv3_4 = conv(320, 320, 3, f"{name}_3x3_2", stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        branch2 = self.conv2_2(self.conv2_1(x))
        branch3 = self.conv3_4(self.conv3_3(self.conv3_2(self.conv3_1(x))))
        return self.join(self.pool(x), branch2, branch3)


class InceptionC(Mixed):
    """Figure 6: 1,536 channels, 8 x 8."""

    def __init__(self, name: str, fluid: bool) -> None:
        super().__init__(fluid)
        first, second = ((1, 3), (3, 1)) if fluid else ((3, 1), (1, 3))
        self.pool = average_pool(fluid)
        self.conv1 = conv(1536, 256, 1, f"{name}_1x1")
        self.conv2 = conv(1536, 256, 1, f"{name}_1x1_2")
        self.conv3_0 = conv(1536, 384, 1, f"{name}_1x1_3")
        self.conv3_1 = conv(384, 256, (1, 3), f"{name}_1x3")
        self.conv3_2 = conv(384, 256, (3, 1), f"{name}_3x1")
        self.conv4_0 = conv(1536, 384, 1, f"{name}_1x1_4")
        self.conv4_00 = conv(384, 448, first, f"{name}_{LABELS[first]}_2")
        self.conv4_000 = conv(448, 512, second, f"{name}_{LABELS[second]}_2")
        self.conv4_1 = conv(512, 256, (1, 3), f"{name}_1x3_3")
        self.conv4_2 = conv(512, 256, (3, 1), f"{name}_3x1_3")

    def forward(self, x: Tensor) -> Tensor:
        branch1 = self.conv1(self.pool(x))
        branch2 = self.conv2(x)
        stem3 = self.conv3_0(x)
        stem4 = self.conv4_000(self.conv4_00(self.conv4_0(x)))
        branch3 = self.conv3_1(stem3), self.conv3_2(stem3)
        branch4 = self.conv4_1(stem4), self.conv4_2(stem4)
        return self.join(branch1, branch2, *branch3, *branch4)


class InceptionV4(Network):
    """Inception V4; the convolutions of a module have PaddleClas's names.

    Args:
        class_dim: number of classes.
        fluid: whether it has the form of fluid's zoo, which departs from the authors' network: consecutive 1 x n and
            n x 1 kernels in the stem and in the longest branches are swapped; the pooling branches come first; and
            their averages do not count positions outside the map.
        epsilon: of the batch norms.
    """

    def __init__(self, class_dim: int = 1000, *, fluid: bool = True, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.stem = Stem(fluid)
        self.inception_a = nn.Sequential(*(InceptionA(f"inception_a{number}", fluid) for number in range(1, 5)))
        self.reduction_a = ReductionA(fluid)
        self.inception_b = nn.Sequential(*(InceptionB(f"inception_b{number}", fluid) for number in range(1, 8)))
        self.reduction_b = ReductionB(fluid)
        self.inception_c = nn.Sequential(*(InceptionC(f"inception_c{number}", fluid) for number in range(1, 4)))
        self.dropout = Dropout(0.2)
        self.fc = linear(1536, class_dim, "final_fc")
        # Unlike the other networks' classifiers, this one does not start with zero biases.
        nn.init.uniform_(self.fc.bias, -(1536**-0.5), 1536**-0.5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = epsilon

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's modules are _inception_stem, _inceptionA_1, _reductionA, ...; their parts begin with _ too."""
        if path == "fc":
            return "out"
        module, *parts = path.split(".")
        if module == "stem":
            module = "inception_stem"
        else:
            kind, letter = module.split("_")
            module = kind + letter.upper()
            if kind == "inception":
                module += f"_{int(parts.pop(0)) + 1}"
        convolution, leaf = parts
        return f"_{module}._{convolution}.{'_conv' if leaf == 'conv' else '_batch_norm'}"

    def trunk(self) -> list[Layer]:
        return [
            *(self.stem.first_half, self.stem.second_half, self.inception_a),
            *(self.reduction_a, self.inception_b, self.reduction_b, self.inception_c),
        ]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


class CaffeInceptionV4(InceptionV4):
    """Inception V4 as published for Caffe."""

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: conv1_3x3_s2, ..., inception_a1_1x1, ...: the published names."""
        if path == "fc":
            return "classifier"
        conv = self.get_submodule(path.rpartition(".")[0]).get_submodule("conv")
        return notes(conv).published["weight"].removesuffix("_weights")


InceptionV4_caffe = partial(CaffeInceptionV4, fluid=False, epsilon=1e-3)

INPUTS = {
    "*_caffe": InputConfig(299, 320, BILINEAR, *AROUND_128),
    "*": InputConfig(299, 320),
}
