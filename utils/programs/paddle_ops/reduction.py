"""Reductions along dimensions (sums, means, maxima, ...), and sorting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.registry import Ints, desc, pir
from utils.programs.paddle_ops.sizes import Size, TranslationError, product, show, static
from utils.programs.paddle_ops.values import Value


def reduced_axes(x: Value, axis: Ints | None, reduce_all: bool) -> list[int]:
    """The dimensions to reduce; an empty list means all of them."""
    return list(range(x.ndim)) if reduce_all or not axis else x.axes(axis)


def reduced_shape(x: Value, axes: list[int], keepdim: bool) -> list[Size]:
    """The shape without the dimensions `axes`, or with 1 for them."""
    if keepdim:
        return [1 if index in axes else size for index, size in enumerate(x.shape)]
    return [size for index, size in enumerate(x.shape) if index not in axes]


def check_not_empty(x: Value, axes: list[int]) -> None:
    """Refuses maxima of empty tensors."""
    if any(x.shape[axis] == 0 for axis in axes):
        raise TranslationError(f"a tensor of shape {show(x.shape)} has no elements to reduce")


def _register(
    names: tuple[str, str],
    target: Callable[..., Any],
    operands: str = "x axis",
    converts: bool = False,
) -> None:
    """Registers a reduction: names, PyTorch's operator, PIR's operands, and whether it converts to `dtype` first."""

    @desc(names[0], "X:x AxisTensor:axis Axis:axis", "dim:axis keep_dim:keepdim out_dtype:dtype")
    @pir(names[1], operands)
    def reduce(
        b: Builder,
        x: Value,
        axis: Ints | None = None,
        keepdim: bool = False,
        reduce_all: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Value:
        if converts and dtype is not None:
            x = b.cast(x, dtype)
        axes = reduced_axes(x, axis, reduce_all)
        if x.ndim == 0:
            return x
        if not converts:
            check_not_empty(x, axes)
        return b.call(target, x, axes, keepdim, shape=reduced_shape(x, axes, keepdim), dtype=_sum_type(x, target))


def _sum_type(x: Value, target: Callable[..., Any]) -> torch.dtype:
    """Sums of small integers have 64 bits."""
    return torch.int64 if target is aten.sum.dim_IntList and not x.dtype.is_floating_point else x.dtype


for _names, _target, _operands, _converts in (
    (("reduce_mean", "mean"), aten.mean.dim, "x axis", False),
    (("reduce_sum", "sum"), aten.sum.dim_IntList, "x axis", True),
    (("reduce_max", "max"), aten.amax.default, "x axis", False),
    (("reduce_min", "min"), aten.amin.default, "x axis", False),
    (("reduce_amax", "amax"), aten.amax.default, "x", False),
    (("reduce_amin", "amin"), aten.amin.default, "x", False),
    (("logsumexp", "logsumexp"), aten.logsumexp.default, "x", False),
):
    _register(_names, _target, _operands, _converts)


@desc("mean", "X:x")
@pir("mean_all", "x")
def mean_all(b: Builder, x: Value) -> Value:
    return b.call(aten.mean.dim, x, list(range(x.ndim)), False, shape=[], dtype=x.dtype) if x.ndim else x


def _each_axis(
    b: Builder, x: Value, axes: list[int], keepdim: bool, target: Callable[..., Any], dtype: torch.dtype
) -> Value:
    """A reduction that PyTorch supports for one dimension at a time."""
    for axis in reversed(axes):
        x = b.call(target, x, axis, keepdim, shape=reduced_shape(x, [axis], keepdim), dtype=dtype)
    return x


@desc("reduce_prod", "X:x", "dim:axis keep_dim:keepdim")
@pir("prod", "x axis")
def product_of(
    b: Builder, x: Value, axis: Ints | None = None, keepdim: bool = False, reduce_all: bool = False
) -> Value:
    dtype = x.dtype if x.dtype.is_floating_point else torch.int64
    return _each_axis(b, x, reduced_axes(x, axis, reduce_all), keepdim, aten.prod.dim_int, dtype)


@desc("reduce_all", "X:x", "dim:axis keep_dim:keepdim")
@pir("all", "x")
def all_of(b: Builder, x: Value, axis: Ints | None = None, keepdim: bool = False, reduce_all: bool = False) -> Value:
    return _each_axis(b, x, reduced_axes(x, axis, reduce_all), keepdim, aten.all.dim, torch.bool)


@desc("reduce_any", "X:x", "dim:axis keep_dim:keepdim")
@pir("any", "x")
def any_of(b: Builder, x: Value, axis: Ints | None = None, keepdim: bool = False, reduce_all: bool = False) -> Value:
    return _each_axis(b, x, reduced_axes(x, axis, reduce_all), keepdim, aten.any.dim, torch.bool)


@desc("frobenius_norm", "X:x", "dim:axis keep_dim:keepdim")
@pir("frobenius_norm", "x axis", "keep_dim:keepdim")
def frobenius_norm(
    b: Builder, x: Value, axis: Ints | None = None, keepdim: bool = False, reduce_all: bool = False
) -> Value:
    axes = reduced_axes(x, axis, reduce_all)
    return vector_norm(b, x, 2.0, axes, keepdim)


@desc("p_norm", "X:x")
@pir("p_norm", "x")
def p_norm(
    b: Builder,
    x: Value,
    porder: float = 2.0,
    axis: int = -1,
    epsilon: float = 1e-12,
    keepdim: bool = False,
    asvector: bool = False,
) -> Value:
    """(sum |x|^p)^(1/p); epsilon counts in training only."""
    axes = list(range(x.ndim)) if asvector else [x.axis(axis)]
    return vector_norm(b, x, porder, axes, keepdim)


def vector_norm(b: Builder, x: Value, order: float, axes: list[int], keepdim: bool) -> Value:
    """The norm of a given order over dimensions; order 0 counts the nonzero elements."""
    shape = reduced_shape(x, axes, keepdim)
    if math.isinf(order):
        check_not_empty(x, axes)
    return b.call(aten.linalg_vector_norm.default, x, order, axes, keepdim, shape=shape, dtype=x.dtype)


@desc("squared_l2_norm", "X:x")
@pir("squared_l2_norm", "x")
def squared_norm(b: Builder, x: Value) -> Value:
    squares = b.unary(aten.square.default, x)
    total = b.call(aten.sum.dim_IntList, squares, list(range(x.ndim)), False, shape=[], dtype=x.dtype)
    return b.reshape(total, [1])


@desc("cos_sim", "X:x Y:y")
def cosine_similarity(b: Builder, x: Value, y: Value) -> Value:
    """x y / (|x| |y|), row by row."""
    if x.ndim < 2 or y.ndim < 2:
        raise TranslationError(f"its inputs have the shapes {show(x.shape)} and {show(y.shape)}")
    x, y = (b.reshape(value, [value.shape[0], product(value.shape[1:])]) for value in (x, y))
    products = b.binary(aten.mul.Tensor, x, y)
    shape = [products.shape[0], 1]
    dot = b.call(aten.sum.dim_IntList, products, [1], True, shape=shape, dtype=x.dtype)
    norms = b.binary(aten.mul.Tensor, vector_norm(b, x, 2.0, [1], True), vector_norm(b, y, 2.0, [1], True))
    return b.binary(aten.div.Tensor, dot, norms)


# ----------------------------------------------------------------------------------------- positions and order


def _position(
    b: Builder, x: Value, axis: int, keepdims: bool, flatten: bool, dtype: torch.dtype | None, name: str
) -> Value:
    if flatten:
        x, axis = b.reshape(x, [product(x.shape)]), 0
    axis = x.axis(axis)
    check_not_empty(x, [axis])
    target = {"argmax": aten.argmax.default, "argmin": aten.argmin.default}[name]
    result = b.call(target, x, axis, keepdims, shape=reduced_shape(x, [axis], keepdims), dtype=torch.int64)
    return b.cast(result, dtype or torch.int64)


@desc("arg_max", "X:x")
@pir("argmax", "x axis")
def argmax(
    b: Builder,
    x: Value,
    axis: int = -1,
    keepdims: bool = False,
    flatten: bool = False,
    dtype: torch.dtype | None = None,
) -> Value:
    return _position(b, x, axis, keepdims, flatten, dtype, "argmax")


@desc("arg_min", "X:x")
@pir("argmin", "x axis")
def argmin(
    b: Builder,
    x: Value,
    axis: int = -1,
    keepdims: bool = False,
    flatten: bool = False,
    dtype: torch.dtype | None = None,
) -> Value:
    return _position(b, x, axis, keepdims, flatten, dtype, "argmin")


@desc("top_k top_k_v2", "X:x K:k", results="Out Indices")
@pir("topk", "x k")
def top_k(
    b: Builder, x: Value, k: int = 1, axis: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    axis = x.axis(axis)
    if not 0 < k <= static(x.shape[axis], "number of elements"):
        raise TranslationError(f"the {k} first of a tensor of shape {show(x.shape)}")
    shape = [k if index == axis else size for index, size in enumerate(x.shape)]
    return tuple(
        b.call_many(aten.topk.default, x, k, axis, largest, True, shapes=[shape, shape], dtypes=[x.dtype, torch.int64])
    )


@desc("argsort", "X:x", results="Out Indices")
@pir("argsort", "x")
def argsort(b: Builder, x: Value, axis: int = -1, descending: bool = False, stable: bool = False) -> tuple[Value, ...]:
    shapes = [x.shape, x.shape]
    return tuple(
        b.call_many(
            aten.sort.stable, x, stable=True, dim=x.axis(axis), descending=descending,
            shapes=shapes, dtypes=[x.dtype, torch.int64],
        )
    )  # fmt: skip


@desc("kthvalue", "X:x", results="Out Indices")
@pir("kthvalue", "x")
def kth_value(b: Builder, x: Value, k: int = 1, axis: int = -1, keepdim: bool = False) -> tuple[Value, ...]:
    axis = x.axis(axis)
    if not 0 < k <= static(x.shape[axis], "number of elements"):
        raise TranslationError(f"the {k}th of a tensor of shape {show(x.shape)}")
    shape = reduced_shape(x, [axis], keepdim)
    return tuple(
        b.call_many(aten.kthvalue.default, x, k, axis, keepdim, shapes=[shape, shape], dtypes=[x.dtype, torch.int64])
    )


@desc("cumsum", "X:x")
@pir("cumsum cumsum_", "x axis")
def cumulative_sum(
    b: Builder,
    x: Value,
    axis: int = -1,
    flatten: bool = False,
    exclusive: bool = False,
    reverse: bool = False,
) -> Value:
    """Sums up to each element; exclusive: without the element itself; reverse: from the end."""
    if flatten:
        x, axis = b.reshape(x, [product(x.shape)]), 0
    axis = x.axis(axis)
    result = b.unary(aten.flip.default, x, [axis]) if reverse else x
    dtype = x.dtype if x.dtype.is_floating_point else torch.int64
    total = b.unary(aten.cumsum.default, result, axis, dtype=dtype)
    if exclusive:
        total = b.binary(aten.sub.Tensor, total, b.cast(result, dtype))
    return b.unary(aten.flip.default, total, [axis]) if reverse else total


@desc("cumprod", "X:x", "dim:axis")
@pir("cumprod cumprod_", "x", "dim:axis")
def cumulative_product(b: Builder, x: Value, axis: int = -1) -> Value:
    return b.unary(aten.cumprod.default, x, x.axis(axis))


@desc("logcumsumexp", "X:x")
@pir("logcumsumexp", "x")
def log_cumulative_sum(b: Builder, x: Value, axis: int = -1, flatten: bool = False) -> Value:
    if flatten:
        x, axis = b.reshape(x, [product(x.shape)]), 0
    return b.unary(aten.logcumsumexp.default, x, x.axis(axis))


@desc("dist", "X:x Y:y")
@pir("dist", "x y")
def distance(b: Builder, x: Value, y: Value, p: float = 2.0) -> Value:
    difference = b.binary(aten.sub.Tensor, x, y)
    return vector_norm(b, difference, p, list(range(difference.ndim)), False)
