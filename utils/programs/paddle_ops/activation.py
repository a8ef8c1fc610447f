"""Operators on one tensor, element by element, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.registry import Ints, desc, pir
from utils.programs.paddle_ops.sizes import TranslationError, static
from utils.programs.paddle_ops.values import Value


def _register(names: str, target: Callable[..., Any], dtype: torch.dtype | None = None) -> None:
    """Registers an operator that has the same names in both dialects, and no attributes."""

    @desc(names, "X:x")
    @pir(" ".join(f"{name} {name}_" for name in names.split()), "x")
    def operate(b: Builder, x: Value) -> Value:
        return b.unary(target, x, dtype=dtype)


SAME_NAMES = """
    relu sigmoid tanh exp expm1 log log2 log10 log1p sqrt rsqrt square abs ceil floor round sign reciprocal sin cos tan
    asin acos atan sinh cosh asinh acosh atanh erf erfinv trunc digamma lgamma silu bitwise_not
"""
for _name in SAME_NAMES.split():
    _register(_name, getattr(aten, _name).default)
for _name in ("isnan", "isfinite", "isinf"):
    _register(f"{_name} {_name}_v2", getattr(aten, _name).default, torch.bool)


@desc("relu6", "X:x")
@pir("relu6", "x")
def relu6(b: Builder, x: Value, threshold: float = 6.0) -> Value:
    if threshold == 6.0:
        return b.unary(aten.relu6.default, x)
    return b.unary(aten.clamp.default, x, 0.0, threshold)


@desc("logsigmoid", "X:x")
@pir("logsigmoid", "x")
def log_sigmoid(b: Builder, x: Value) -> Value:
    return b.unary(aten.log_sigmoid.default, x)


@desc("leaky_relu", "X:x", "alpha:negative_slope")
@pir("leaky_relu leaky_relu_", "x")
def leaky_relu(b: Builder, x: Value, negative_slope: float = 0.02) -> Value:
    return b.unary(aten.leaky_relu.default, x, negative_slope)


@desc("elu", "X:x")
@pir("elu elu_", "x")
def elu(b: Builder, x: Value, alpha: float = 1.0) -> Value:
    return b.unary(aten.elu.default, x, alpha)


@desc("celu", "X:x")
@pir("celu", "x")
def celu(b: Builder, x: Value, alpha: float = 1.0) -> Value:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))"""
    if alpha == 0:
        raise TranslationError("its alpha is 0")
    return b.unary(aten.elu.default, x, alpha, 1.0, 1.0 / alpha)


@desc("selu", "X:x")
@pir("selu", "x")
def selu(b: Builder, x: Value, scale: float = 1.0507009873554805, alpha: float = 1.6732632423543772) -> Value:
    return b.unary(aten.elu.default, x, alpha, scale)


@desc("gelu", "X:x")
@pir("gelu", "x")
def gelu(b: Builder, x: Value, approximate: bool = False) -> Value:
    options: dict[str, Any] = {"approximate": "tanh"} if approximate else {}
    return b.call(aten.gelu.default, x, shape=x.shape, dtype=x.dtype, **options)


@desc("hard_sigmoid", "X:x")
@pir("hardsigmoid", "x")
def hard_sigmoid(b: Builder, x: Value, slope: float = 0.2, offset: float = 0.5) -> Value:
    """slope x + offset, within 0 and 1"""
    if math.isclose(slope, 1 / 6, rel_tol=1e-6) and offset == 0.5:
        return b.unary(aten.hardsigmoid.default, x)
    line = b.unary(aten.mul.Scalar, x, slope)
    return b.unary(aten.clamp.default, b.unary(aten.add.Scalar, line, offset), 0.0, 1.0)


@desc("hard_swish", "X:x")
@pir("hardswish", "x")
def hard_swish(b: Builder, x: Value, threshold: float = 6.0, scale: float = 6.0, offset: float = 3.0) -> Value:
    """x min(max(0, x + offset), threshold) / scale"""
    if (threshold, scale, offset) == (6.0, 6.0, 3.0):
        return b.unary(aten.hardswish.default, x)
    if scale == 0:
        raise TranslationError("its scale is 0")
    gate = b.unary(aten.clamp.default, b.unary(aten.add.Scalar, x, offset), 0.0, threshold)
    return b.unary(aten.mul.Scalar, b.binary(aten.mul.Tensor, x, gate), 1.0 / scale)


@desc("swish", "X:x")
@pir("swish", "x")
def swish(b: Builder, x: Value, beta: float = 1.0) -> Value:
    if beta == 1.0:
        return b.unary(aten.silu.default, x)
    gate = b.unary(aten.sigmoid.default, b.unary(aten.mul.Scalar, x, beta))
    return b.binary(aten.mul.Tensor, x, gate)


@desc("mish", "X:x")
@pir("mish", "x", "lambda:threshold")
def mish(b: Builder, x: Value, threshold: float = 20.0) -> Value:
    """x tanh(softplus(x)); above the threshold softplus(x) counts as x, which makes no difference in float32."""
    if threshold < 15:
        return b.binary(aten.mul.Tensor, x, b.unary(aten.tanh.default, softplus(b, x, 1.0, threshold)))
    return b.unary(aten.mish.default, x)


@desc("softplus", "X:x")
@pir("softplus", "x")
def softplus(b: Builder, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if beta == 0:
        raise TranslationError("its beta is 0")
    return b.unary(aten.softplus.default, x, beta, threshold)


@desc("softsign", "X:x")
@pir("softsign", "x")
def softsign(b: Builder, x: Value) -> Value:
    """x / (1 + |x|)"""
    return b.binary(aten.div.Tensor, x, b.unary(aten.add.Scalar, b.unary(aten.abs.default, x), 1.0))


@desc("tanh_shrink", "X:x")
@pir("tanh_shrink", "x")
def tanh_shrink(b: Builder, x: Value) -> Value:
    return b.binary(aten.sub.Tensor, x, b.unary(aten.tanh.default, x))


@desc("softshrink soft_shrink", "X:x", "lambda:threshold")
@pir("softshrink", "x", "lambda:threshold")
def soft_shrink(b: Builder, x: Value, threshold: float = 0.5) -> Value:
    if threshold < 0:
        raise TranslationError(f"its threshold is {threshold}")
    return b.unary(aten.softshrink.default, x, threshold)


@desc("hard_shrink", "X:x")
@pir("hardshrink hard_shrink", "x")
def hard_shrink(b: Builder, x: Value, threshold: float = 0.5) -> Value:
    return b.unary(aten.hardshrink.default, x, threshold)


@desc("thresholded_relu", "X:x")
@pir("thresholded_relu thresholded_relu_", "x")
def thresholded_relu(b: Builder, x: Value, threshold: float = 1.0, value: float = 0.0) -> Value:
    return b.unary(aten.threshold.default, x, threshold, value)


@desc("brelu", "X:x")
@pir("hardtanh", "x")
def clipped_relu(b: Builder, x: Value, t_min: float = 0.0, t_max: float = 24.0) -> Value:
    return b.unary(aten.clamp.default, x, t_min, t_max)


@desc("stanh", "X:x")
@pir("stanh", "x")
def scaled_tanh(b: Builder, x: Value, scale_a: float = 0.67, scale_b: float = 1.7159) -> Value:
    """scale_b tanh(scale_a x)"""
    return b.unary(aten.mul.Scalar, b.unary(aten.tanh.default, b.unary(aten.mul.Scalar, x, scale_a)), scale_b)


@desc("soft_relu", "X:x")
@pir("soft_relu", "x")
def soft_relu(b: Builder, x: Value, threshold: float = 40.0) -> Value:
    """log(1 + exp(x)), with x clipped to plus or minus the threshold"""
    clipped = b.unary(aten.clamp.default, x, -threshold, threshold)
    return b.unary(aten.log1p.default, b.unary(aten.exp.default, clipped))


@desc("logit", "X:x")
@pir("logit logit_", "x")
def logit(b: Builder, x: Value, eps: float = 1e-6) -> Value:
    return b.unary(aten.logit.default, x, eps)


@desc("prelu", "X:x Alpha:alpha")
@pir("prelu", "x alpha")
def prelu(b: Builder, x: Value, alpha: Value, mode: str = "all", data_format: str = "NCHW") -> Value:
    """One slope for all elements, one per channel, or one per element of an image."""
    channel_axis = 1 if data_format in ("NCHW", "AnyLayout") else x.ndim - 1
    if mode == "all":
        shape = [1] * x.ndim
    elif mode == "channel":
        shape = [1] * x.ndim
        shape[channel_axis] = static(x.shape[channel_axis], "number of channels")
    elif mode == "element":
        shape = [1, *(static(size, "shape") for size in x.shape[1:])]
    else:
        raise TranslationError(f"its mode is {mode[:50]!r}")
    slope = b.reshape(alpha, shape)
    negative = b.binary(aten.mul.Tensor, b.unary(aten.clamp_max.default, x, 0.0), slope)
    return b.binary(aten.add.Tensor, b.unary(aten.relu.default, x), negative)


@desc("maxout", "X:x")
@pir("maxout", "x")
def maxout(b: Builder, x: Value, groups: int, axis: int = 1) -> Value:
    """The maximum of every `groups` consecutive channels."""
    axis = x.axis(axis)
    channels = static(x.shape[axis], "number of channels")
    if groups < 1 or channels % groups:
        raise TranslationError(f"{channels} channels in groups of {groups}")
    grouped = b.reshape(x, [*x.shape[:axis], channels // groups, groups, *x.shape[axis + 1 :]])
    shape = [*x.shape[:axis], channels // groups, *x.shape[axis + 1 :]]
    return b.call(aten.amax.default, grouped, [axis + 1], shape=shape, dtype=x.dtype)


@desc("softmax", "X:x")
@pir("softmax softmax_", "x")
def softmax(b: Builder, x: Value, axis: int = -1) -> Value:
    """On the CPU fluid clips x - max(x) at -64, so that probabilities are at least 1.6e-28; this one does not."""
    return b.unary(aten.softmax.int, x, x.axis(axis))


@desc("log_softmax", "X:x")
@pir("log_softmax", "x")
def log_softmax(b: Builder, x: Value, axis: int = -1) -> Value:
    return b.unary(aten.log_softmax.int, x, x.axis(axis))


@desc("dropout", "X:x", "dropout_prob:p dropout_implementation:mode")
@pir("dropout", "x _ p")
def dropout(b: Builder, x: Value, p: float = 0.5, mode: str = "downgrade_in_infer", axis: Ints | None = None) -> Value:
    """In evaluation: multiplies by 1 - p if training does not scale the kept values, otherwise does nothing."""
    if mode == "upscale_in_train":
        return x
    if mode != "downgrade_in_infer":
        raise TranslationError(f"its mode is {mode[:50]!r}")
    return b.unary(aten.mul.Scalar, x, 1.0 - p) if p else x


@desc("rrelu", "X:x")
@pir("rrelu", "x")
def rrelu(b: Builder, x: Value, lower: float = 1 / 8, upper: float = 1 / 3) -> Value:
    """In evaluation the slope is the mean of its bounds."""
    return b.unary(aten.leaky_relu.default, x, (lower + upper) / 2)


# ------------------------------------------------------------------------------------------ as part of an operator


def _hard_swish(b: Builder, x: Value, slope: float, offset: float) -> Value:
    """x min(max(0, slope x + offset), 1); a slope above 1 is probably the bound of another convention."""
    if not 0 < slope <= 1:
        raise TranslationError(f"its fuse_alpha is {slope} for a hard_swish")
    if math.isclose(slope, 1 / 6, rel_tol=1e-6) and offset == 0.5:
        return b.unary(aten.hardswish.default, x)
    return b.binary(aten.mul.Tensor, x, hard_sigmoid(b, x, slope, offset))


# Meaning of an operator's attributes fuse_activation, fuse_alpha and fuse_beta.
ACTIVATIONS: dict[str, Callable[[Builder, Value, float, float], Value]] = {
    "": lambda b, x, alpha, beta: x,
    "abs": lambda b, x, alpha, beta: b.unary(aten.abs.default, x),
    "clip": lambda b, x, alpha, beta: b.unary(aten.clamp.default, x, alpha, beta),
    "gelu": lambda b, x, alpha, beta: gelu(b, x),
    "gelu_erf": lambda b, x, alpha, beta: gelu(b, x),
    "gelu_tanh": lambda b, x, alpha, beta: gelu(b, x, approximate=True),
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": _hard_swish,
    "leaky_relu": lambda b, x, alpha, beta: leaky_relu(b, x, alpha),
    "mish": lambda b, x, alpha, beta: mish(b, x),
    "relu": lambda b, x, alpha, beta: b.unary(aten.relu.default, x),
    "relu6": lambda b, x, alpha, beta: relu6(b, x, beta or alpha),  # fluid stores the bound in alpha
    "sigmoid": lambda b, x, alpha, beta: b.unary(aten.sigmoid.default, x),
    "sqrt": lambda b, x, alpha, beta: b.unary(aten.sqrt.default, x),
    "swish": lambda b, x, alpha, beta: swish(b, x, alpha),
    "tanh": lambda b, x, alpha, beta: b.unary(aten.tanh.default, x),
}


def activated(b: Builder, x: Value, name: str, alpha: float, beta: float) -> Value:
    """`x` after an operator's fused activation.

    Raises:
        TranslationError: the activation is unknown.
    """
    if name not in ACTIVATIONS:
        raise TranslationError(f"its activation is {name[:50]!r}, which is not supported")
    return ACTIVATIONS[name](b, x, alpha, beta)
