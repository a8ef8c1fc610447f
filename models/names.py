"""Notes on layers: the names of their tensors in published files, and their own L2 decay and learning rate.

A network is published as a set of named PaddlePaddle variables (`res2a_branch2a_weights`, `bn2a_branch2a_scale`, ...).
Each layer gets its names through the `name` arguments in models/layers.py or through `publish`; the weight readers get
them from `published_names`. A layer without names has the automatic name of PaddlePaddle's fluid: `conv2d_0.w_0`,
`batch_norm_3.w_1`, `fc_0.b_0`, numbered in construction order.

PaddleClas, the zoo's successor, names weights by the paths of its own modules, and Caffe by its layers. Each network
translates its paths into these, in `Network.paddleclas_path` and `Network.caffe_layer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from models.network import Network

# Fluid's automatic name of a layer, and the suffix of each of its tensors.
_AUTOMATIC_NAMES = {
    nn.Conv2d: ("conv2d", {"weight": "w_0", "bias": "b_0"}),
    nn.BatchNorm2d: ("batch_norm", {"weight": "w_0", "bias": "b_0", "running_mean": "w_1", "running_var": "w_2"}),
    nn.Linear: ("fc", {"weight": "w_0", "bias": "b_0"}),
}


@dataclass
class Notes:
    """The notes on a layer.

    Attributes:
        published: its tensors -> their published names; missing tensors have automatic names.
        fluid_type: the type that fluid counted the layer as, if it differs from the layer's own.
        l2_decay: its parameters -> their published L2 decay, for those that do not follow --l2_decay.
        lr: its parameters -> their published share of the learning rate, for those that learn more slowly.
    """

    published: dict[str, str] = field(default_factory=dict)
    fluid_type: str | None = None
    l2_decay: dict[str, float] = field(default_factory=dict)
    lr: dict[str, float] = field(default_factory=dict)


def notes(module: nn.Module) -> Notes:
    """The notes on `module`. They can be changed, and are copied with the module."""
    return vars(module).setdefault("_notes", Notes())


def publish(module: nn.Module, **names: str) -> None:
    """Sets the published variable names of a layer's tensors, as in `publish(fc, weight="fc_weights")`."""
    notes(module).published = names


def publish_conv(conv: nn.Module, name: str) -> None:
    """Names a convolution or linear layer the usual way: NAME_weights, NAME_offset."""
    publish(conv, weight=f"{name}_weights", bias=f"{name}_offset")


def publish_batch_norm(bn: nn.Module, name: str) -> None:
    """Names a batch norm the usual way: NAME_scale, NAME_offset, NAME_mean, NAME_variance."""
    publish(
        bn,
        weight=f"{name}_scale",
        bias=f"{name}_offset",
        running_mean=f"{name}_mean",
        running_var=f"{name}_variance",
    )


def _own_tensors(module: nn.Module) -> Iterator[str]:
    """Names of the tensors that a layer itself keeps in the state dict, except PyTorch's batch counter."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter is not None:
            yield name
    for name, buffer in module.named_buffers(recurse=False):
        if buffer is not None and name not in module._non_persistent_buffers_set and name != "num_batches_tracked":
            yield name


def published_names(model: nn.Module) -> dict[str, str]:
    """State-dict key -> published fluid variable name, for every tensor of `model`, in construction order.

    Raises:
        ValueError: a layer has neither a published name nor an automatic one.
    """
    names: dict[str, str] = {}
    built: dict[str, int] = {}
    for path, module in model.named_modules():
        told = notes(module)
        stem, suffixes = next((v for kind, v in _AUTOMATIC_NAMES.items() if isinstance(module, kind)), ("", {}))
        stem = told.fluid_type or stem
        number = built.get(stem, 0)
        built[stem] = number + 1
        for tensor in _own_tensors(module):
            key = f"{path}.{tensor}" if path else tensor
            if tensor in told.published:
                names[key] = told.published[tensor]
            elif tensor in suffixes:
                names[key] = f"{stem}_{number}.{suffixes[tensor]}"
            else:
                raise ValueError(f"{type(model).__name__}: {key} has no published name")
    return names


def paddleclas_names(model: Network) -> dict[str, str]:
    """State-dict key -> name in PaddleClas's .pdparams, for every tensor of `model`."""
    leaves = {"running_mean": "_mean", "running_var": "_variance"}
    names = {}
    for path, module in model.named_modules():
        for tensor in _own_tensors(module):
            key = f"{path}.{tensor}" if path else tensor
            leaf = leaves.get(tensor, tensor)
            names[key] = f"{model.paddleclas_path(path)}.{leaf}" if path else leaf
    return names


def caffe_names(model: Network) -> dict[str, str]:
    """State-dict key -> name in a .caffemodel, LAYER/BLOB, for every tensor of `model`.

    Caffe splits a batch norm into two layers: LAYER_bn has the running statistics, LAYER_scale the weight and bias.

    Raises:
        ValueError: the network was never published for Caffe.
    """
    blobs = {"weight": "/0", "bias": "/1"}
    batch_norm_blobs = {"running_mean": "_bn/0", "running_var": "_bn/1", "weight": "_scale/0", "bias": "_scale/1"}
    names = {}
    for path, module in model.named_modules():
        suffixes = batch_norm_blobs if isinstance(module, nn.BatchNorm2d) else blobs
        for tensor in _own_tensors(module):
            names[f"{path}.{tensor}"] = model.caffe_layer(path) + suffixes[tensor]
    return names


# -------------------------------------------------------------------------------------------------------- L2 decay


def override_l2_decay(module: nn.Module, **coefficients: float) -> None:
    """Sets the L2 decay of a layer's parameters that do not follow --l2_decay.

    For example `override_l2_decay(bn, weight=0.0, bias=0.0)`.
    """
    notes(module).l2_decay = coefficients


def l2_overrides(model: nn.Module) -> dict[str, float]:
    """State-dict key -> L2 decay, for the parameters of `model` with their own decay."""
    return {
        f"{path}.{parameter}" if path else parameter: coefficient
        for path, module in model.named_modules()
        for parameter, coefficient in notes(module).l2_decay.items()
    }


def share_learning_rate(module: nn.Module, **shares: float) -> None:
    """Sets the parameters of a layer that learn at a share of the learning rate, as in `scale=0.01`."""
    notes(module).lr = shares


def lr_shares(model: nn.Module) -> dict[str, float]:
    """State-dict key -> share of the learning rate, for the parameters of `model` that have one."""
    return {
        f"{path}.{parameter}" if path else parameter: share
        for path, module in model.named_modules()
        for parameter, share in notes(module).lr.items()
    }


def override_batch_norm_decay(model: nn.Module) -> None:
    """Sets the L2 decay of all batch norms of `model` to 0, as published."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            override_l2_decay(module, weight=0.0, bias=0.0)
