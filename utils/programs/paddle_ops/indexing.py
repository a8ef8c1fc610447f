"""Operators that read elements of tensors, and replace some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.registry import Ints, Sizes, desc, pir
from utils.programs.paddle_ops.sizes import BatchSize, Size, TranslationError, product, show, static
from utils.programs.paddle_ops.values import Value, broadcast


def bounds(size: Size, start: Size, stop: Size, step: int) -> tuple[Size, Size]:
    """Start and (exclusive) end of a slice within a dimension; for backward steps the end may be -1."""
    if isinstance(size, BatchSize):
        return _batch_bounds(size, start, stop, step)
    first, last = static(start, "starts"), static(stop, "ends")
    if step > 0:
        first, last, _ = slice(first, last, step).indices(size)
        return first, max(first, last)
    # An end before the beginning, such as -1, means all remaining elements.
    first, last, _ = slice(first, last if -size <= last != -1 else None, step).indices(size)
    return first, min(first, last)


def _batch_bounds(size: BatchSize, start: Size, stop: Size, step: int) -> tuple[Size, Size]:
    """The same for the number of images, which is unknown but at least 1."""

    def place(position: Size) -> Size:
        if isinstance(position, int) and position < 0:
            return size + position
        return position

    first, last = place(start), place(stop)
    if (isinstance(last, int) and last >= 2**31 - 1) or last == size:
        last = size
    elif isinstance(last, int) and last > size.per_image + size.constant:
        raise TranslationError(f"it takes elements up to {last} of {show([size])}")
    if (isinstance(first, BatchSize) and first != last) or step != 1:
        raise TranslationError(f"it takes elements from {show([first])} to {show([last])} of {show([size])}")
    return first, last


@desc("slice", "Input:x StartsTensorList:starts StartsTensor:starts EndsTensorList:ends EndsTensor:ends")
@pir("slice", "x starts ends")
def slice_axes(
    b: Builder, x: Value, axes: Ints, starts: Sizes, ends: Sizes, decrease_axis: Ints | None = None
) -> Value:
    return strided_slice(b, x, axes, starts, ends, [1] * len(axes), decrease_axis)


@desc("strided_slice",
      "Input:x StartsTensorList:starts StartsTensor:starts EndsTensorList:ends EndsTensor:ends "
      "StridesTensorList:strides StridesTensor:strides")  # fmt: skip
@pir("strided_slice", "x starts ends strides")
def strided_slice(
    b: Builder, x: Value, axes: Ints, starts: Sizes, ends: Sizes, strides: Ints, decrease_axis: Ints | None = None
) -> Value:
    """Slices as in Python; the dimensions in `decrease_axis`, of size 1, are removed from the result."""
    if not len(axes) == len(starts) == len(ends) == len(strides) or 0 in strides:
        raise TranslationError(
            f"it has {len(axes)} axes, {len(starts)} starts, {len(ends)} ends, strides {strides[:8]}"
        )
    for axis, start, stop, step in zip(axes, starts, ends, strides, strict=True):
        axis = x.axis(axis)
        first, last = bounds(x.shape[axis], start, stop, step)
        if step > 0:
            x = b.slice(x, axis, first, last, step)
        else:  # the same elements forwards, then reversed
            first, last = static(first, "starts"), static(last, "ends")
            count = (first - last - step - 1) // -step
            lowest = first + (count - 1) * step
            x = b.slice(x, axis, max(lowest, 0), first + 1 if count else max(lowest, 0), -step)
            x = b.unary(aten.flip.default, x, [axis])
    if decrease_axis:
        dropped = x.axes(decrease_axis)
        if any(x.shape[axis] != 1 for axis in dropped):
            raise TranslationError(f"it leaves dimensions {dropped} out of the shape {show(x.shape)}")
        x = b.reshape(x, [size for index, size in enumerate(x.shape) if index not in dropped])
    return x


@desc("crop crop_tensor", "X:x Shape:shape ShapeTensor:shape Offsets:offsets OffsetsTensor:offsets")
@pir("crop", "x shape offsets")
def crop(b: Builder, x: Value, shape: Sizes, offsets: Ints) -> Value:
    """`shape` elements from `offsets` on; -1: all remaining ones."""
    if len(shape) != x.ndim or len(offsets) != x.ndim:
        raise TranslationError(f"it crops a tensor of shape {show(x.shape)} to {show(shape)}")
    for axis, (size, offset) in enumerate(zip(shape, offsets, strict=True)):
        stop = x.shape[axis] if size == -1 else size + offset
        outside = isinstance(stop, int) and isinstance(x.shape[axis], int) and stop > x.shape[axis]  # type: ignore[operator]
        if offset < 0 or outside or (isinstance(stop, int) and stop < offset):
            raise TranslationError(f"it crops a tensor of shape {show(x.shape)} to {show(shape)} from {offsets}")
        x = b.slice(x, axis, offset, stop)
    return x


def check_index(index: Value, size: Size, may_be_negative: bool = True) -> None:
    """Refuses constant indices that are out of bounds. (Indices computed from images are checked when used.)"""
    if index.dtype not in (torch.int32, torch.int64):
        raise TranslationError("its index is not an integer")
    limit = static(size, "indexed dimension")
    for known in index.known or ():
        if known.numel() and (int(known.max()) >= limit or int(known.min()) < (-limit if may_be_negative else 0)):
            raise TranslationError(f"its index exceeds the bounds of {limit} elements")


def select(b: Builder, x: Value, index: Value, axis: int) -> Value:
    """Slices of `x` along a dimension, in the order of a list of indices."""
    check_index(index, x.shape[axis])
    index = b.reshape(index, [product(index.shape)])
    shape = [*x.shape[:axis], index.shape[0], *x.shape[axis + 1 :]]
    known = index.constant
    if known is not None:
        positions = [position % static(x.shape[axis], "indexed dimension") for position in known.tolist()]
        if positions == list(range(positions[0], positions[0] + len(positions))) if positions else False:
            return b.slice(x, axis, positions[0], positions[0] + len(positions))
        index = b.constant(torch.tensor(positions, dtype=torch.int64))
    return b.call(aten.index_select.default, x, axis, index, shape=shape, dtype=x.dtype)


@desc("gather", "X:x Index:index Axis:axis")
@pir("gather", "x index axis")
def gather(b: Builder, x: Value, index: Value, axis: int = 0) -> Value:
    """The index is a list, a column, or a single number, which removes the dimension."""
    axis = x.axis(axis)
    picked = select(b, x, index, axis)
    if index.ndim == 0:
        return b.reshape(picked, [*x.shape[:axis], *x.shape[axis + 1 :]])
    return picked


@desc("index_select", "X:x Index:index", "dim:axis")
@pir("index_select", "x index")
def index_select(b: Builder, x: Value, index: Value, axis: int = 0) -> Value:
    return select(b, x, index, x.axis(axis))


@desc("gather_nd", "X:x Index:index")
@pir("gather_nd", "x index")
def gather_nd(b: Builder, x: Value, index: Value) -> Value:
    """The last dimension of the index is a position in the first dimensions of `x`."""
    if index.ndim == 0 or static(index.shape[-1], "index") > x.ndim:
        raise TranslationError(f"an index of shape {show(index.shape)} for a tensor of shape {show(x.shape)}")
    count = static(index.shape[-1], "index")
    columns = []
    for axis in range(count):
        column = b.reshape(b.slice(index, index.ndim - 1, axis, axis + 1), index.shape[:-1])
        check_index(column, x.shape[axis])
        columns.append(b.cast(column, torch.int64))
    shape = [*index.shape[:-1], *x.shape[count:]]
    return b.call(aten.index.Tensor, x, columns, shape=shape, dtype=x.dtype) if count else b.expand(x, shape)


@desc("index_sample", "X:x Index:index")
@pir("index_sample", "x index")
def index_sample(b: Builder, x: Value, index: Value) -> Value:
    """Elements of each row."""
    return take_along_axis(b, x, index, 1)


@desc("take_along_axis", "Input:x Index:index", "Axis:axis", results="Result")
@pir("take_along_axis", "x index")
def take_along_axis(b: Builder, x: Value, index: Value, axis: int = 0) -> Value:
    axis = x.axis(axis)
    if x.ndim != index.ndim:
        raise TranslationError(f"an index of shape {show(index.shape)} for a tensor of shape {show(x.shape)}")
    wanted = [1 if position == axis else size for position, size in enumerate(x.shape)]
    other = [1 if position == axis else size for position, size in enumerate(index.shape)]
    common = list(broadcast(wanted, other))
    x = b.expand(x, [*common[:axis], x.shape[axis], *common[axis + 1 :]])
    index = b.expand(index, [*common[:axis], index.shape[axis], *common[axis + 1 :]])
    check_index(index, x.shape[axis], may_be_negative=False)
    return b.call(aten.gather.default, x, axis, b.cast(index, torch.int64), shape=index.shape, dtype=x.dtype)


@desc("lookup_table", "W:weight Ids:index")
def lookup_table(b: Builder, weight: Value, index: Value, padding_idx: int = -1) -> Value:
    """fluid's embedding, whose indices have a last dimension of 1."""
    if index.ndim < 2 or index.shape[-1] != 1:
        raise TranslationError(f"its indices have the shape {show(index.shape)}")
    return embedding(b, b.reshape(index, index.shape[:-1]), weight, padding_idx)


@desc("lookup_table_v2", "W:weight Ids:index")
@pir("embedding", "index weight")
def embedding(b: Builder, index: Value, weight: Value, padding_idx: int = -1) -> Value:
    """Rows of a table; the row `padding_idx` counts as zeros."""
    if weight.ndim != 2:
        raise TranslationError(f"its table has the shape {show(weight.shape)}")
    rows = static(weight.shape[0], "table")
    check_index(index, rows, may_be_negative=False)
    table = weight.constant
    if padding_idx >= 0 and table is not None and padding_idx < rows and bool(table[padding_idx].any()):
        table = table.clone()
        table[padding_idx] = 0
        weight = b.constant(table)
    shape = [*index.shape, weight.shape[1]]
    return b.call(aten.embedding.default, weight, index, shape=shape, dtype=weight.dtype)


@desc("one_hot", "X:x depth_tensor:depth")
def one_hot_column(b: Builder, x: Value, depth: int, dtype: torch.dtype | None = None) -> Value:
    """fluid's operator, whose last dimension of size 1 becomes the class dimension."""
    return one_hot(b, b.reshape(x, x.shape[:-1]), depth, dtype)


@desc("one_hot_v2", "X:x depth_tensor:depth")
@pir("one_hot", "x depth")
def one_hot(b: Builder, x: Value, depth: int, dtype: torch.dtype | None = None) -> Value:
    if not 0 < depth < 2**20:
        raise TranslationError(f"its depth is {depth}")
    classes = b.computed(torch.arange(depth, dtype=x.dtype))
    equal = b.binary(aten.eq.Tensor, b.reshape(x, [*x.shape, 1]), classes, dtype=torch.bool)
    return b.cast(equal, dtype or torch.float32)


# ------------------------------------------------------------------------------------------------ putting in


def put_slices(b: Builder, x: Value, values: Value, slices: Sequence[tuple[int, int, int, int]]) -> Value:
    """`x` with one part replaced, given by (axis, start, stop, step) in several dimensions."""
    if not slices:
        return b.expand(b.cast(values, x.dtype), x.shape)
    (axis, start, stop, step), *rest = slices
    part = b.slice(x, axis, start, stop, step)
    inner = put_slices(b, part, values, rest)
    if part.shape == x.shape:
        return inner
    return b.call(aten.slice_scatter.default, x, inner, axis, start, stop, step, shape=x.shape, dtype=x.dtype)


@desc("set_value", "Input:x ValueTensor:values StartsTensorList:starts EndsTensorList:ends StepsTensorList:steps",
      "bool_values:numbers fp32_values:numbers int32_values:numbers int64_values:numbers fp64_values:numbers "
      "values:numbers shape:value_shape")  # fmt: skip
@pir("set_value set_value_", "x starts ends steps", "values:numbers shape:value_shape")
@pir("set_value_with_tensor set_value_with_tensor_", "x values starts ends steps")
def set_value(
    b: Builder,
    x: Value,
    axes: Ints,
    values: Value | None = None,
    starts: Sizes | None = None,
    ends: Sizes | None = None,
    steps: Ints | None = None,
    decrease_axes: Ints | None = None,
    none_axes: Ints | None = None,
    numbers: list[float] | None = None,
    value_shape: Ints | None = None,
) -> Value:
    """x[starts:ends:steps] = values, in the dimensions `axes`; those in `decrease_axes` were indexed by a number."""
    starts, ends, steps = starts or [], ends or [], steps or [1] * len(axes)
    if values is None:
        if not numbers or product(value_shape or [1]) != len(numbers):
            raise TranslationError(f"it puts {len(numbers or [])} numbers in")
        values = b.constant(torch.tensor(numbers).to(x.dtype).reshape(value_shape or [1]))
    if not len(axes) == len(starts) == len(ends) == len(steps) or none_axes:
        raise TranslationError(f"it has {len(axes)} axes, {len(starts)} starts, {len(ends)} ends, {len(steps)} steps")
    slices = []
    part = list(x.shape)
    for axis, start, stop, step in zip(x_axes(x, axes), starts, ends, steps, strict=True):
        if step < 1:
            raise TranslationError(f"its steps are {steps[:8]}")
        first, last = bounds(x.shape[axis], start, stop, step)
        slices.append((axis, first, last, step))
        part[axis] = (static(last, "ends") - static(first, "starts") + step - 1) // step if step > 1 else last - first
    shape = list(values.shape)
    for axis in sorted(x_axes(x, decrease_axes or [])):
        # The values lack dimensions that were indexed by a number.
        behind = x.ndim - 1 - axis
        if len(shape) < x.ndim and len(shape) >= behind:
            shape.insert(len(shape) - behind, 1)
    while len(shape) > x.ndim and shape[0] == 1:
        shape.pop(0)
    values = b.expand(b.reshape(values, shape), part)
    return put_slices(b, x, values, slices)


def x_axes(x: Value, axes: Sequence[int]) -> list[int]:
    """Dimensions counted from the front, in the given order.

    Raises:
        TranslationError: a dimension occurs twice.
    """
    found = [x.axis(axis) for axis in axes]
    if len(set(found)) < len(found):
        raise TranslationError(f"its axes are {list(axes)[:8]}")
    return found


@desc("put_along_axis", "Input:x Index:index Value:values", "Axis:axis Reduce:reduce", results="Result")
@pir("put_along_axis put_along_axis_", "x index values")
def put_along_axis(
    b: Builder, x: Value, index: Value, values: Value, axis: int = 0, reduce: str = "assign", include_self: bool = True
) -> Value:
    axis = x.axis(axis)
    check_index(index, x.shape[axis], may_be_negative=False)
    if reduce not in ("assign", "add") or not include_self or x.ndim != index.ndim:
        raise TranslationError(f"its reduce is {reduce[:50]!r}, its index of shape {show(index.shape)}")
    target = aten.scatter.src if reduce == "assign" else aten.scatter_add.default
    if any(
        isinstance(size, BatchSize) != isinstance(other, BatchSize)
        or (isinstance(size, int) and isinstance(other, int) and size > other)
        for position, (size, other) in enumerate(zip(index.shape, x.shape, strict=True))
        if position != axis
    ):
        raise TranslationError(f"an index of shape {show(index.shape)} for a tensor of shape {show(x.shape)}")
    values = b.expand(values, index.shape)
    return b.call(target, x, axis, b.cast(index, torch.int64), values, shape=x.shape, dtype=x.dtype)


@desc("scatter", "X:x Ids:index Updates:updates")
@pir("scatter scatter_", "x index updates")
def scatter(b: Builder, x: Value, index: Value, updates: Value, overwrite: bool = True) -> Value:
    """Replaces rows of `x`; without overwrite, sets them to zero and adds all updates."""
    if x.ndim == 0 or updates.ndim == 0:
        raise TranslationError("its input is a single number")
    check_index(index, x.shape[0], may_be_negative=False)
    index = b.cast(b.reshape(index, [product(index.shape)]), torch.int64)
    if updates.shape != (*index.shape, *x.shape[1:]):
        raise TranslationError(f"updates of shape {show(updates.shape)} for a tensor of shape {show(x.shape)}")
    if overwrite:
        return b.call(aten.index_copy.default, x, 0, index, updates, shape=x.shape, dtype=x.dtype)
    zeros = b.full(updates.shape, 0, x.dtype)
    cleared = b.call(aten.index_copy.default, x, 0, index, zeros, shape=x.shape, dtype=x.dtype)
    return b.call(aten.index_add.default, cleared, 0, index, updates, shape=x.shape, dtype=x.dtype)


@desc("scatter_nd_add", "X:x Index:index Updates:updates")
@pir("scatter_nd_add", "x index updates")
def scatter_nd_add(b: Builder, x: Value, index: Value, updates: Value) -> Value:
    if index.ndim == 0 or not 0 < static(index.shape[-1], "index") <= x.ndim:
        raise TranslationError(f"an index of shape {show(index.shape)} for a tensor of shape {show(x.shape)}")
    columns: list[Any] = []
    for axis in range(static(index.shape[-1], "index")):
        column = b.reshape(b.slice(index, index.ndim - 1, axis, axis + 1), index.shape[:-1])
        check_index(column, x.shape[axis], may_be_negative=False)
        columns.append(b.cast(column, torch.int64))
    updates = b.expand(updates, [*index.shape[:-1], *x.shape[len(columns) :]])
    return b.call(aten.index_put.default, x, columns, updates, True, shape=x.shape, dtype=x.dtype)


@desc("assign_value", "")
@pir("assign_value assign_value_", "")
def assign_value(
    b: Builder,
    shape: Ints,
    dtype: torch.dtype,
    values: list[float] | None = None,
    bool_values: list[float] | None = None,
    fp32_values: list[float] | None = None,
    int32_values: list[float] | None = None,
    int64_values: list[float] | None = None,
) -> Value:
    """A constant stored in the program, in the list for its type."""
    numbers = values or fp32_values or int32_values or int64_values or bool_values or []
    if product(shape) != len(numbers):
        raise TranslationError(f"it has {len(numbers)} values for the shape {shape[:8]}")
    return b.constant(torch.tensor(numbers).to(dtype).reshape(shape))
