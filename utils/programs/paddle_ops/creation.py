"""Operators that create tensors from numbers."""

from __future__ import annotations

import math

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.registry import Ints, Sizes, desc, pir
from utils.programs.paddle_ops.sizes import Size, TranslationError, static
from utils.programs.paddle_ops.values import MAX_FOLDED, Value


@pir("full_int_array", "")
def full_int_array(b: Builder, value: Ints, dtype: torch.dtype | None = None) -> Value:
    return b.constant(torch.tensor(value, dtype=dtype or torch.int64))


@pir("full", "")
@pir("full_with_tensor", "value shape")
def full(b: Builder, shape: Sizes, value: float, dtype: torch.dtype | None = None) -> Value:
    return number_tensor(b, shape, value, dtype or torch.float32)


def number_tensor(b: Builder, shape: list[Size], value: float, dtype: torch.dtype) -> Value:
    """A tensor filled with one number, converted to `dtype`."""
    if not dtype.is_floating_point and not math.isfinite(value):
        raise TranslationError(f"its value {value} is not an integer")
    if dtype == torch.bool:
        return b.full(shape, bool(value), dtype)
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        return b.full(shape, min(max(int(value), limits.min), limits.max), dtype)
    return b.full(shape, value, dtype)


@desc("fill_constant", "ShapeTensor:shape ShapeTensorList:shape ValueTensor:value_tensor")
def fill_constant(
    b: Builder,
    shape: Sizes,
    dtype: torch.dtype = torch.float32,
    value: float = 0.0,
    str_value: str = "",
    value_tensor: Value | None = None,
) -> Value:
    """The number is also stored as text, which is exact for 64 bits."""
    if value_tensor is not None:
        return b.expand(b.cast(b.reshape(value_tensor, []), dtype), shape)
    if str_value and not dtype.is_floating_point and str_value.lstrip("-").isdigit() and len(str_value) < 20:
        return number_tensor(b, shape, int(str_value), dtype)
    if str_value:
        try:
            value = float(str_value)
        except ValueError:
            raise TranslationError(f"its value is {str_value[:50]!r}") from None
    return number_tensor(b, shape, value, dtype)


@desc("fill_constant_batch_size_like", "Input:x")
@pir("full_batch_size_like", "x")
def fill_like_batch(
    b: Builder,
    x: Value,
    shape: Ints,
    dtype: torch.dtype = torch.float32,
    value: float = 0.0,
    str_value: str = "",
    input_dim_idx: int = 0,
    output_dim_idx: int = 0,
) -> Value:
    """`shape` with one dimension taken from `x`."""
    if not -len(shape) <= output_dim_idx < len(shape):
        raise TranslationError(f"dimension {output_dim_idx} of the shape {shape[:8]}")
    sizes: list[Size] = list(shape)
    sizes[output_dim_idx] = x.shape[x.axis(input_dim_idx)]
    return fill_constant(b, sizes, dtype, value, str_value)


@desc("fill_any_like", "X:x")
@pir("full_like", "x value")
def full_like(b: Builder, x: Value, value: float = 0.0, dtype: torch.dtype | None = None) -> Value:
    return number_tensor(b, list(x.shape), value, dtype or x.dtype)


@desc("fill_zeros_like fill_zeros_like2", "X:x")
@pir("zeros_like", "x")
def zeros_like(b: Builder, x: Value, dtype: torch.dtype | None = None) -> Value:
    return number_tensor(b, list(x.shape), 0.0, dtype or x.dtype)


@pir("ones_like", "x")
def ones_like(b: Builder, x: Value, dtype: torch.dtype | None = None) -> Value:
    return number_tensor(b, list(x.shape), 1.0, dtype or x.dtype)


@pir("zeros", "")
def zeros(b: Builder, shape: Sizes, dtype: torch.dtype) -> Value:
    return number_tensor(b, shape, 0.0, dtype)


@pir("ones", "")
def ones(b: Builder, shape: Sizes, dtype: torch.dtype) -> Value:
    return number_tensor(b, shape, 1.0, dtype)


@desc("range", "Start:start End:end Step:step")
@pir("arange", "start end step")
def arange(b: Builder, start: Value, end: Value, step: Value, dtype: torch.dtype | None = None) -> Value:
    """Numbers from `start` on, below `end`; all three may be computed from shapes."""
    known = [value.known for value in (start, end, step)]
    if any(pair is None or pair[0].numel() != 1 for pair in known):
        raise TranslationError("it counts to a number that is computed from the images")
    results = []
    for index in range(2):
        first, last, each = (pair[index].item() for pair in known if pair is not None)
        if each == 0 or not all(math.isfinite(number) for number in (first, last, each)):
            raise TranslationError(f"it counts from {first} to {last} in steps of {each}")
        count = max(math.ceil((last - first) / each), 0)
        if count > MAX_FOLDED:
            raise TranslationError(f"it counts to {count}")
        results.append(torch.arange(first, last, each) if count else torch.zeros(0))
    if any(value.constant is None for value in (start, end, step)):
        raise TranslationError("it counts to the number of images")
    return b.computed(results[0].to(dtype or start.dtype))


@desc("linspace", "Start:start Stop:stop Num:num")
@pir("linspace", "start stop num")
def linspace(b: Builder, start: float, stop: float, num: int, dtype: torch.dtype = torch.float32) -> Value:
    if not 0 < num <= MAX_FOLDED:
        raise TranslationError(f"it is of {num} numbers")
    return b.computed(torch.linspace(start, stop, num, dtype=torch.float64).to(dtype))


@desc("eye", "")
@pir("eye", "num_rows num_columns")
def eye(b: Builder, num_rows: int, num_columns: int = -1, dtype: torch.dtype = torch.float32) -> Value:
    columns = num_rows if num_columns == -1 else num_columns
    if min(num_rows, columns) < 0 or num_rows * columns > MAX_FOLDED:
        raise TranslationError(f"it is of {num_rows} x {columns} numbers")
    return b.computed(torch.eye(num_rows, columns, dtype=dtype))


@desc("tril_triu", "X:x")
def tril_triu(b: Builder, x: Value, diagonal: int = 0, lower: bool = True) -> Value:
    if x.ndim < 2 or abs(diagonal) > 2**31:
        raise TranslationError(f"diagonal {diagonal} of a tensor of {x.ndim} dimensions")
    return b.unary(aten.tril.default if lower else aten.triu.default, x, diagonal)


@pir("tril tril_", "x")
def tril(b: Builder, x: Value, diagonal: int = 0) -> Value:
    return tril_triu(b, x, diagonal, True)


@pir("triu triu_", "x")
def triu(b: Builder, x: Value, diagonal: int = 0) -> Value:
    return tril_triu(b, x, diagonal, False)


@desc("diag_v2", "X:x")
@pir("diag", "x")
def diag(b: Builder, x: Value, offset: int = 0, padding_value: float = 0.0) -> Value:
    """A diagonal matrix of a list, or the diagonal of a matrix."""
    if x.ndim not in (1, 2) or abs(offset) > 2**16:
        raise TranslationError(f"diagonal {offset} of a tensor of {x.ndim} dimensions")
    sizes = [static(size, "size") for size in x.shape]
    if x.ndim == 1:
        side = sizes[0] + abs(offset)
        matrix = b.call(aten.diag.default, x, offset, shape=[side, side], dtype=x.dtype)
        if padding_value == 0:
            return matrix
        inside = torch.diag(torch.ones(sizes[0], dtype=torch.bool), offset)
        other = b.constant(torch.where(inside, 0.0, padding_value).to(x.dtype))
        return b.binary(aten.add.Tensor, matrix, other)
    count = max(min(sizes[0] + min(offset, 0), sizes[1] - max(offset, 0)), 0)
    return b.call(aten.diag.default, x, offset, shape=[count], dtype=x.dtype)


@desc("diagonal", "Input:x")
@pir("diagonal", "x")
def diagonal(b: Builder, x: Value, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    first, second = x.axis(axis1), x.axis(axis2)
    if first == second or abs(offset) > 2**31:
        raise TranslationError(f"diagonal {offset} of dimensions {axis1} and {axis2}")
    rows, columns = static(x.shape[first], "size"), static(x.shape[second], "size")
    count = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
    rest = [size for index, size in enumerate(x.shape) if index not in (first, second)]
    return b.call(aten.diagonal.default, x, offset, first, second, shape=[*rest, count], dtype=x.dtype)
