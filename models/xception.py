"""Xception (Chollet, arXiv:1610.02357) in the depths 41, 65 and 71.

As published here, a separable convolution is first pointwise, then depthwise, both with batch norm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import InputConfig
from models.layers import ConvBNAct, conv2d, linear, relu
from models.network import Layer, Network


class SeparableConv(nn.Sequential):
    """A 1x1 convolution, then a 3x3 depthwise one; published as NAME_sep and NAME_dw."""

    def __init__(
        self, in_channels: int, out_channels: int, name: str, activation: Callable[[], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.pointwise = ConvBNAct(in_channels, out_channels, 1, name=f"{name}_sep", bn_name=f"bn_{name}_sep")
        self.depthwise = ConvBNAct(
            out_channels,
            out_channels,
            3,
            groups=out_channels,
            name=f"{name}_dw",
            bn_name=f"bn_{name}_dw",
            activation=activation,
        )


class Block(nn.Module):
    """Separable convolutions, each after a ReLU, around a shortcut.

    Args:
        in_channels: channels of the input.
        widths: output channels of the convolutions.
        name: published name.
        stride: stride of the max-pool at the end and of the projecting shortcut; None: neither.
        rectify: False if the input comes from a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, ...],
        name: str,
        *,
        stride: int | None = None,
        rectify: bool = True,
    ) -> None:
        super().__init__()
        self.rectify = rectify
        self.shortcut: nn.Module = nn.Identity()
        self.pool: nn.Module = nn.Identity()
        if stride is not None:
            self.shortcut = conv2d(in_channels, widths[-1], 1, stride, name=f"{name}_branch1")
            self.pool = nn.MaxPool2d(3, stride, 1)
        self.convs = nn.ModuleList()
        for letter, width in zip("abc", widths, strict=False):
            self.convs.append(SeparableConv(in_channels, width, f"{name}_branch2{letter}_weights"))
            in_channels = width

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        for index, conv in enumerate(self.convs):
            x = conv(F.relu(x) if index or self.rectify else x)
        return shortcut + self.pool(x)


class Xception(Network):
    """Entry flow, middle flow and exit flow.

    Args:
        entry: (channels, stride) of the entry flow's blocks.
        middle_depth: blocks of the middle flow.
        class_dim: number of classes.
    """

    def __init__(self, entry: tuple[tuple[int, int], ...], middle_depth: int, class_dim: int = 1000) -> None:
        super().__init__()
        name = "entry_flow"
        self.conv1 = ConvBNAct(3, 32, 3, 2, name=f"{name}_conv1", bn_name=f"bn_{name}_conv1", activation=relu)
        self.conv2 = ConvBNAct(32, 64, 3, name=f"{name}_conv2", bn_name=f"bn_{name}_conv2", activation=relu)
        self.entry_flow = nn.Sequential()
        channels = 64
        for index, (width, stride) in enumerate(entry):
            block = Block(channels, (width, width), f"{name}_{index}", stride=stride, rectify=index > 0)
            self.entry_flow.append(block)
            channels = width
        self.middle_flow = nn.Sequential(
            *(Block(channels, (channels,) * 3, f"middle_flow_{index}") for index in range(middle_depth))
        )
        self.exit_flow = nn.Sequential(
            Block(channels, (728, 1024), "exit_flow_1", stride=2),
            SeparableConv(1024, 1536, "exit_flow_2", relu),
            SeparableConv(1536, 2048, "exit_flow_3", relu),
        )
        self.fc = linear(2048, class_dim, "fc")

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas puts the first convolutions into the entry flow, the classifier into the exit flow."""
        if path == "fc":
            return "_exit_flow._out"
        flow, *parts, leaf = path.split(".")
        leaf = {"conv": "_conv", "bn": "_batch_norm", "shortcut": "_short"}[leaf]
        if not parts:
            return f"_entry_flow._{flow}.{leaf}"
        block = f"_{flow}._conv_{parts[0]}"
        if leaf == "_short":
            return f"{block}.{leaf}"
        if "convs" in parts:
            prefix, first = {"entry_flow": ("_conv", 1), "middle_flow": ("_conv_", 0), "exit_flow": ("_conv_", 1)}[flow]
            block = f"{block}.{prefix}{first + int(parts[2])}"
        return f"{block}._{parts[-1]}_conv.{leaf}"

    def trunk(self) -> list[Layer]:
        return [self.conv1, self.conv2, *self.entry_flow, *self.middle_flow, *self.exit_flow]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


ENTRY_3 = ((128, 2), (256, 2), (728, 2))
ENTRY_5 = ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))

Xception41 = partial(Xception, ENTRY_3, 8)
Xception65 = partial(Xception, ENTRY_3, 16)
Xception71 = partial(Xception, ENTRY_5, 16)

INPUTS = {"*": InputConfig(299, 320)}
