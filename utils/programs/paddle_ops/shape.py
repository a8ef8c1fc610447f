"""Operators that change shapes, join tensors and split them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.layout import channels_first, is_channels_last
from utils.programs.paddle_ops.registry import Ints, Sizes, desc, pir
from utils.programs.paddle_ops.sizes import BatchSize, Size, TranslationError, freed, product, ratio, show, static
from utils.programs.paddle_ops.values import Value, broadcast

Parts = list[Value]


@desc("shape", "Input:x")
@pir("shape", "x")
def shape_32(b: Builder, x: Value) -> Value:
    return b.sizes(x.shape, torch.int32)


@pir("shape64", "x")
def shape_64(b: Builder, x: Value) -> Value:
    return b.sizes(x.shape)


@desc("size", "Input:x")
@pir("numel", "x")
def number_of_elements(b: Builder, x: Value) -> Value:
    return b.reshape(b.sizes([product(x.shape)]), [])


@desc("reshape reshape2", "X:x ShapeTensor:shape Shape:shape")
@pir("reshape reshape_", "x shape")
def reshape(b: Builder, x: Value, shape: Sizes) -> Value:
    """0 stands for the input's size, -1 for the remaining elements."""
    sizes = [
        x.shape[index] if size == 0 and index < x.ndim and product(x.shape) != 0 else size
        for index, size in enumerate(shape)
    ]
    sizes = freed(sizes, x.shape, b.fixed)
    if sizes.count(-1) > 1:
        raise TranslationError(f"its shape is {show(shape)}")
    if -1 in sizes:
        others = product(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = ratio(product(x.shape), others)
    return b.reshape(x, sizes)


@desc("transpose transpose2", "X:x", "axis:perm")
@pir("transpose transpose_", "x")
def transpose(b: Builder, x: Value, perm: Ints) -> Value:
    return b.permute(x, perm)


@desc("flatten flatten2", "X:x")
def flatten_to_matrix(b: Builder, x: Value, axis: int = 1) -> Value:
    if not 0 <= axis <= x.ndim:
        raise TranslationError(f"axis {axis} of a tensor of shape {show(x.shape)}")
    return b.reshape(x, [product(x.shape[:axis]), product(x.shape[axis:])])


@desc("flatten_contiguous_range", "X:x")
@pir("flatten flatten_", "x")
def flatten(b: Builder, x: Value, start_axis: int = 1, stop_axis: int = 1) -> Value:
    if x.ndim == 0:
        return b.reshape(x, [1])
    start, stop = x.axis(start_axis), x.axis(stop_axis)
    if start > stop:
        raise TranslationError(f"dimensions {start_axis} to {stop_axis} of a tensor of shape {show(x.shape)}")
    return b.reshape(x, [*x.shape[:start], product(x.shape[start : stop + 1]), *x.shape[stop + 1 :]])


@desc("squeeze squeeze2", "X:x", "axes:axis")
@pir("squeeze squeeze_", "x axis")
def squeeze(b: Builder, x: Value, axis: Ints | None = None) -> Value:
    """Dimensions of other sizes than 1 stay."""
    axes = x.axes(axis) if axis else range(x.ndim)
    return b.reshape(x, [size for index, size in enumerate(x.shape) if index not in axes or size != 1])


@desc("unsqueeze unsqueeze2", "X:x AxesTensorList:axis AxesTensor:axis", "axes:axis")
@pir("unsqueeze unsqueeze_", "x axis")
def unsqueeze(b: Builder, x: Value, axis: Ints) -> Value:
    """Dimensions are inserted one after the other."""
    shape = list(x.shape)
    for position in axis:
        if not -len(shape) - 1 <= position <= len(shape):
            raise TranslationError(f"axis {position} for a tensor of shape {show(shape)}")
        shape.insert(position if position >= 0 else len(shape) + 1 + position, 1)
    return b.reshape(x, shape)


@desc("concat", "X:values AxisTensor:axis")
@pir("concat", "values axis")
def concat(b: Builder, values: list[Value], axis: int = 0) -> Value:
    if not values:
        raise TranslationError("it joins nothing")
    return b.concat(values, axis)


@desc("stack", "X:values", results="Y")
@pir("stack", "values")
def stack(b: Builder, values: list[Value], axis: int = 0) -> Value:
    rank = values[0].ndim + 1
    if not -rank <= axis < rank:
        raise TranslationError(f"axis {axis} for tensors of shape {show(values[0].shape)}")
    axis %= rank
    return b.concat([b.reshape(value, [*value.shape[:axis], 1, *value.shape[axis:]]) for value in values], axis)


@desc("unstack", "X:x", results="Y")
@desc("unbind", "X:x")
@pir("unstack unbind", "x")
def unbind(b: Builder, x: Value, axis: int = 0, num: int = 0) -> Parts:
    axis = x.axis(axis)
    count = static(x.shape[axis], "number of parts")
    if num not in (0, count):
        raise TranslationError(f"{num} parts of a tensor of shape {show(x.shape)}")
    rest = [*x.shape[:axis], *x.shape[axis + 1 :]]
    return [b.reshape(part, rest) for part in split_sizes(b, x, [1] * count, axis)]


def split_sizes(b: Builder, x: Value, sizes: Sequence[int], axis: int) -> Parts:
    """Parts of the given sizes along a dimension."""
    if len(sizes) == 1:
        return [x]
    shapes = [[*x.shape[:axis], size, *x.shape[axis + 1 :]] for size in sizes]
    if not sizes or len(sizes) > 10_000:
        raise TranslationError(f"it splits a tensor into {len(sizes)} parts")
    return b.call_many(aten.split_with_sizes.default, x, list(sizes), axis, shapes=shapes, dtypes=x.dtype)


@pir("split_with_num", "x axis")
def split_evenly(b: Builder, x: Value, num: int, axis: int = 0) -> Parts:
    axis = x.axis(axis)
    size = static(x.shape[axis], "size of the parts")
    if num < 1 or size % num:
        raise TranslationError(f"{num} equal parts of a tensor of shape {show(x.shape)}")
    return split_sizes(b, x, [size // num] * num, axis)


@desc("split", "X:x AxisTensor:axis SectionsTensorList:sections")
def split(b: Builder, x: Value, sections: Ints | None = None, axis: int = 0, num: int = 0) -> Parts:
    """One of the sections may be -1: the rest."""
    if not sections:
        return split_evenly(b, x, num, axis)
    axis = x.axis(axis)
    size = static(x.shape[axis], "size of the parts")
    sizes = list(sections)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = size - sum(sizes) - 1
    if min(sizes) < 0 or sum(sizes) != size:
        raise TranslationError(f"sections {list(sections)[:8]} of a tensor of shape {show(x.shape)}")
    return split_sizes(b, x, sizes, axis)


@pir("combine", "values*")
def combine(b: Builder, values: list[Value]) -> Parts:
    return values


@pir("split", "values sections axis")
def split_or_separate(
    b: Builder, values: list[Value], sections: Ints | None = None, axis: int = 0
) -> Parts | tuple[Value, ...]:
    """Two operators with the same name: the second splits a list, and has no sections."""
    return tuple(values) if sections is None else split(b, values[0], sections, axis)


@desc("expand_v2", "X:x expand_shapes_tensor:shape Shape:shape")
@pir("expand", "x shape")
def expand(b: Builder, x: Value, shape: Sizes) -> Value:
    """-1, and for leading dimensions 0, keep the input's size."""
    offset = len(shape) - x.ndim
    if offset < 0:
        raise TranslationError(f"a tensor of shape {show(x.shape)} cannot be expanded to {show(shape)}")
    sizes = [x.shape[index - offset] if size == -1 and index >= offset else size for index, size in enumerate(shape)]
    if b.fixed and sizes[:1] == [b.fixed] and x.shape[:1] == (BatchSize(1),) and not offset:
        sizes[0] = BatchSize(1)
    return b.expand(x, sizes)


@desc("expand", "X:x expand_times_tensor:times ExpandTimes:times", "expand_times:times")
@desc("tile", "X:x repeat_times_tensor:times RepeatTimes:times", "repeat_times:times")
@pir("tile", "x times")
def tile(b: Builder, x: Value, times: Sizes) -> Value:
    """Repeats every dimension the given number of times."""
    count = max(len(times), x.ndim)
    shape = [1] * (count - x.ndim) + list(x.shape)
    repeats: list[Size] = [1] * (count - len(times)) + list(times)
    x = b.reshape(x, shape)
    result = [size * repeat for size, repeat in zip(shape, repeats, strict=True)]
    if all(repeat == 1 or size == 1 for size, repeat in zip(shape, repeats, strict=True)):
        return b.expand(x, result)
    return b.call(aten.repeat.default, x, repeats, shape=result, dtype=x.dtype)


@desc("expand_as", "X:x target_tensor:target")
def expand_as_multiple(b: Builder, x: Value, target: Value) -> Value:
    """fluid's operator: repeats every dimension until it is as long as the target's."""
    if x.ndim != target.ndim:
        raise TranslationError(f"a tensor of shape {show(x.shape)} cannot be expanded to {show(target.shape)}")
    return tile(b, x, [ratio(wanted, have) for wanted, have in zip(target.shape, x.shape, strict=True)])


@desc("expand_as_v2", "X:x Y:y")
@pir("expand_as", "x y")
def expand_as(b: Builder, x: Value, y: Value | None = None, target_shape: Ints | None = None) -> Value:
    if y is None and not target_shape:
        raise TranslationError("it has no target_shape")
    return b.expand(x, y.shape if y is not None else target_shape or [])


@desc("broadcast_tensors", "X:values")
@pir("broadcast_tensors", "values")
def broadcast_tensors(b: Builder, values: list[Value]) -> Parts:
    shape: tuple[Size, ...] = ()
    for value in values:
        shape = broadcast(shape, value.shape)
    return [b.expand(value, shape) for value in values]


@desc("meshgrid", "X:values")
@pir("meshgrid", "values")
def meshgrid(b: Builder, values: list[Value]) -> Parts:
    shape = [product(value.shape) for value in values]
    return [
        b.expand(b.reshape(value, [size if index == axis else 1 for index, size in enumerate(shape)]), shape)
        for axis, value in enumerate(values)
    ]


@desc("flip reverse", "X:x")
@pir("flip reverse", "x axis")
def flip(b: Builder, x: Value, axis: Ints) -> Value:
    return b.unary(aten.flip.default, x, x.axes(axis))


@desc("roll", "X:x ShiftsTensor:shifts")
@pir("roll", "x shifts")
def roll(b: Builder, x: Value, shifts: Ints, axis: Ints | None = None) -> Value:
    """Without axes the flattened tensor is rolled."""
    if not axis:
        row = b.reshape(x, [product(x.shape)])
        return b.reshape(b.unary(aten.roll.default, row, shifts, [0]), x.shape)
    if len(axis) != len(shifts):
        raise TranslationError(f"it has {len(shifts)} shifts for {len(axis)} axes")
    return b.unary(aten.roll.default, x, shifts, [x.axis(item) for item in axis])


@desc("pixel_shuffle", "X:x")
@pir("pixel_shuffle", "x")
def pixel_shuffle(b: Builder, x: Value, upscale_factor: int = 1, data_format: str = "NCHW") -> Value:
    x, restore = channels_first(b, x, data_format)
    channels, height, width = (static(size, "image size") for size in _image(x)[1:])
    factor = upscale_factor
    if factor < 1 or channels % (factor * factor):
        raise TranslationError(f"{channels} channels, shuffled by {factor}")
    shape = [x.shape[0], channels // (factor * factor), height * factor, width * factor]
    return restore(b.call(aten.pixel_shuffle.default, x, factor, shape=shape, dtype=x.dtype))


@desc("pixel_unshuffle", "X:x")
@pir("pixel_unshuffle", "x")
def pixel_unshuffle(b: Builder, x: Value, downscale_factor: int = 1, data_format: str = "NCHW") -> Value:
    x, restore = channels_first(b, x, data_format)
    channels, height, width = (static(size, "image size") for size in _image(x)[1:])
    factor = downscale_factor
    if factor < 1 or height % factor or width % factor:
        raise TranslationError(f"images of shape {show(x.shape)}, shuffled by {factor}")
    shape = [x.shape[0], channels * factor * factor, height // factor, width // factor]
    return restore(b.call(aten.pixel_unshuffle.default, x, factor, shape=shape, dtype=x.dtype))


@desc("shuffle_channel", "X:x", "group:groups")
@desc("channel_shuffle", "X:x")
@pir("shuffle_channel", "x", "group:groups")
@pir("channel_shuffle", "x")
def channel_shuffle(b: Builder, x: Value, groups: int = 1, data_format: str = "NCHW") -> Value:
    """Arranges the channels in `groups` rows and reads them by columns."""
    axis = x.ndim - 1 if is_channels_last(data_format) else 1
    channels = static(_image(x)[axis], "number of channels")
    if groups < 1 or channels % groups:
        raise TranslationError(f"{channels} channels in {groups} groups")
    rows = b.reshape(x, [*x.shape[:axis], groups, channels // groups, *x.shape[axis + 1 :]])
    order = [*range(axis), axis + 1, axis, *range(axis + 2, x.ndim + 1)]
    return b.reshape(b.permute(rows, order), x.shape)


@desc("space_to_depth", "X:x")
def space_to_depth(b: Builder, x: Value, blocksize: int) -> Value:
    """fluid's operator, which mixes channels and positions; see the order of dimensions."""
    images, channels, height, width = _image(x)
    block = blocksize
    if block < 1 or any(static(size, "image size") % block for size in (height, width)):
        raise TranslationError(f"images of shape {show(x.shape)} in blocks of {block}")
    if static(channels, "number of channels") % (block * block):
        raise TranslationError(f"{channels} channels in blocks of {block}")
    grouped = b.reshape(x, [images, block, block, channels // (block * block), height, width])
    mixed = b.permute(grouped, [0, 3, 4, 1, 5, 2])
    return b.reshape(mixed, [images, channels * (block * block), height // block, width // block])


@desc("repeat_interleave", "X:x", "Repeats:repeats dim:axis")
@pir("repeat_interleave", "x")
def repeat_interleave(b: Builder, x: Value, repeats: int, axis: int = 0) -> Value:
    """Repeats every slice along a dimension `repeats` times, with the copies next to each other."""
    axis = x.axis(axis)
    if not 0 < repeats < 2**20:
        raise TranslationError(f"it repeats {repeats} times")
    before, size, behind = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    copies = b.expand(b.reshape(x, [*before, size, 1, *behind]), [*before, size, repeats, *behind])
    return b.reshape(copies, [*before, size * repeats, *behind])


def _image(x: Value) -> tuple[Size, ...]:
    if x.ndim != 4:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    return x.shape


# ------------------------------------------------------------------------------------------------------ padding

MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "edge": "replicate",
    "replicate": "replicate",
    "circular": "circular",
}


def padded(b: Builder, x: Value, sides: Sequence[int], mode: str, number: float) -> Value:
    """`x` with a border; a negative one is cut off; `sides` as in torch.nn.functional.pad."""
    if mode not in MODES:
        raise TranslationError(f"its mode is {mode[:50]!r}")
    if len(sides) > 2 * x.ndim or len(sides) % 2:
        raise TranslationError(f"it has {len(sides)} paddings for a tensor of shape {show(x.shape)}")
    for index in range(len(sides) // 2):
        size, pair = x.shape[-1 - index], sides[2 * index : 2 * index + 2]
        limit = {"reflect": -1, "circular": 0}.get(mode)
        if limit is not None and any(pair) and max(pair) > static(size, "image size") + limit:
            raise TranslationError(f"its paddings are {list(sides)[:8]}, for a tensor of shape {show(x.shape)}")
        if min(pair) < 0 and (mode != "constant" or static(size, "image size") + min(pair) + min(max(pair), 0) < 1):
            raise TranslationError(f"its paddings are {list(sides)[:8]}, for a tensor of shape {show(x.shape)}")
        if mode != "constant" and any(pair) and static(size, "image size") < 1:
            raise TranslationError(f"a tensor of shape {show(x.shape)} has nothing to pad with")
    if not x.dtype.is_floating_point:
        number = int(number)
    return b.pad(x, sides, MODES[mode], number)


@desc("pad", "X:x")
@pir("pad", "x pad_value")
def pad(b: Builder, x: Value, paddings: Ints, pad_value: float = 0.0) -> Value:
    """Paddings before and after every dimension, beginning with the first dimension."""
    if len(paddings) != 2 * x.ndim:
        raise TranslationError(f"it has {len(paddings)} paddings for a tensor of shape {show(x.shape)}")
    pairs = [paddings[index : index + 2] for index in range(0, len(paddings), 2)]
    return padded(b, x, [side for pair in reversed(pairs) for side in pair], "constant", pad_value)


@desc("pad2d", "X:x Paddings:paddings")
def pad2d(
    b: Builder, x: Value, paddings: Ints, mode: str = "constant", pad_value: float = 0.0, data_format: str = "NCHW"
) -> Value:
    """Top, bottom, left, right."""
    x, restore = channels_first(b, x, data_format)
    if len(paddings) != 4 or x.ndim != 4:
        raise TranslationError(f"it has {len(paddings)} paddings for a tensor of shape {show(x.shape)}")
    top, bottom, left, right = paddings
    return restore(padded(b, x, [left, right, top, bottom], mode, pad_value))


@desc("pad3d", "X:x Paddings:paddings", "value:pad_value")
@pir("pad3d", "x paddings")
def pad3d(
    b: Builder, x: Value, paddings: Ints, mode: str = "constant", pad_value: float = 0.0, data_format: str = "NCDHW"
) -> Value:
    """Left, right, top, bottom, front, back."""
    x, restore = channels_first(b, x, data_format)
    if len(paddings) != 6 or x.ndim != 5:
        raise TranslationError(f"it has {len(paddings)} paddings for a tensor of shape {show(x.shape)}")
    return restore(padded(b, x, paddings, mode, pad_value))


@desc("pad_constant_like", "X:x Y:y")
def pad_like(b: Builder, x: Value, y: Value, pad_value: float = 0.0) -> Value:
    """`y`, padded at the ends to the shape of `x`."""
    if x.ndim != y.ndim:
        raise TranslationError(f"a tensor of shape {show(y.shape)} padded to {show(x.shape)}")
    more = [static(wanted - have, "padding") for wanted, have in zip(x.shape, y.shape, strict=True)]
    return padded(b, y, [side for size in reversed(more) for side in (0, size)], "constant", pad_value)
