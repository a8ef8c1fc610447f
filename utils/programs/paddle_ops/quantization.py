"""Quantization as PaddleSlim and paddle.quantization write it: what 8 bits would do, computed in float32.

A scale is the largest magnitude that can be expressed; with 8 bits it is 127 steps. Scales are constants: parameters of
activations, or the largest magnitude among weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.registry import Ints, desc
from utils.programs.paddle_ops.sizes import TranslationError, show
from utils.programs.paddle_ops.values import Value

# PaddlePaddle divides by a scale of at most TINY plus OFFSET.
TINY, OFFSET = 1e-30, 1e-6
# Largest float32 below 0.5: added to a number, it rounds halves away from 0 and nothing else upwards.
ALMOST_HALF = 0.5 - 2**-25
TO_EVEN, AWAY_FROM_ZERO = 0, 1


def _largest(bits: int) -> int:
    """The largest step of signed numbers of so many bits."""
    if not 2 <= bits <= 16:
        raise TranslationError(f"its bit_length is {bits}")
    return 2 ** (bits - 1) - 1


def _scale(scale: Value, x: Value, axis: int) -> Tensor:
    """A constant scale for all of `x`, or for each index of the dimension `axis`, shaped to fit `x`."""
    if scale.constant is None:
        raise TranslationError("its scale is computed from the images")
    tensor = scale.constant.to(torch.float32)
    if tensor.numel() == 1:
        return tensor.reshape(())
    shape = [-1 if index == x.axis(axis) else 1 for index in range(x.ndim)]
    if tensor.numel() != x.shape[x.axis(axis)]:
        raise TranslationError(f"{tensor.numel()} scales along dimension {axis} of a tensor of shape {show(x.shape)}")
    return tensor.reshape(shape)


def _largest_magnitude(b: Builder, x: Value, axis: int | None = None) -> Value:
    """The scale of weights: their largest magnitude, or one for each index of a dimension."""
    if x.constant is None:
        raise TranslationError("its scale is computed from the images")
    magnitudes = x.constant.abs()
    if axis is None:
        return b.computed(magnitudes.amax().reshape(1))
    others = [index for index in range(x.ndim) if index != x.axis(axis)]
    return b.computed(magnitudes.amax(others) if others else magnitudes)


def _steps(b: Builder, x: Value, scale: Tensor, largest: int, round_type: int) -> Value:
    """`x` in steps: whole numbers of float32."""
    if round_type not in (TO_EVEN, AWAY_FROM_ZERO):
        raise TranslationError(f"its round_type is {round_type}")
    steps_per_unit = largest * torch.where(scale <= TINY, scale + OFFSET, scale).reciprocal()
    steps = b.binary(aten.mul.Tensor, x, b.constant(steps_per_unit))
    if round_type == TO_EVEN:
        return b.unary(aten.round.default, b.unary(aten.clamp.default, steps, -largest - 1, largest))
    steps = b.unary(aten.clamp.default, steps, -largest, largest)
    magnitudes = b.unary(aten.floor.default, b.unary(aten.add.Scalar, b.unary(aten.abs.default, steps), ALMOST_HALF))
    return b.binary(aten.mul.Tensor, b.unary(aten.sign.default, steps), magnitudes)


def _from_steps(b: Builder, steps: Value, scale: Tensor, largest: float) -> Value:
    """The inverse of `_steps`, in PaddlePaddle's order of rounding."""
    numbers = b.binary(aten.mul.Tensor, b.cast(steps, torch.float32), b.constant(scale))
    return b.unary(aten.div.Scalar, numbers, largest)


def _check_in_evaluation(is_test: bool) -> None:
    if not is_test:
        raise TranslationError("its scale is computed from the images, as in training")


@desc("quantize_linear", "X:x Scale:scale ZeroPoint:zero_point", results="Y")
def quantize(
    b: Builder,
    x: Value,
    scale: Value,
    zero_point: Value | None = None,
    quant_axis: int = -1,
    bit_length: int = 8,
    round_type: int = TO_EVEN,
    is_test: bool = True,
    only_observer: bool = False,
) -> Value:
    _check_in_evaluation(is_test)
    _check_zero(zero_point)
    if only_observer:
        return x
    return _steps(b, x, _scale(scale, x, quant_axis), _largest(bit_length), round_type)


@desc("dequantize_linear", "X:x Scale:scale ZeroPoint:zero_point", results="Y")
def dequantize(
    b: Builder,
    x: Value,
    scale: Value,
    zero_point: Value | None = None,
    quant_axis: int = -1,
    bit_length: int = 8,
    only_observer: bool = False,
) -> Value:
    _check_zero(zero_point)
    if only_observer:
        return x
    return _from_steps(b, x, _scale(scale, x, quant_axis), _largest(bit_length))


def _check_zero(zero_point: Value | None) -> None:
    if zero_point is not None and (zero_point.constant is None or bool(zero_point.constant.any())):
        raise TranslationError("its zero point is not 0")


@desc("fake_quantize_dequantize_moving_average_abs_max", "X:x InScale:scale", results="Out OutScale")
def quantize_and_back(
    b: Builder, x: Value, scale: Value, bit_length: int = 8, round_type: int = AWAY_FROM_ZERO, is_test: bool = True
) -> tuple[Value, Value]:
    _check_in_evaluation(is_test)
    largest, known = _largest(bit_length), _scale(scale, x, -1)
    return _from_steps(b, _steps(b, x, known, largest, round_type), known, largest), scale


@desc("fake_quantize_range_abs_max fake_quantize_moving_average_abs_max", "X:x InScale:scale", results="Out OutScale")
def quantize_by_scale(
    b: Builder, x: Value, scale: Value, bit_length: int = 8, round_type: int = AWAY_FROM_ZERO, is_test: bool = True
) -> tuple[Value, Value]:
    _check_in_evaluation(is_test)
    return _steps(b, x, _scale(scale, x, -1), _largest(bit_length), round_type), scale


@desc("fake_quantize_abs_max", "X:x", results="Out OutScale")
def quantize_weights(
    b: Builder, x: Value, bit_length: int = 8, round_type: int = AWAY_FROM_ZERO
) -> tuple[Value, Value]:
    scale = _largest_magnitude(b, x)
    return _steps(b, x, _scale(scale, x, -1), _largest(bit_length), round_type), scale


@desc("fake_channel_wise_quantize_abs_max", "X:x", results="Out OutScale")
def quantize_channels(
    b: Builder, x: Value, bit_length: int = 8, round_type: int = AWAY_FROM_ZERO, quant_axis: int = 0
) -> tuple[Value, Value]:
    scale = _largest_magnitude(b, x, quant_axis)
    return _steps(b, x, _scale(scale, x, quant_axis), _largest(bit_length), round_type), scale


@desc("fake_quantize_dequantize_abs_max", "X:x", results="Out OutScale")
def quantize_weights_and_back(
    b: Builder, x: Value, bit_length: int = 8, round_type: int = AWAY_FROM_ZERO
) -> tuple[Value, Value]:
    steps, scale = quantize_weights(b, x, bit_length, round_type)
    return _from_steps(b, steps, _scale(scale, x, -1), _largest(bit_length)), scale


@desc("fake_channel_wise_quantize_dequantize_abs_max", "X:x", results="Out OutScale")
def quantize_channels_and_back(
    b: Builder, x: Value, bit_length: int = 8, round_type: int = AWAY_FROM_ZERO, quant_axis: int = 0
) -> tuple[Value, Value]:
    steps, scale = quantize_channels(b, x, bit_length, round_type, quant_axis)
    return _from_steps(b, steps, _scale(scale, x, quant_axis), _largest(bit_length)), scale


@desc("fake_dequantize_max_abs", "X:x Scale:scale")
def dequantize_by_scale(b: Builder, x: Value, scale: Value, max_range: float) -> Value:
    if max_range == 0:
        raise TranslationError("its max_range is 0")
    return _from_steps(b, x, _scale(scale, x, -1), max_range)


@desc("fake_channel_wise_dequantize_max_abs", "X:x Scales:scales")
def dequantize_channels(
    b: Builder, x: Value, scales: list[Value], quant_bits: Ints, quant_axis: int = 0, x_num_col_dims: int = 1
) -> Value:
    """One scale for each channel of weights; or of a convolution's result, and one for its input."""
    if len(scales) == 1:
        return _from_steps(b, x, _scale(scales[0], x, quant_axis), _largest(quant_bits[0]))
    of_weights, of_input = (_scale(scale, x, x_num_col_dims) for scale in scales)
    largest = _largest(quant_bits[0]) * _largest(quant_bits[1])
    return _from_steps(b, x, of_weights * of_input, largest)


@desc("moving_average_abs_max_scale", "X:x")
def observe(b: Builder, x: Value) -> Value:
    """Measures scales in training."""
    return x
