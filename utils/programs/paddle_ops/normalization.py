"""Normalization."""

from __future__ import annotations

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.elementwise import power
from utils.programs.paddle_ops.layout import channels_first, is_channels_last
from utils.programs.paddle_ops.registry import desc, pir
from utils.programs.paddle_ops.sizes import Size, TranslationError, show, static
from utils.programs.paddle_ops.values import Value


def _flat(b: Builder, x: Value | None, count: int) -> Value | None:
    """A weight as a list of `count` numbers."""
    return None if x is None else b.reshape(x, [count])


@desc("batch_norm sync_batch_norm inplace_abn", "X:x Mean:mean Variance:variance Scale:weight Bias:bias",
      "data_layout:data_format", results="Y")  # fmt: skip
@pir("batch_norm batch_norm_ sync_batch_norm_", "x mean variance weight bias")
def batch_norm(
    b: Builder,
    x: Value,
    mean: Value,
    variance: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    epsilon: float = 1e-5,
    data_format: str = "NCHW",
    fuse_with_relu: bool = False,
) -> Value:
    """Always uses the running statistics, as Paddle Inference sets is_test in every program."""
    x, restore = channels_first(b, x, data_format)
    if x.ndim < 2:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    channels = static(x.shape[1], "number of channels")
    weights = [_flat(b, value, channels) for value in (weight, bias, mean, variance)]
    result = b.call(aten.batch_norm.default, x, *weights, False, 0.0, epsilon, False, shape=x.shape, dtype=x.dtype)
    return restore(b.unary(aten.relu.default, result) if fuse_with_relu else result)


@desc("layer_norm", "X:x Scale:weight Bias:bias", results="Y")
@pir("layer_norm", "x weight bias")
def layer_norm(
    b: Builder,
    x: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    epsilon: float = 1e-5,
    begin_norm_axis: int = 1,
) -> Value:
    """Over all dimensions from `begin_norm_axis` on; Scale and Bias are flat."""
    axis = x.axis(begin_norm_axis)
    shape = [static(size, "normalized shape") for size in x.shape[axis:]]
    weights = [None if value is None else b.reshape(value, shape) for value in (weight, bias)]
    return b.call(aten.layer_norm.default, x, shape, *weights, epsilon, False, shape=x.shape, dtype=x.dtype)


@desc("group_norm", "X:x Scale:weight Bias:bias", "data_layout:data_format", results="Y")
@pir("group_norm", "x weight bias")
def group_norm(
    b: Builder,
    x: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    epsilon: float = 1e-5,
    groups: int = 1,
    data_format: str = "NCHW",
) -> Value:
    x, restore = channels_first(b, x, data_format)
    if x.ndim < 2:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    channels = static(x.shape[1], "number of channels")
    if groups < 1 or channels % groups:
        raise TranslationError(f"{channels} channels in {groups} groups")
    weights = [_flat(b, value, channels) for value in (weight, bias)]
    return restore(b.call(aten.group_norm.default, x, groups, *weights, epsilon, False, shape=x.shape, dtype=x.dtype))


@desc("instance_norm", "X:x Scale:weight Bias:bias", results="Y")
@pir("instance_norm", "x weight bias")
def instance_norm(
    b: Builder, x: Value, weight: Value | None = None, bias: Value | None = None, epsilon: float = 1e-5
) -> Value:
    if x.ndim < 3:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    channels = static(x.shape[1], "number of channels")
    weights = [_flat(b, value, channels) for value in (weight, bias)]
    return b.call(
        aten.instance_norm.default, x, *weights, None, None, True, 0.0, epsilon, False, shape=x.shape, dtype=x.dtype
    )


@desc("norm", "X:x")
@pir("norm", "x")
def l2_normalize(b: Builder, x: Value, axis: int = -1, epsilon: float = 1e-10) -> Value:
    """x / sqrt(sum x^2 + epsilon)"""
    axis = x.axis(axis)
    shape: list[Size] = [*x.shape[:axis], 1, *x.shape[axis + 1 :]]
    squares = b.unary(aten.square.default, x)
    total = b.call(aten.sum.dim_IntList, squares, [axis], True, shape=shape, dtype=x.dtype)
    return b.binary(aten.div.Tensor, x, power(b, b.unary(aten.add.Scalar, total, epsilon), 0.5))


@desc("lrn", "X:x")
def local_response_norm(
    b: Builder,
    x: Value,
    n: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    data_format: str = "NCHW",
) -> Value:
    """x / (k + alpha sum x^2)^beta over n neighbouring channels; the sum is not divided by n."""
    x, restore = channels_first(b, x, data_format)
    channels = static(x.shape[1], "number of channels") if x.ndim == 4 else 0
    if not 0 < n <= 2 * channels or n % 2 == 0:
        raise TranslationError(f"images of shape {show(x.shape)} and {n} neighbouring channels")
    squares = b.pad(b.unary(aten.square.default, x), [0, 0, 0, 0, n // 2, n // 2])
    total = b.slice(squares, 1, 0, channels)
    for first in range(1, n):
        total = b.binary(aten.add.Tensor, total, b.slice(squares, 1, first, first + channels))
    base = b.unary(aten.add.Scalar, b.unary(aten.mul.Scalar, total, alpha), k)
    return restore(b.binary(aten.mul.Tensor, x, power(b, base, -beta)))


@desc("affine_channel", "X:x Scale:weight Bias:bias", "data_layout:data_format")
@pir("affine_channel", "x weight bias")
def affine_channel(b: Builder, x: Value, weight: Value, bias: Value, data_format: str = "NCHW") -> Value:
    """weight x + bias, per channel."""
    axis = x.ndim - 1 if is_channels_last(data_format) else 1
    if x.ndim < 2:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    shape = [x.shape[axis] if index == axis else 1 for index in range(x.ndim)]
    scaled = b.binary(aten.mul.Tensor, x, b.reshape(weight, shape))
    return b.binary(aten.add.Tensor, scaled, b.reshape(bias, shape))


@desc("rms_norm", "x:x norm_weight:weight norm_bias:bias", results="out")
@pir("rms_norm", "x _ _ weight bias")
def rms_norm(
    b: Builder,
    x: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    epsilon: float = 1e-6,
    begin_norm_axis: int = -1,
) -> Value:
    """x / sqrt(mean x^2 + epsilon)"""
    axes = list(range(x.axis(begin_norm_axis), x.ndim))
    shape = [1 if index in axes else size for index, size in enumerate(x.shape)]
    square = b.call(aten.mean.dim, b.unary(aten.square.default, x), axes, True, shape=shape, dtype=x.dtype)
    scale = b.unary(aten.rsqrt.default, b.unary(aten.add.Scalar, square, epsilon))
    result = b.binary(aten.mul.Tensor, x, scale)
    normalized = [static(size, "normalized shape") for size in x.shape[axes[0] :]]
    for weight_or_bias, target in ((weight, aten.mul.Tensor), (bias, aten.add.Tensor)):
        if weight_or_bias is not None:
            result = b.binary(target, result, b.reshape(weight_or_bias, normalized))
    return result


@desc("data_norm", "X:x BatchSize:count BatchSum:total BatchSquareSum:squares", results="Y")
def data_norm(b: Builder, x: Value, count: Value, total: Value, squares: Value, epsilon: float = 1e-4) -> Value:
    """(x - sum / count) sqrt(count / squares)"""
    mean = b.binary(aten.div.Tensor, total, count)
    scale = b.unary(aten.sqrt.default, b.binary(aten.div.Tensor, count, squares))
    return b.binary(aten.mul.Tensor, b.binary(aten.sub.Tensor, x, mean), scale)


@desc("spectral_norm", "Weight:weight U:u V:v")
@pir("spectral_norm", "weight u v")
def spectral_norm(
    b: Builder, weight: Value, u: Value, v: Value, dim: int = 0, power_iters: int = 1, eps: float = 1e-12
) -> Value:
    """A weight divided by its largest singular value, found by the original's power method."""
    constants = [value.constant for value in (weight, u, v)]
    if any(constant is None for constant in constants) or not 0 <= power_iters <= 100 or dim not in (0, 1):
        raise TranslationError("the weight is computed from the images")
    tensor, left, right = (constant.double() for constant in constants if constant is not None)
    if tensor.numel() > 2**24 or dim >= tensor.ndim:
        raise TranslationError(f"its weight has the shape {show(weight.shape)}")
    matrix = tensor.transpose(0, dim).flatten(1) if tensor.ndim > 1 else tensor[:, None]
    for _ in range(power_iters):
        right = torch.mv(matrix.t(), left)
        right = right / (right.norm() + eps)
        left = torch.mv(matrix, right)
        left = left / (left.norm() + eps)
    sigma = torch.dot(left, torch.mv(matrix, right))
    return b.constant((tensor / sigma).to(weight.dtype))
