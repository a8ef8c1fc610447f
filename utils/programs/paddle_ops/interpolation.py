"""Resizes feature maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.indexing import select
from utils.programs.paddle_ops.layout import channels_first
from utils.programs.paddle_ops.registry import Ints, desc, pir
from utils.programs.paddle_ops.sizes import TranslationError, show, static
from utils.programs.paddle_ops.values import Value


def _target(
    x: Value, scale: list[float] | None, out_size: Ints | None, size_list: Ints | None, given: list[int]
) -> tuple[list[int], list[float]]:
    """Height and width to resize to, and the scales for positions; 0 if the sizes alone decide.

    A list of sizes has priority, then a tensor of sizes, then a scale, then the attributes out_h and out_w.
    """
    sizes = _image_size(x)
    factors = [float(factor) for factor in scale or []]
    if len(factors) == 1:
        factors *= len(sizes)
    if size_list or not factors or min(factors) <= 0:
        factors = []
    if size_list or out_size:
        result = list(size_list or out_size or [])
    elif factors:
        if max(factors) > 1e4 or not all(np.isfinite(factors)):
            raise TranslationError(f"it scales by {factors}")
        result = [int(size * np.float32(factor)) for size, factor in zip(sizes, factors, strict=False)]
    else:
        result = given[-len(sizes) :]
    if len(result) != len(sizes) or (factors and len(factors) != len(sizes)) or not all(0 < n <= 2**16 for n in result):
        raise TranslationError(f"it resizes images of shape {show(x.shape)} to {result}")
    return result, factors or [0.0] * len(sizes)


def _ratios(sizes: list[int], target: list[int], factors: list[float], align_corners: bool) -> list[np.float32]:
    """Distance in the input between neighbouring positions of the result, in float32 as in the originals.

    The scale is float32 up to version 2, and float64 in PIR.
    """
    ratios = []
    for size, wanted, factor in zip(sizes, target, factors, strict=True):
        if align_corners:
            ratio = np.float32(size - 1) / np.float32(wanted - 1) if wanted > 1 else np.float32(0)
        elif factor > 0:
            ratio = np.float32(1.0 / factor)
        else:
            ratio = np.float32(size) / np.float32(wanted)
        ratios.append(np.float32(ratio))
    return ratios


def _nearest(
    b: Builder, x: Value, target: list[int], factors: list[float], align_corners: bool, align_mode: int
) -> Value:
    """int(ratio i), or int(ratio i + 0.5) with align_corners."""
    sizes = _image_size(x)
    ratios = _ratios(sizes, target, factors, align_corners)
    whole = all(wanted % size == 0 for size, wanted in zip(sizes, target, strict=True))
    if len(sizes) == 2 and not align_corners and whole and _is_exact(sizes, target, ratios):
        return b.call(aten.upsample_nearest2d.vec, x, target, None, shape=[*x.shape[:2], *target], dtype=x.dtype)
    for axis, (size, wanted, ratio) in enumerate(zip(sizes, target, ratios, strict=True), start=2):
        places = (ratio * np.arange(wanted, dtype=np.float32)).astype(np.float64) + (0.5 if align_corners else 0.0)
        index = torch.from_numpy(places.astype(np.int64)).clamp(0, size - 1)
        x = select(b, x, b.computed(index), axis)
    return x


def _is_exact(sizes: list[int], target: list[int], ratios: list[np.float32]) -> bool:
    """Whether the sizes alone determine the positions, as in PyTorch without a scale."""
    return all(
        ratio == np.float32(size) / np.float32(wanted)
        for size, wanted, ratio in zip(sizes, target, ratios, strict=True)
    )


def _linear(
    b: Builder, x: Value, target: list[int], factors: list[float], align_corners: bool, align_mode: int
) -> Value:
    """Linear interpolation along each dimension; align_mode 1: positions are the pixels' corners."""
    sizes = _image_size(x)
    ratios = _ratios(sizes, target, factors, align_corners)
    half_pixel = not align_corners and align_mode == 0
    if len(sizes) == 2 and (align_corners or (half_pixel and _is_exact(sizes, target, ratios))):
        shape = [*x.shape[:2], *target]
        return b.call(aten.upsample_bilinear2d.vec, x, target, align_corners, None, shape=shape, dtype=x.dtype)
    for axis, (wanted, ratio) in enumerate(zip(target, ratios, strict=True), start=2):
        x = _linear_axis(b, x, axis, wanted, ratio, half_pixel)
    return x


def _linear_axis(b: Builder, x: Value, axis: int, wanted: int, ratio: np.float32, half_pixel: bool) -> Value:
    """Linear interpolation along one dimension, between the two neighbours of each position."""
    size = static(x.shape[axis], "image size")
    places = ratio * np.arange(wanted, dtype=np.float32)
    if half_pixel:
        places = np.maximum(ratio * (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    below = np.minimum(places.astype(np.int64), size - 1)
    above = np.minimum(below + 1, size - 1)
    shape = [wanted if index == axis else 1 for index in range(x.ndim)]
    share = torch.from_numpy(np.float32(places - below)).to(x.dtype).reshape(shape)
    low = select(b, x, b.computed(torch.from_numpy(below)), axis)
    high = select(b, x, b.computed(torch.from_numpy(above)), axis)
    difference = b.binary(aten.sub.Tensor, high, low)
    return b.binary(aten.add.Tensor, low, b.binary(aten.mul.Tensor, difference, b.constant(share)))


def _bicubic(
    b: Builder, x: Value, target: list[int], factors: list[float], align_corners: bool, align_mode: int
) -> Value:
    sizes, shape = _image_size(x), [*x.shape[:2], *target]
    if align_corners or _is_exact(sizes, target, _ratios(sizes, target, factors, align_corners)):
        return b.call(aten.upsample_bicubic2d.vec, x, target, align_corners, None, shape=shape, dtype=x.dtype)
    if [int(size * factor) for size, factor in zip(sizes, factors, strict=True)] != target:
        raise TranslationError(f"it resizes images of shape {show(x.shape)} to {target} by {factors}")
    return b.call(aten.upsample_bicubic2d.vec, x, None, align_corners, factors, shape=shape, dtype=x.dtype)


def _image_size(x: Value) -> list[int]:
    return [static(size, "image size") for size in x.shape[2:]]


_METHODS = {"nearest": _nearest, "bilinear": _linear, "linear": _linear, "bicubic": _bicubic}
_KINDS = "nearest_interp bilinear_interp bicubic_interp linear_interp"


def _register(uses_scale: bool) -> Callable[..., Value]:
    """The four resizing operators; from their second version on a scale determines positions, not only sizes."""

    def interpolate(
        b: Builder,
        x: Value,
        interp_method: str,
        scale: list[float] | None = None,
        out_size: Ints | None = None,
        size_list: Ints | None = None,
        out_h: int = -1,
        out_w: int = -1,
        align_corners: bool = True,
        align_mode: int = 1,
        data_layout: str = "NCHW",
        data_format: str = "NCHW",
    ) -> Value:
        x, restore = channels_first(b, x, data_format if data_layout == "NCHW" else data_layout)
        if x.ndim not in (3, 4) or (x.ndim == 3) != (interp_method == "linear") or 0 in x.shape[2:]:
            raise TranslationError(f"its input has the shape {show(x.shape)}")
        target, factors = _target(x, scale, out_size, size_list, [out_h, out_w])
        if not uses_scale:
            factors = [0.0] * len(factors)
        resize = _METHODS.get(interp_method)
        if resize is None:
            raise TranslationError(f"its interp_method is {interp_method[:50]!r}")
        if target == list(x.shape[2:]):
            return restore(x)
        return restore(resize(b, x, target, factors, align_corners, align_mode))

    return interpolate


_SLOTS = "X:x SizeTensor:size_list OutSize:out_size Scale:scale"
desc(_KINDS, _SLOTS)(_register(uses_scale=False))
desc(" ".join(f"{kind}_v2" for kind in _KINDS.split()), _SLOTS)(
    pir(_KINDS, "x out_size size_list scale")(_register(uses_scale=True))
)


@desc("grid_sampler", "X:x Grid:grid", results="Output")
@pir("grid_sample", "x grid")
def grid_sample(
    b: Builder,
    x: Value,
    grid: Value,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
) -> Value:
    """Samples images at positions from -1 to 1: (N, C, H, W) and (N, h, w, 2) to (N, C, h, w)."""
    modes, paddings = {"bilinear": 0, "nearest": 1}, {"zeros": 0, "border": 1, "reflection": 2}
    if mode not in modes or padding_mode not in paddings:
        raise TranslationError(f"its modes are {mode[:50]!r} and {padding_mode[:50]!r}")
    if x.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or grid.shape[0] != x.shape[0]:
        raise TranslationError(f"images of shape {show(x.shape)} at places of shape {show(grid.shape)}")
    if min(static(size, "image size") for size in x.shape[2:]) < 1:
        raise TranslationError(f"its input has the shape {show(x.shape)}")
    return b.call(
        aten.grid_sampler.default, x, grid, modes[mode], paddings[padding_mode], align_corners,
        shape=[*x.shape[:2], *grid.shape[1:3]], dtype=x.dtype,
    )  # fmt: skip


def _places(count: int, align_corners: bool) -> torch.Tensor:
    """Positions of `count` pixels from -1 to 1: from corner to corner, or in the middle of equal parts."""
    if align_corners:
        return torch.linspace(-1, 1, count, dtype=torch.float64)
    return (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1


@desc("affine_grid", "Theta:theta OutputShape:output_shape", results="Output")
@pir("affine_grid", "theta output_shape")
def affine_grid(b: Builder, theta: Value, output_shape: Ints, align_corners: bool = True) -> Value:
    """The positions of a result's pixels in images transformed by matrices (N, 2, 3)."""
    if len(output_shape) != 4 or theta.ndim != 3 or theta.shape[1:] != (2, 3):
        raise TranslationError(f"matrices of shape {show(theta.shape)} for images of shape {output_shape[:8]}")
    height, width = output_shape[2:]
    if not (0 < height <= 2**14 and 0 < width <= 2**14 and height * width <= 2**24):
        raise TranslationError(f"images of shape {output_shape}")
    rows, columns = _places(height, align_corners), _places(width, align_corners)
    base = torch.stack(
        [columns.repeat(height), rows.repeat_interleave(width), torch.ones(height * width, dtype=torch.float64)], 1
    )
    moved = b.permute(theta, [0, 2, 1])
    shape = [theta.shape[0], height * width, 2]
    product = b.call(aten.matmul.default, b.computed(base.to(theta.dtype)), moved, shape=shape, dtype=theta.dtype)
    return b.reshape(product, [theta.shape[0], height, width, 2])
