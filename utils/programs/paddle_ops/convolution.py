"""Convolutions, transposed convolutions, and the sliding windows of unfold and fold."""

from __future__ import annotations

from collections.abc import Sequence

from utils.programs.paddle_ops.activation import activated
from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.layout import channels_first
from utils.programs.paddle_ops.registry import Ints, Sizes, desc, pir
from utils.programs.paddle_ops.sizes import TranslationError, product, show, static
from utils.programs.paddle_ops.values import Value

Sides = list[tuple[int, int]]


def positive(values: Sequence[int], count: int, what: str) -> list[int]:
    """Numbers for `count` dimensions; a single number stands for all of them.

    Raises:
        TranslationError: their count is wrong, or one is below 1.
    """
    if len(values) == 1:
        values = list(values) * count
    if len(values) != count or min(values) < 1:
        raise TranslationError(f"its {what} is {list(values)[:8]}")
    return list(values)


def window_padding(
    paddings: Sequence[int], algorithm: str, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> Sides:
    """What is added before and after each dimension.

    Args:
        paddings: one number per dimension, or one before and one after each; EXPLICIT takes them as they are.
        algorithm: EXPLICIT, VALID (none), or SAME (as many windows as strides fit; the odd one is added after).
        sizes, kernel, strides: of each dimension.
    """
    count = len(sizes)
    if algorithm == "VALID":
        return [(0, 0)] * count
    if algorithm == "SAME":
        totals = [
            max((-(-size // stride) - 1) * stride + length - size, 0)
            for size, length, stride in zip(sizes, kernel, strides, strict=True)
        ]
        return [(total // 2, total - total // 2) for total in totals]
    if algorithm != "EXPLICIT":
        raise TranslationError(f"its padding_algorithm is {algorithm[:50]!r}")
    if len(paddings) == 1:
        paddings = list(paddings) * count
    if len(paddings) == count:
        sides = [(padding, padding) for padding in paddings]
    elif len(paddings) == 2 * count:
        sides = list(zip(paddings[::2], paddings[1::2], strict=True))
    else:
        raise TranslationError(f"it has {len(paddings)} paddings for {count} dimensions")
    if any(side < 0 for pair in sides for side in pair):
        raise TranslationError(f"its paddings are {list(paddings)}")
    return sides


def torch_sides(sides: Sides) -> list[int]:
    """Paddings as torch.nn.functional.pad takes them: last dimension first."""
    return [side for pair in reversed(sides) for side in pair]


def windows(size: int, sides: tuple[int, int], kernel: int, stride: int, dilation: int) -> int:
    """How many windows fit into a dimension."""
    return (size + sum(sides) - dilation * (kernel - 1) - 1) // stride + 1


def _spatial(x: Value, count: int) -> list[int]:
    if x.ndim != count + 2:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    return [static(size, "image size") for size in x.shape[2:]]


_CONVOLUTION = {2: aten.conv2d.default, 3: aten.conv3d.default}


def convolution(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    *,
    strides: Ints,
    paddings: Ints,
    padding_algorithm: str = "EXPLICIT",
    dilations: Ints | None = None,
    groups: int = 1,
    data_format: str = "NCHW",
) -> Value:
    """Weights are (out, in / groups, height, width) in both layouts of images."""
    count = weight.ndim - 2
    if count not in _CONVOLUTION:
        raise TranslationError(f"its weight has the shape {show(weight.shape)}")
    x, restore = channels_first(b, x, data_format)
    sizes = _spatial(x, count)
    outputs, inputs, *kernel = (static(size, "weight") for size in weight.shape)
    strides = positive(strides, count, "strides")
    dilations = positive(dilations or [1], count, "dilations")
    if padding_algorithm == "SAME":
        dilations = [1] * count
    if groups < 1 or min(outputs, inputs, *kernel) < 1 or outputs % groups or x.shape[1] != inputs * groups:
        raise TranslationError(f"images of shape {show(x.shape)}, a weight {show(weight.shape)} and {groups} groups")
    sides = window_padding(paddings, padding_algorithm, sizes, kernel, strides)
    shape = [x.shape[0], outputs]
    for size, pair, length, stride, dilation in zip(sizes, sides, kernel, strides, dilations, strict=True):
        shape.append(windows(size, pair, length, stride, dilation))
        if shape[-1] < 1:
            raise TranslationError(f"images of shape {show(x.shape)} are smaller than its windows of {kernel}")
    if all(before == after for before, after in sides):
        padding = [before for before, _ in sides]
    else:
        x, padding = b.pad(x, torch_sides(sides)), [0] * count
    if bias is not None:
        bias = b.reshape(bias, [outputs])
    result = b.call(
        _CONVOLUTION[count], x, weight, bias, strides, padding, dilations, groups,
        shape=shape, dtype=x.dtype, work=inputs * static(product(kernel), "kernel"),
    )  # fmt: skip
    return restore(result)


@desc("conv2d depthwise_conv2d conv3d fused_conv2d fused_conv3d",
      "Input:x Filter:weight Bias:bias ResidualData:residual", results="Output")  # fmt: skip
@pir("conv2d depthwise_conv2d conv3d fused_conv2d fused_conv3d", "x weight bias residual")
def convolution_with_more(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    residual: Value | None = None,
    *,
    strides: Ints,
    paddings: Ints,
    padding_algorithm: str = "EXPLICIT",
    dilations: Ints | None = None,
    groups: int = 1,
    data_format: str = "NCHW",
    fuse_residual_connection: bool = False,
    fuse_activation: str = "",
    fuse_alpha: float = 0.0,
    fuse_beta: float = 0.0,
) -> Value:
    """A convolution with the operations that engines fuse into it; up to Paddle 2.4 named like the plain one."""
    result = convolution(
        b, x, weight, bias, strides=strides, paddings=paddings, padding_algorithm=padding_algorithm,
        dilations=dilations, groups=groups, data_format=data_format,
    )  # fmt: skip
    if fuse_residual_connection != (residual is not None):
        raise TranslationError(f"its fuse_residual_connection is {fuse_residual_connection}, which does not fit")
    if residual is not None:
        result = b.binary(aten.add.Tensor, result, residual)
    return activated(b, result, fuse_activation, fuse_alpha, fuse_beta)


@desc("conv2d_transpose depthwise_conv2d_transpose", "Input:x Filter:weight Bias:bias", results="Output")
@pir("conv2d_transpose depthwise_conv2d_transpose", "x weight output_size")
@pir("conv2d_transpose_bias", "x weight bias output_size")
def transposed_convolution(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    output_size: Ints | None = None,
    *,
    strides: Ints,
    paddings: Ints,
    output_padding: Ints | None = None,
    padding_algorithm: str = "EXPLICIT",
    dilations: Ints | None = None,
    groups: int = 1,
    data_format: str = "NCHW",
) -> Value:
    """Weights are (in, out / groups, height, width)."""
    x, restore = channels_first(b, x, data_format)
    sizes = _spatial(x, 2)
    if weight.ndim != 4:
        raise TranslationError(f"its weight has the shape {show(weight.shape)}")
    inputs, outputs, *kernel = (static(size, "weight") for size in weight.shape)
    strides = positive(strides, 2, "strides")
    dilations = positive(dilations or [1], 2, "dilations")
    if padding_algorithm == "SAME":
        dilations = [1, 1]
    if groups < 1 or min(inputs, outputs, *kernel) < 1 or inputs % groups or x.shape[1] != inputs:
        raise TranslationError(f"images of shape {show(x.shape)}, a weight {show(weight.shape)} and {groups} groups")
    sides = window_padding(paddings, padding_algorithm, sizes, kernel, strides)
    natural = [
        (size - 1) * stride - sum(pair) + dilation * (length - 1) + 1
        for size, stride, pair, dilation, length in zip(sizes, strides, sides, dilations, kernel, strict=True)
    ]
    extra = list(output_padding or [0, 0])
    if output_size:
        extra = [wanted - have for wanted, have in zip(output_size, natural, strict=len(output_size) == 2)]
    if len(extra) == 1:
        extra *= 2
    if len(extra) != 2 or not all(0 <= more < stride for more, stride in zip(extra, strides, strict=True)):
        raise TranslationError(f"its output_padding is {extra}, with strides {strides}")
    # Uneven paddings: the smaller side applies here, and the rest of the larger one is cut off afterwards.
    padding = [min(pair) for pair in sides]
    full = [
        size + sum(pair) - 2 * least + more
        for size, pair, least, more in zip(natural, sides, padding, extra, strict=True)
    ]
    if bias is not None:
        bias = b.reshape(bias, [outputs * groups])
    result = b.call(
        aten.conv_transpose2d.input, x, weight, bias, strides, padding, extra, groups, dilations,
        shape=[x.shape[0], outputs * groups, *full], dtype=x.dtype, work=inputs * kernel[0] * kernel[1],
    )  # fmt: skip
    for axis, (pair, least, size, more) in enumerate(zip(sides, padding, natural, extra, strict=True), start=2):
        if size + more < 1:
            raise TranslationError(f"its result would have the size {size + more}")
        result = b.slice(result, axis, pair[0] - least, pair[0] - least + size + more)
    return restore(result)


@desc("unfold", "X:x", results="Y")
@pir("unfold", "x")
def unfold(b: Builder, x: Value, kernel_sizes: Ints, strides: Ints, paddings: Ints, dilations: Ints) -> Value:
    """Every window of the images as a column: (N, C, H, W) to (N, C kh kw, windows)."""
    sizes = _spatial(x, 2)
    kernel, strides, dilations, sides = _window(kernel_sizes, strides, paddings, dilations)
    counts = [
        windows(size, pair, length, stride, dilation)
        for size, pair, length, stride, dilation in zip(sizes, sides, kernel, strides, dilations, strict=True)
    ]
    if min(counts) < 1:
        raise TranslationError(f"images of shape {show(x.shape)} are smaller than its windows of {kernel}")
    if all(before == after for before, after in sides):
        padding = [before for before, _ in sides]
    else:
        x, padding = b.pad(x, torch_sides(sides)), [0, 0]
    shape = [x.shape[0], x.shape[1] * (kernel[0] * kernel[1]), counts[0] * counts[1]]
    return b.call(aten.im2col.default, x, kernel, dilations, padding, strides, shape=shape, dtype=x.dtype)


@desc("fold", "X:x", results="Y")
@pir("fold", "x")
def fold(
    b: Builder, x: Value, output_sizes: Sizes, kernel_sizes: Ints, strides: Ints, paddings: Ints, dilations: Ints
) -> Value:
    """The sum of overlapping windows at their positions, the inverse of `unfold`."""
    kernel, strides, dilations, sides = _window(kernel_sizes, strides, paddings, dilations)
    sizes = positive([static(size, "output size") for size in output_sizes], 2, "output_sizes")
    if any(before != after for before, after in sides):
        raise TranslationError(f"its paddings are {paddings}")
    counts = [
        windows(size, pair, length, stride, dilation)
        for size, pair, length, stride, dilation in zip(sizes, sides, kernel, strides, dilations, strict=True)
    ]
    area = kernel[0] * kernel[1]
    if x.ndim != 3 or min(counts) < 1 or x.shape[2] != counts[0] * counts[1]:
        raise TranslationError(f"windows of shape {show(x.shape)} for images of {sizes}")
    shape = [x.shape[0], static(x.shape[1], "number of channels") // area, *sizes]
    padding = [before for before, _ in sides]
    return b.call(aten.col2im.default, x, sizes, kernel, dilations, padding, strides, shape=shape, dtype=x.dtype)


def _window(kernel: Ints, strides: Ints, paddings: Ints, dilations: Ints) -> tuple[Ints, Ints, Ints, Sides]:
    """The geometry of unfold and fold, whose four paddings are top, left, bottom, right."""
    if len(paddings) == 4:
        top, left, bottom, right = paddings
        paddings = [top, bottom, left, right]
    kernel = positive(kernel, 2, "kernel_sizes")
    strides = positive(strides, 2, "strides")
    dilations = positive(dilations, 2, "dilations")
    return kernel, strides, dilations, window_padding(paddings, "EXPLICIT", [1, 1], kernel, strides)
