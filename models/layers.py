"""What the networks share: layers that know their published names, initializers, dropout, pooling.

A network is published as a set of named PaddlePaddle variables (`res2a_branch2a_weights`, `bn2a_branch2a_scale`, ...).
Each layer is told its names where it is built, through the `name` arguments below or through `publish`; the
weight readers ask `published_names` for them. A layer that is told nothing has the name that PaddlePaddle's fluid
would have made up for it: `conv2d_0.w_0`, `batch_norm_3.w_1`, `fc_0.b_0`, numbered in construction order.

PaddleClas, the zoo's successor, publishes its weights under the paths of its own modules; a network whose paths here
read otherwise has a method `paddleclas_path` with the rule. What its files hold and the network here computes, has
names that match an attribute `paddleclas_computed`. Where these weights are right under another convention of dropout
than the network's, the network has an attribute `paddleclas_dropout`. A network that was published for Caffe has a
method `caffe_layer`, from the path of a convolution, a batch-norm or a linear layer here to its layer there.

Where PyTorch's files hold layers that only training needs and the network here leaves out, their names match an
attribute `auxiliary_weights`. Two networks whose weights have the same names are told apart by `forms`: see
`models.hrnet.HRNet`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Initializer = Callable[[Tensor], Tensor]

DOWNGRADE_IN_INFER = "downgrade_in_infer"
UPSCALE_IN_TRAIN = "upscale_in_train"

# Fluid's automatic name of a layer, and the suffix of each of its tensors.
_AUTOMATIC_NAMES = {
    nn.Conv2d: ("conv2d", {"weight": "w_0", "bias": "b_0"}),
    nn.BatchNorm2d: ("batch_norm", {"weight": "w_0", "bias": "b_0", "running_mean": "w_1", "running_var": "w_2"}),
    nn.Linear: ("fc", {"weight": "w_0", "bias": "b_0"}),
}


# ---------------------------------------------------------------------------------------------- published names


def publish(module: nn.Module, **names: str) -> None:
    """Tells a layer the published variable names of its tensors, as in `publish(fc, weight="fc_weights")`."""
    module.published = names


def publish_conv(conv: nn.Module, name: str) -> None:
    """Names a convolution or linear layer the usual way: NAME_weights, NAME_offset."""
    publish(conv, weight=f"{name}_weights", bias=f"{name}_offset")


def publish_batch_norm(bn: nn.Module, name: str) -> None:
    """Names a batch-norm the usual way: NAME_scale, NAME_offset, NAME_mean, NAME_variance."""
    publish(
        bn,
        weight=f"{name}_scale",
        bias=f"{name}_offset",
        running_mean=f"{name}_mean",
        running_var=f"{name}_variance",
    )


def _own_tensors(module: nn.Module) -> Iterator[str]:
    """Names of the tensors that a layer itself keeps in the state dict, but for PyTorch's batch counter."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter is not None:
            yield name
    for name, buffer in module.named_buffers(recurse=False):
        if buffer is not None and name not in module._non_persistent_buffers_set and name != "num_batches_tracked":
            yield name


def published_names(model: nn.Module) -> dict[str, str]:
    """State-dict key -> published fluid variable name, for every tensor of `model`, in construction order.

    A layer that fluid counted as another type, such as depthwise_conv2d, says so in an attribute `fluid_type`.

    Raises:
        ValueError: a layer has neither a published name nor an automatic one.
    """
    names: dict[str, str] = {}
    built: dict[str, int] = {}
    for path, module in model.named_modules():
        told = getattr(module, "published", {})
        stem, suffixes = next((v for kind, v in _AUTOMATIC_NAMES.items() if isinstance(module, kind)), ("", {}))
        stem = getattr(module, "fluid_type", stem)
        number = built.get(stem, 0)
        built[stem] = number + 1
        for tensor in _own_tensors(module):
            key = f"{path}.{tensor}" if path else tensor
            if tensor in told:
                names[key] = told[tensor]
            elif tensor in suffixes:
                names[key] = f"{stem}_{number}.{suffixes[tensor]}"
            else:
                raise ValueError(f"{type(model).__name__}: {key} has no published name")
    return names


def paddleclas_names(model: nn.Module) -> dict[str, str]:
    """State-dict key -> name in PaddleClas's .pdparams, for every tensor of `model`."""
    path_rule = getattr(model, "paddleclas_path", lambda path: path)
    leaves = {"running_mean": "_mean", "running_var": "_variance"}
    names = {}
    for path, module in model.named_modules():
        for tensor in _own_tensors(module):
            key = f"{path}.{tensor}" if path else tensor
            leaf = leaves.get(tensor, tensor)
            names[key] = f"{path_rule(path)}.{leaf}" if path else leaf
    return names


def caffe_names(model: nn.Module) -> dict[str, str]:
    """State-dict key -> name in a .caffemodel, LAYER/BLOB, for every tensor of `model`.

    Caffe splits a batch-norm into two layers: LAYER_bn has the running statistics, LAYER_scale the weight and bias.

    Raises:
        ValueError: the network was never published for Caffe: it has no method `caffe_layer`.
    """
    if not hasattr(model, "caffe_layer"):
        raise ValueError(f"{type(model).__name__} has no names in Caffe")
    blobs = {"weight": "/0", "bias": "/1"}
    batch_norm_blobs = {"running_mean": "_bn/0", "running_var": "_bn/1", "weight": "_scale/0", "bias": "_scale/1"}
    names = {}
    for path, module in model.named_modules():
        suffixes = batch_norm_blobs if isinstance(module, nn.BatchNorm2d) else blobs
        for tensor in _own_tensors(module):
            names[f"{path}.{tensor}"] = model.caffe_layer(path) + suffixes[tensor]
    return names


# ---------------------------------------------------------------------------------------------------- L2 decay


def override_l2_decay(module: nn.Module, **coefficients: float) -> None:
    """Tells a layer the L2 decay of those of its parameters that are published not to follow --l2_decay.

    As in `override_l2_decay(bn, weight=0.0, bias=0.0)`.
    """
    module.l2_decay = coefficients


def l2_overrides(model: nn.Module) -> dict[str, float]:
    """State-dict key -> L2 decay, for the parameters of `model` that have one of their own."""
    return {
        f"{path}.{parameter}" if path else parameter: coefficient
        for path, module in model.named_modules()
        for parameter, coefficient in getattr(module, "l2_decay", {}).items()
    }


def override_batch_norm_decay(model: nn.Module) -> None:
    """Tells all batch-norms of `model` that they are published to be trained without L2 decay."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            override_l2_decay(module, weight=0.0, bias=0.0)


# ------------------------------------------------------------------------------------------------- initializers


def he_normal_(weight: Tensor, in_channels: int | None = None) -> Tensor:
    """Normal(0, sqrt(2 / (kh kw in_channels))), fluid's default for convolutions.

    Unlike `nn.init.kaiming_normal_`, grouped convolutions count all input channels, not those of one group.
    """
    channels = weight.shape[1] if in_channels is None else in_channels
    return nn.init.normal_(weight, 0.0, math.sqrt(2.0 / (channels * math.prod(weight.shape[2:]))))


def he_uniform_(weight: Tensor) -> Tensor:
    """Uniform(+-sqrt(6 / fan_in)): "MSRA" in fluid (He et al., arXiv:1502.01852); fan_in is of one group."""
    return nn.init.kaiming_uniform_(weight, nonlinearity="relu")


def fan_out_normal_(weight: Tensor) -> Tensor:
    """Normal(0, sqrt(2 / (kh kw out_channels))), the usual one outside the zoo; groups do not count."""
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def small_normal_(weight: Tensor) -> Tensor:
    """Normal(0, 0.01), for linear layers."""
    return nn.init.normal_(weight, 0.0, 0.01)


def uniform_fan_in_(weight: Tensor) -> Tensor:
    """Uniform(+-1 / sqrt(fan_in)), the usual one of the zoo's linear layers."""
    bound = 1.0 / math.sqrt(math.prod(weight.shape[1:]))
    return nn.init.uniform_(weight, -bound, bound)


# ------------------------------------------------------------------------------------------------------- layers


class SameConv2d(nn.Conv2d):
    """A convolution padded as in TensorFlow: ceil(size / stride) outputs, an odd row of zeros at the end.

    The padding follows from the size of each input, so there is no fixed one to tell PyTorch.
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
    """A convolution, initialized as published and told its published name.

    Args:
        padding: None keeps the size at stride 1: half of the (dilated) kernel; "same" differs from that at larger
            strides and for even kernels, see `SameConv2d`.
        name: published as NAME_weights and NAME_offset; None: named automatically.
        init: initializer of the weight, None for fluid's default, `he_normal_` over all input channels. A bias
            starts at 0.
    """
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    even = any(size % 2 == 0 for size in kernel)
    kind = SameConv2d if padding == "same" and (stride != 1 or even) else nn.Conv2d
    if kind is SameConv2d:
        padding = 0
    elif padding is None or padding == "same":
        padding = tuple(dilation * (k - 1) // 2 for k in kernel)
    conv = kind(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias)
    with torch.no_grad():
        he_normal_(conv.weight, in_channels) if init is None else init(conv.weight)
        if bias:
            nn.init.zeros_(conv.bias)
    if name is not None:
        publish_conv(conv, name)
    return conv


def batch_norm(
    channels: int, name: str | None = None, *, momentum: float = 0.9, epsilon: float = 1e-5
) -> nn.BatchNorm2d:
    """A batch-norm, told its published name.

    Args:
        name: published as NAME_scale, NAME_offset, NAME_mean, NAME_variance; None: named automatically.
        momentum: as fluid counts it, the share of the old running statistics (1 - momentum in PyTorch).
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
    """A linear layer, initialized as published (bias 0) and told its published name (NAME_weights, NAME_offset)."""
    fc = nn.Linear(in_features, out_features)
    with torch.no_grad():
        init(fc.weight)
        nn.init.zeros_(fc.bias)
    if name is not None:
        publish_conv(fc, name)
    return fc


class ConvBNAct(nn.Sequential):
    """Convolution, batch-norm, activation, in a `Sequential` of `conv`, `bn` and, if there is one, `act`.

    Args:
        name: published name of the convolution.
        bn_name: that of the batch-norm; None: NAME_bn.
        activation: builds the activation; None: no activation.
        momentum, epsilon: of the batch-norm, as in `batch_norm`.
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
    """The in-place ReLU that follows nearly every batch-norm of the zoo."""
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
    """Dropout under either of fluid's conventions.

    `upscale_in_train`, PyTorch's own, divides the kept values by 1 - p in training and does nothing in evaluation.
    `downgrade_in_infer`, fluid's default and the one that most of the zoo was trained with, keeps the values as they
    are in training and multiplies by 1 - p in evaluation. A network's weights are right under one convention only.
    """

    def __init__(self, p: float, mode: str = DOWNGRADE_IN_INFER) -> None:
        super().__init__()
        self.p = p
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.p, self.training)
        return x if self.mode == UPSCALE_IN_TRAIN else x * (1.0 - self.p)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Notes the convention in the state dict's metadata, so that weights saved by `torch.save` carry it."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["dropout"] = self.mode

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
    """Drops a residual branch for single images of a training batch, with probability `p` (arXiv:1603.09382).

    The branches kept are divided by 1 - p. EfficientNet calls it drop connect.
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
    """clamp(0.2 x + 0.5, 0, 1), with fluid's slope; PyTorch's own has 1/6."""
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


def make_divisible(width: float, divisor: int = 8) -> int:
    """Rounds a scaled number of channels to a multiple of `divisor`, losing at most a tenth (arXiv:1801.04381)."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def global_average(x: Tensor) -> Tensor:
    """Mean over the positions of a feature map: (N, C, H, W) -> (N, C)."""
    return x.mean((2, 3))


# ----------------------------------------------------------------------------------------- re-parameterization


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` as it is deployed: the same logits in evaluation, in fewer layers.

    Modules that are trained in another form than they are deployed in have a method `fused`, which returns what to
    replace them with.
    """
    fused = copy.deepcopy(model)
    for path, module in list(fused.named_modules()):
        if hasattr(module, "fused"):
            fused.set_submodule(path, module.fused().train(module.training))
    return fused


@torch.no_grad()
def sum_branches_(conv: nn.Conv2d, branches: Sequence[tuple[nn.Conv2d | None, nn.BatchNorm2d]]) -> nn.Conv2d:
    """Makes `conv` the sum of parallel branches in evaluation, and returns it.

    Args:
        conv: a convolution with bias, of the stride and groups of the branches.
        branches: convolutions of its size or smaller (None: the identity), each with the batch-norm that follows it.
    """
    # In double precision, so that the only rounding is the last one.
    weight = torch.zeros_like(conv.weight, dtype=torch.float64, device=branches[0][1].weight.device)
    bias = torch.zeros_like(weight[:, 0, 0, 0])
    for branch, bn in branches:
        kernel = nn.init.dirac_(torch.empty_like(weight), conv.groups) if branch is None else branch.weight.double()
        height, width = ((size - own) // 2 for size, own in zip(conv.kernel_size, kernel.shape[2:], strict=True))
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        weight += F.pad(kernel * scale[:, None, None, None], (width, width, height, height))
        bias += bn.bias.double() - bn.running_mean.double() * scale
    conv.to(branches[0][1].weight)
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
    return conv


def main_output(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The main classifier's logits, of a network that may have side classifiers."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
