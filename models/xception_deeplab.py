"""Xception as DeepLab's backbone (Chen et al., arXiv:1802.02611): strided convolutions instead of max-pools.

The published names and the settings of the batch norms are TensorFlow's; their scales and offsets have no L2 decay.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import InputConfig
from models.layers import ConvBNAct, Dropout, linear, relu
from models.names import override_l2_decay, publish
from models.network import Layer, Network
from models.xception import ENTRY_3, ENTRY_5


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, name: str, *, rectify: bool = False, **options
) -> ConvBNAct:
    """A convolution, batch norm and, if `rectify`, ReLU; published as NAME/weights, NAME/BatchNorm/gamma, ..."""
    options |= {"activation": relu if rectify else None, "momentum": 0.99, "epsilon": 1e-3}
    layer = ConvBNAct(in_channels, out_channels, kernel_size, stride, **options)
    publish(layer.conv, weight=f"{name}/weights")
    publish(
        layer.bn,
        weight=f"{name}/BatchNorm/gamma",
        bias=f"{name}/BatchNorm/beta",
        running_mean=f"{name}/BatchNorm/moving_mean",
        running_var=f"{name}/BatchNorm/moving_variance",
    )
    override_l2_decay(layer.bn, weight=0.0, bias=0.0)
    return layer


class SeparableConv(nn.Sequential):
    """A 3x3 depthwise convolution, then a 1x1 one; if `rectify`, a ReLU follows each."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        name: str,
        *,
        stride: int = 1,
        dilation: int = 1,
        rectify: bool = False,
    ) -> None:
        super().__init__()
        self.depthwise = conv_bn(
            in_channels,
            in_channels,
            3,
            stride,
            f"{name}/depthwise",
            rectify=rectify,
            groups=in_channels,
            dilation=dilation,
        )
        self.pointwise = conv_bn(in_channels, out_channels, 1, 1, f"{name}/pointwise", rectify=rectify)


class Block(nn.Module):
    """Three separable convolutions, each after a ReLU, around a shortcut.

    Args:
        in_channels: channels of the input.
        widths: output channels of the convolutions.
        name: published name.
        stride: stride of the last convolution and of the projecting shortcut; None: neither.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int], name: str, *, stride: int | None = None) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if stride is not None:
            self.shortcut = conv_bn(in_channels, widths[-1], 1, stride, f"{name}/shortcut")
        self.convs = nn.ModuleList()
        strides = (1, 1, stride or 1)
        for number, (width, step) in enumerate(zip(widths, strides, strict=True), 1):
            self.convs.append(SeparableConv(in_channels, width, f"{name}/separable_conv{number}", stride=step))
            in_channels = width

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        for conv in self.convs:
            x = conv(F.relu(x))
        return shortcut + x


class XceptionDeeplab(Network):
    """Entry flow, middle flow and exit flow.

    Args:
        entry: (channels, stride) of the entry flow's blocks.
        middle_depth: blocks of the middle flow.
        scope: first part of the published names.
        class_dim: number of classes.
    """

    def __init__(
        self, entry: tuple[tuple[int, int], ...], middle_depth: int, scope: str, class_dim: int = 1000
    ) -> None:
        super().__init__()
        self.scope = scope
        self.conv1 = conv_bn(3, 32, 3, 2, f"{scope}/entry_flow/conv1", rectify=True)
        self.conv2 = conv_bn(32, 64, 3, 1, f"{scope}/entry_flow/conv2", rectify=True)
        self.entry_flow = nn.Sequential()
        channels = 64
        for number, (width, stride) in enumerate(entry, 1):
            self.entry_flow.append(
                Block(channels, (width, width, width), f"{scope}/entry_flow/block{number}", stride=stride)
            )
            channels = width
        self.middle_flow = nn.Sequential(
            *(
                Block(channels, (channels, channels, channels), f"{scope}/middle_flow/block{number}")
                for number in range(1, middle_depth + 1)
            )
        )
        name = f"{scope}/exit_flow/block2/separable_conv"
        self.exit_flow = nn.Sequential(
            Block(channels, (728, 1024, 1024), f"{scope}/exit_flow/block1", stride=2),
            nn.Sequential(
                SeparableConv(1024, 1536, f"{name}1", dilation=2, rectify=True),
                SeparableConv(1536, 1536, f"{name}2", dilation=2, rectify=True),
                SeparableConv(1536, 2048, f"{name}3", dilation=2, rectify=True),
            ),
        )
        self.dropout = Dropout(0.5)
        self.fc = linear(2048, class_dim)
        publish(self.fc, weight="fc_weights", bias="fc_bias")

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's blocks are SCOPE/entry_flow/block1, ..., SCOPE/middle_flow/block1, ... and _exit_flow_1, 2."""
        flow, *parts = path.split(".")
        if not flow.endswith("flow"):
            return f"_{'._'.join((flow, *parts))}"
        block, *convs, conv, leaf = parts
        block = int(block) + 1
        block = f"_exit_flow_{block}" if flow == "exit_flow" else f"{self.scope}/{flow}/block{block}"
        if conv == "shortcut":
            return f"{block}._short._{leaf}"
        return f"{block}._conv{int(convs[-1]) + 1}._{leaf}{1 if conv == 'depthwise' else 2}"

    def trunk(self) -> list[Layer]:
        return [self.conv1, self.conv2, *self.entry_flow, *self.middle_flow, *self.exit_flow]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.dropout(self.forward_features(images)))


Xception41_deeplab = partial(XceptionDeeplab, ENTRY_3, 8, "xception_41")
Xception65_deeplab = partial(XceptionDeeplab, ENTRY_3, 16, "xception_65")
Xception71_deeplab = partial(XceptionDeeplab, ENTRY_5, 16, "xception_71")

INPUTS = {"*": InputConfig(299, 320)}
