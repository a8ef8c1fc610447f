"""Layers that the networks share: convolutions, batch norms and linear layers that know their published names,
dropout, squeeze-and-excitation, drop path, activations, pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import Initializer, he_normal_, uniform_fan_in_
from models.names import publish_batch_norm, publish_conv

DOWNGRADE_IN_INFER = "downgrade_in_infer"
UPSCALE_IN_TRAIN = "upscale_in_train"


class SameConv2d(nn.Conv2d):
    """A convolution padded as in TensorFlow: ceil(size / stride) outputs; an odd row of zeros goes to the end.

    The padding depends on the input's size, so it is not a fixed argument of PyTorch's convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for axis in (1, 0):
            total = self.kernel_size[axis] - 1 - (x.shape[2 + axis] - 1) % self.stride[axis]
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    *,
    padding: int | tuple[int, int] | Literal["same"] | None = None,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
    name: str | None = None,
    init: Initializer | None = None,
) -> nn.Conv2d:
    """A convolution with its published initializer and name.

    Args:
        padding: None: half of the (dilated) kernel, which keeps the size at stride 1; "same" differs from that for
            larger strides and even kernels, see `SameConv2d`.
        name: published as NAME_weights and NAME_offset; None: named automatically.
        init: initializer of the weight, None for fluid's default, `he_normal_` over all input channels. A bias
            starts at 0.
    """
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    even = any(size % 2 == 0 for size in kernel)
    kind = SameConv2d if padding == "same" and (stride != 1 or even) else nn.Conv2d
    if kind is SameConv2d:
        sides = 0
    elif padding is None or padding == "same":
        sides = dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2
    else:
        sides = padding
    conv = kind(in_channels, out_channels, kernel, stride, sides, dilation, groups, bias)
    with torch.no_grad():
        he_normal_(conv.weight, in_channels) if init is None else init(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    if name is not None:
        publish_conv(conv, name)
    return conv


def batch_norm(
    channels: int, name: str | None = None, *, momentum: float = 0.9, epsilon: float = 1e-5
) -> nn.BatchNorm2d:
    """A batch norm with its published name.

    Args:
        name: published as NAME_scale, NAME_offset, NAME_mean, NAME_variance; None: named automatically.
        momentum: fluid's momentum, the weight of the old running statistics (1 - momentum in PyTorch).
    """
    bn = nn.BatchNorm2d(channels, eps=epsilon, momentum=1.0 - momentum)
    if name is not None:
        publish_batch_norm(bn, name)
    return bn


def linear(
    in_features: int,
    out_features: int,
    name: str | None = None,
    *,
    init: Initializer = uniform_fan_in_,
) -> nn.Linear:
    """A linear layer with its published initializer (bias 0) and name (NAME_weights, NAME_offset)."""
    fc = nn.Linear(in_features, out_features)
    with torch.no_grad():
        init(fc.weight)
        nn.init.zeros_(fc.bias)
    if name is not None:
        publish_conv(fc, name)
    return fc


class ConvBNAct(nn.Sequential):
    """Convolution, batch norm and optional activation, in a `Sequential` of `conv`, `bn` and `act`.

    Args:
        name: published name of the convolution.
        bn_name: published name of the batch norm; None: NAME_bn.
        activation: builds the activation; None: no activation.
        momentum, epsilon: of the batch norm, as in `batch_norm`.
        conv_options: passed on to `conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        *,
        name: str | None = None,
        bn_name: str | None = None,
        activation: Callable[[], nn.Module] | None = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **conv_options,
    ) -> None:
        super().__init__()
        if bn_name is None and name is not None:
            bn_name = f"{name}_bn"
        self.conv = conv2d(in_channels, out_channels, kernel_size, stride, name=name, **conv_options)
        self.bn = batch_norm(out_channels, bn_name, momentum=momentum, epsilon=epsilon)
        if activation is not None:
            self.act = activation()


def relu() -> nn.ReLU:
    """The in-place ReLU that follows nearly every batch norm of the zoo."""
    return nn.ReLU(inplace=True)


def swish() -> nn.SiLU:
    """x sigmoid(x), in place."""
    return nn.SiLU(inplace=True)


def relu6() -> nn.ReLU6:
    """min(max(x, 0), 6), in place."""
    return nn.ReLU6(inplace=True)


def hard_swish() -> nn.Hardswish:
    """x min(max(x + 3, 0), 6) / 6, in place."""
    return nn.Hardswish(inplace=True)


class Dropout(nn.Module):
    """Dropout in one of fluid's two conventions.

    `upscale_in_train`, PyTorch's own, divides the kept values by 1 - p in training and does nothing in evaluation.
    `downgrade_in_infer`, fluid's default, with which most of the zoo was trained, leaves the kept values unchanged in
    training and multiplies by 1 - p in evaluation. A network's weights need the convention of their training.
    """

    def __init__(self, p: float, mode: str = DOWNGRADE_IN_INFER) -> None:
        super().__init__()
        self.p = p
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.p, self.training)
        return x if self.mode == UPSCALE_IN_TRAIN else x * (1.0 - self.p)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Stores the convention in the state dict's metadata, so that `torch.save` saves it with the weights."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None:
            metadata[prefix[:-1]]["dropout"] = self.mode

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode}"


class SqueezeExcitation(nn.Module):
    """Channel attention (Hu et al., arXiv:1709.01507): pool, two linear layers, a gate per channel.

    Args:
        channels: channels of the input, (N, C, H, W).
        squeezed: width between the two linear layers.
        name: published as NAME_sqz and NAME_exc.
        gate: maps the second layer's output to 0..1.
    """

    def __init__(
        self, channels: int, squeezed: int, name: str | None = None, *, gate: Callable[[Tensor], Tensor] = torch.sigmoid
    ) -> None:
        super().__init__()
        self.fc1 = linear(channels, squeezed, None if name is None else f"{name}_sqz")
        self.fc2 = linear(squeezed, channels, None if name is None else f"{name}_exc")
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(self.fc2(F.relu(self.fc1(global_average(x)))))
        return x * weights[:, :, None, None]


class ConvSqueezeExcitation(nn.Module):
    """`SqueezeExcitation` as mobile networks publish it, with 1x1 convolutions; the module paths are torchvision's.

    Args:
        channels: channels of the input, (N, C, H, W).
        squeezed: width between the two convolutions.
        names: published names of the two convolutions.
        activation: follows the first convolution.
        gate: maps the second convolution's output to 0..1.
        init: initializer of the weights, as in `conv2d`.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        names: tuple[str | None, str | None] = (None, None),
        *,
        activation: Callable[[Tensor], Tensor] = F.relu,
        gate: Callable[[Tensor], Tensor] = torch.sigmoid,
        init: Initializer | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = conv2d(channels, squeezed, 1, bias=True, name=names[0], init=init)
        self.fc2 = conv2d(squeezed, channels, 1, bias=True, name=names[1], init=init)
        self.activation = activation
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.activation(self.fc1(x.mean((2, 3), keepdim=True)))))


class DropPath(nn.Module):
    """Drops a residual branch for individual images of a training batch, with probability `p` (arXiv:1603.09382).

    The kept branches are divided by 1 - p. EfficientNet calls this drop connect.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1.0 - self.p)
        return x * (kept / (1.0 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def hard_sigmoid(x: Tensor) -> Tensor:
    """clamp(0.2 x + 0.5, 0, 1), with fluid's slope; PyTorch's is 1/6."""
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


def make_divisible(width: float, divisor: int = 8) -> int:
    """Rounds a scaled number of channels to a multiple of `divisor`, losing at most a tenth (arXiv:1801.04381)."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def global_average(x: Tensor) -> Tensor:
    """Mean over the positions of a feature map: (N, C, H, W) -> (N, C)."""
    return x.mean((2, 3))
