"""RedNet: a ResNet whose 3x3 convolutions are involutions (Li et al., arXiv:2103.06255)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import fan_out_normal_
from models.layers import ConvBNAct, batch_norm, conv2d, linear, relu
from models.network import Layer, Network
from models.transformer import check_image_size

GROUP_CHANNELS = 16


class Involution(nn.Module):
    """Applies to every position a kernel computed from the values there; groups of 16 channels share one.

    Args:
        kernel_size: size of these kernels.
        stride: at stride 2 the kernels come from a pooled input, so that there is one for each output.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.groups = channels // GROUP_CHANNELS
        self.pool = nn.AvgPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.conv1 = ConvBNAct(channels, channels // 4, 1, activation=relu, init=fan_out_normal_)
        self.conv2 = conv2d(channels // 4, kernel_size**2 * self.groups, 1, bias=True, init=fan_out_normal_)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.conv2(self.conv1(self.pool(x)))
        height, width = kernels.shape[2:]
        kernels = kernels.unflatten(1, (self.groups, 1, self.kernel_size**2))
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)
        patches = patches.view(-1, self.groups, GROUP_CHANNELS, self.kernel_size**2, height, width)
        return (kernels * patches).sum(3).flatten(1, 2)


class Bottleneck(nn.Module):
    """A 1x1 convolution, a 7x7 involution and a 1x1 convolution with a shortcut, projected in a stage's first block."""

    def __init__(self, in_channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = conv2d(in_channels, width, 1, init=fan_out_normal_)
        self.bn1 = batch_norm(width)
        self.conv2 = Involution(width, 7, stride)
        self.bn2 = batch_norm(width)
        self.conv3 = conv2d(width, out_channels, 1, init=fan_out_normal_)
        self.bn3 = batch_norm(out_channels)
        self.downsample = nn.Sequential()
        if project:
            self.downsample = nn.Sequential(
                conv2d(in_channels, out_channels, 1, stride, init=fan_out_normal_), batch_norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class RedNet(Network):
    """RedNet; the module paths are those of the paper's authors.

    Args:
        depths: blocks of each of the four stages.
        class_dim: number of classes.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, depths: Sequence[int], class_dim: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBNAct(3, 32, 3, 2, activation=relu, init=fan_out_normal_),
            Involution(32, 3),
            batch_norm(32),
            relu(),
            ConvBNAct(32, 64, 3, activation=relu, init=fan_out_normal_),
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, depth in enumerate(depths, 1):
            width = 32 * 2**stage
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(Bottleneck(channels, width, stride, project=index == 0))
                channels = 4 * width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = linear(channels, class_dim)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: conv2.conv within an involution."""
        return f"{path}.conv" if path.endswith(("conv2.conv2", "stem.1.conv2")) else path

    def trunk(self) -> list[Layer]:
        return [self.checked, self.stem, self.maxpool, self.layer1, self.layer2, self.layer3, self.layer4]

    @staticmethod
    def checked(images: Tensor) -> Tensor:
        """Checks the images: an involution of stride 2 takes kernels from 2 x 2 averages, so the map must be even."""
        for size in images.shape[2:]:
            check_image_size(size, 32, "RedNet")
        return images

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


RedNet26 = partial(RedNet, (1, 2, 4, 1))
RedNet38 = partial(RedNet, (2, 3, 5, 2))
RedNet50 = partial(RedNet, (3, 4, 6, 3))
RedNet101 = partial(RedNet, (3, 4, 23, 3))
RedNet152 = partial(RedNet, (3, 8, 36, 3))
