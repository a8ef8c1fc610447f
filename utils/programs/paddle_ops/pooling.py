"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.convolution import Sides, positive, torch_sides, window_padding
from utils.programs.paddle_ops.layout import channels_first
from utils.programs.paddle_ops.registry import Ints, desc, pir
from utils.programs.paddle_ops.sizes import TranslationError, show, static
from utils.programs.paddle_ops.values import Value

# PyTorch walks from the beginning of a window to the image one by one, for minutes if that is far outside.
MAX_PADDING = 1024

# By the number of dimensions in which windows slide.
MAXIMA = {2: aten.max_pool2d.default, 3: aten.max_pool3d.default}
AVERAGES = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}
ADAPTIVE_MAXIMA = {2: aten.adaptive_max_pool2d.default, 3: aten.adaptive_max_pool3d.default}
ADAPTIVE_AVERAGES = {2: aten.adaptive_avg_pool2d.default, 3: aten.adaptive_avg_pool3d.default}


@desc("pool2d pool3d", "X:x", "ksize:kernel_size")
@pir("pool2d", "x kernel_size")
@pir("pool3d", "x")
def pool(
    b: Builder,
    x: Value,
    kernel_size: Ints,
    pooling_type: str,
    strides: Ints | None = None,
    paddings: Ints | None = None,
    padding_algorithm: str = "EXPLICIT",
    exclusive: bool = True,
    ceil_mode: bool = False,
    adaptive: bool = False,
    global_pooling: bool = False,
    data_format: str = "NCHW",
) -> Value:
    x, restore = channels_first(b, x, data_format)
    count = x.ndim - 2
    if count not in MAXIMA:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    if pooling_type not in ("max", "avg"):
        raise TranslationError(f"its pooling_type is {pooling_type[:50]!r}")
    sizes = [static(size, "image size") for size in x.shape[2:]]
    if min(sizes) < 1:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    if global_pooling:
        return restore(_global_pool(b, x, pooling_type))
    kernel = positive(kernel_size, count, "ksize")
    if adaptive:
        return restore(_adaptive_pool(b, x, pooling_type, kernel))
    mean = _average_exclusive if exclusive else _average_whole if b.is_fluid else _average_inclusive
    reduce = _max_pool if pooling_type == "max" else mean
    return restore(_slide(b, x, kernel, strides, paddings, padding_algorithm, ceil_mode, reduce))


def _slide(
    b: Builder,
    x: Value,
    kernel: list[int],
    strides: Ints | None,
    paddings: Ints | None,
    padding_algorithm: str,
    ceil_mode: bool,
    reduce: Callable[..., Value],
) -> Value:
    """What `reduce` makes of every window."""
    sizes = [static(size, "image size") for size in x.shape[2:]]
    strides = positive(strides or [1], len(sizes), "strides")
    sides = window_padding(paddings or [0], padding_algorithm, sizes, kernel, strides)
    counts = []
    for size, pair, length, stride in zip(sizes, sides, kernel, strides, strict=True):
        room = size + sum(pair) - length
        counts.append((room + (stride - 1 if ceil_mode else 0)) // stride + 1)
        if room < 0 or max(pair) >= length or max(pair) > MAX_PADDING:
            raise TranslationError(f"images of {sizes}, windows of {kernel}, paddings {sides}")
    return reduce(b, x, kernel, strides, sides, counts)


def _global_pool(b: Builder, x: Value, pooling_type: str) -> Value:
    axes = list(range(2, x.ndim))
    shape = [*x.shape[:2], *([1] * len(axes))]
    target = aten.mean.dim if pooling_type == "avg" else aten.amax.default
    return b.call(target, x, axes, True, shape=shape, dtype=x.dtype)


def _adaptive_pool(b: Builder, x: Value, pooling_type: str, counts: list[int]) -> Value:
    shape = [*x.shape[:2], *counts]
    sizes = list(x.shape[2:])
    if set(counts) == {1}:
        return _global_pool(b, x, pooling_type)
    if counts == sizes:
        return x
    if pooling_type == "avg":
        return b.call(ADAPTIVE_AVERAGES[len(counts)], x, counts, shape=shape, dtype=x.dtype)
    if all(static(size, "image size") % count == 0 for size, count in zip(sizes, counts, strict=True)):
        kernel = [static(size, "image size") // count for size, count in zip(sizes, counts, strict=True)]
        return b.call(MAXIMA[len(counts)], x, kernel, kernel, shape=shape, dtype=x.dtype)
    return b.call_many(ADAPTIVE_MAXIMA[len(counts)], x, counts, shapes=[shape, shape], dtypes=[x.dtype, torch.int64])[0]


def _exact_sides(x: Value, kernel: list[int], strides: list[int], sides: Sides, counts: list[int]) -> Sides:
    """Paddings with which exactly `counts` windows fit; with ceil_mode windows may begin inside and end outside."""
    return [
        (before, max((count - 1) * stride + length - static(size, "image size") - before, 0))
        for size, (before, _), length, stride, count in zip(x.shape[2:], sides, kernel, strides, counts, strict=True)
    ]


def _torch_padding(
    x: Value, kernel: list[int], strides: list[int], sides: Sides, counts: list[int]
) -> tuple[list[int], bool] | None:
    """Padding and ceil_mode that give PyTorch's pooling the same windows; None if impossible."""
    padding = [before for before, _ in sides]
    if any(2 * before > length for before, length in zip(padding, kernel, strict=True)):
        return None
    for ceil_mode in (False, True):
        found = []
        for size, before, length, stride in zip(x.shape[2:], padding, kernel, strides, strict=True):
            room = static(size, "image size") + 2 * before - length
            count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
            if ceil_mode and (count - 1) * stride >= static(size, "image size") + before:
                count -= 1  # PyTorch omits windows that are entirely outside
            found.append(count)
        if found == counts:
            return padding, ceil_mode
    return None


def _max_pool(b: Builder, x: Value, kernel: list[int], strides: list[int], sides: Sides, counts: list[int]) -> Value:
    shape = [*x.shape[:2], *counts]
    settings = _torch_padding(x, kernel, strides, sides, counts)
    if settings is None:
        lowest = torch.finfo(x.dtype).min if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
        x = b.pad(x, torch_sides(_exact_sides(x, kernel, strides, sides, counts)), number=lowest)
        settings = [0] * len(counts), False
    padding, ceil_mode = settings
    dilations = [1] * len(counts)
    return b.call(MAXIMA[len(counts)], x, kernel, strides, padding, dilations, ceil_mode, shape=shape, dtype=x.dtype)


def _average_exclusive(
    b: Builder, x: Value, kernel: list[int], strides: list[int], sides: Sides, counts: list[int]
) -> Value:
    """The mean of the elements that are not padding."""
    shape = [*x.shape[:2], *counts]
    settings = _torch_padding(x, kernel, strides, sides, counts)
    if settings is not None:
        padding, ceil_mode = settings
        return b.call(AVERAGES[len(counts)], x, kernel, strides, padding, ceil_mode, False, shape=shape, dtype=x.dtype)
    exact = _exact_sides(x, kernel, strides, sides, counts)
    ones = torch.ones(1, 1, *(static(size, "image size") for size in x.shape[2:]))
    inside = AVERAGES[len(counts)](torch.nn.functional.pad(ones, torch_sides(exact)), kernel, strides)
    mean = _average_whole(b, x, kernel, strides, sides, counts)
    share = inside.clamp_min(1.0 / math.prod(kernel))
    scale = b.constant((1.0 / share.double()).to(x.dtype))
    return b.call(aten.mul.Tensor, mean, scale, shape=shape, dtype=x.dtype)


def _average_inclusive(
    b: Builder, x: Value, kernel: list[int], strides: list[int], sides: Sides, counts: list[int]
) -> Value:
    """The sum divided by the part of the window within the image and a padding as wide after it as before it.

    Only windows that ceil_mode or one-sided padding leads beyond that are affected. Source: PaddlePaddle 2 and 3.
    """
    lengths = [
        [min(length, static(size, "image size") + 2 * before - number * stride) for number in range(count)]
        for size, (before, _), length, stride, count in zip(x.shape[2:], sides, kernel, strides, counts, strict=True)
    ]
    if min(min(axis) for axis in lengths) < 1:
        raise TranslationError(f"images of shape {show(x.shape)}, windows of {kernel} outside of them")
    if all(min(axis) == length for axis, length in zip(lengths, kernel, strict=True)):
        return _average_whole(b, x, kernel, strides, sides, counts)
    settings = _torch_padding(x, kernel, strides, sides, counts)
    if settings is not None:
        target, shape = AVERAGES[len(counts)], [*x.shape[:2], *counts]
        return b.call(target, x, kernel, strides, *settings, True, shape=shape, dtype=x.dtype)
    mean = _average_whole(b, x, kernel, strides, sides, counts)
    share = torch.ones(())
    for axis, length in zip(lengths, kernel, strict=True):
        share = share[..., None] * (torch.tensor(axis, dtype=torch.float64) / length)
    return b.call(aten.mul.Tensor, mean, b.constant((1 / share).to(x.dtype)), shape=mean.shape, dtype=x.dtype)


def _average_whole(
    b: Builder, x: Value, kernel: list[int], strides: list[int], sides: Sides, counts: list[int]
) -> Value:
    """The sum divided by the window's area, even at the borders. Source: fluid 1.x."""
    shape = [*x.shape[:2], *counts]
    settings = _torch_padding(x, kernel, strides, sides, counts)
    if settings is not None and not settings[1]:
        padding = settings[0]
    else:
        x, padding = b.pad(x, torch_sides(_exact_sides(x, kernel, strides, sides, counts))), [0] * len(counts)
    return b.call(AVERAGES[len(counts)], x, kernel, strides, padding, False, True, shape=shape, dtype=x.dtype)


@desc("max_pool2d_with_index", "X:x", "ksize:kernel_size")
@pir("max_pool2d_with_index", "x")
def max_pool2d_with_index(
    b: Builder,
    x: Value,
    kernel_size: Ints,
    strides: Ints | None = None,
    paddings: Ints | None = None,
    global_pooling: bool = False,
    adaptive: bool = False,
    ceil_mode: bool = False,
) -> Value:
    """The maxima; their positions are only for unpooling, which classifiers do not use."""
    return pool(
        b, x, kernel_size, "max", strides, paddings,
        global_pooling=global_pooling, adaptive=adaptive, ceil_mode=ceil_mode,
    )  # fmt: skip


@desc("lp_pool2d", "X:x", "ksize:kernel_size")
@pir("lp_pool2d", "x kernel_size")
def lp_pool2d(
    b: Builder,
    x: Value,
    kernel_size: Ints,
    norm_type: float = 2.0,
    strides: Ints | None = None,
    paddings: Ints | None = None,
    padding_algorithm: str = "EXPLICIT",
    ceil_mode: bool = False,
    global_pooling: bool = False,
    data_format: str = "NCHW",
) -> Value:
    """(sum of x^p)^(1/p) over each window"""
    if norm_type == 0:
        raise TranslationError("its norm_type is 0")
    x, restore = channels_first(b, x, data_format)
    powers = b.unary(aten.pow.Tensor_Scalar, x, norm_type)
    if global_pooling:
        kernel_size = [static(size, "image size") for size in x.shape[2:]]
        strides, paddings, padding_algorithm, ceil_mode = None, None, "EXPLICIT", False
    kernel = positive(kernel_size, 2, "ksize")
    means = _slide(b, powers, kernel, strides, paddings, padding_algorithm, ceil_mode, _average_whole)
    sums = b.unary(aten.mul.Scalar, means, float(math.prod(kernel)))
    return restore(b.unary(aten.pow.Tensor_Scalar, sums, 1.0 / norm_type))
