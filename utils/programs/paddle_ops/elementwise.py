"""Elementwise operators on two tensors, and on a tensor and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.registry import desc, pir
from utils.programs.paddle_ops.sizes import TranslationError
from utils.programs.paddle_ops.values import Value, broadcast

INT64_MIN = -(2**63)


def aligned(b: Builder, x: Value, y: Value, axis: int) -> tuple[Value, Value]:
    """Aligns two tensors: appends dimensions of size 1 to the smaller one if `axis` asks for it.

    fluid's broadcasting: the smaller tensor's dimensions match those of the larger one from `axis` on; -1: the last
    ones, as in PyTorch.
    """
    if x.ndim < y.ndim:
        y, x = aligned(b, y, x, axis)
        return x, y
    if axis == -1 or y.ndim == x.ndim or axis + y.ndim == x.ndim:
        return x, y
    shape = list(y.shape)
    while len(shape) > max(x.ndim - axis, 0) and shape and shape[-1] == 1:
        shape.pop()
    if axis < 0 or axis + len(shape) > x.ndim:
        raise TranslationError(f"axis {axis} of a tensor of {x.ndim} dimensions for one of {y.ndim}")
    return x, b.reshape(y, shape + [1] * (x.ndim - axis - len(shape)))


def _register(names: tuple[str, str], target: Callable[..., Any], dtype: torch.dtype | None = None) -> None:
    """Registers an operator on pairs: its names in ProgramDesc and in PIR, and PyTorch's operator."""

    @desc(names[0], "X:x Y:y")
    @pir(names[1], "x y")
    def operate(b: Builder, x: Value, y: Value, axis: int = -1) -> Value:
        return b.binary(target, *aligned(b, x, y, axis), dtype=dtype)


for _names, _target in {
    ("elementwise_add grad_add", "add add_"): aten.add.Tensor,
    ("elementwise_sub minus", "subtract subtract_"): aten.sub.Tensor,
    ("elementwise_mul", "multiply multiply_"): aten.mul.Tensor,
    ("elementwise_max", "maximum"): aten.maximum.default,
    ("elementwise_min", "minimum"): aten.minimum.default,
    ("elementwise_fmax", "fmax"): aten.fmax.default,
    ("elementwise_fmin", "fmin"): aten.fmin.default,
    ("elementwise_heaviside", "heaviside"): aten.heaviside.default,
    ("bitwise_and", "bitwise_and bitwise_and_"): aten.bitwise_and.Tensor,
    ("bitwise_or", "bitwise_or bitwise_or_"): aten.bitwise_or.Tensor,
    ("bitwise_xor", "bitwise_xor bitwise_xor_"): aten.bitwise_xor.Tensor,
    ("", "copysign"): aten.copysign.Tensor,
    ("", "logaddexp"): aten.logaddexp.default,
}.items():
    _register(_names, _target)

for _names, _target in {
    ("equal", "equal equal_"): aten.eq.Tensor,
    ("not_equal", "not_equal not_equal_"): aten.ne.Tensor,
    ("less_than", "less_than less_than_"): aten.lt.Tensor,
    ("less_equal", "less_equal less_equal_"): aten.le.Tensor,
    ("greater_than", "greater_than greater_than_"): aten.gt.Tensor,
    ("greater_equal", "greater_equal greater_equal_"): aten.ge.Tensor,
    ("logical_and", "logical_and logical_and_"): aten.logical_and.default,
    ("logical_or", "logical_or logical_or_"): aten.logical_or.default,
    ("logical_xor", "logical_xor logical_xor_"): aten.logical_xor.default,
}.items():
    _register(_names, _target, torch.bool)


def check_divisor(y: Value) -> None:
    """Refuses integer divisions that a processor may refuse: by 0, and of the smallest number by -1."""
    if not y.dtype.is_floating_point and (y.constant is None or bool(((y.constant == 0) | (y.constant == -1)).any())):
        raise TranslationError("integers are divided by a value that may be 0 or -1")


@desc("elementwise_div", "X:x Y:y")
@pir("divide divide_", "x y")
def divide(b: Builder, x: Value, y: Value, axis: int = -1) -> Value:
    x, y = aligned(b, x, y, axis)
    if x.dtype.is_floating_point or y.dtype.is_floating_point:
        return b.binary(aten.div.Tensor, x, y)
    check_known_division(x, y)
    return b.binary(aten.div.Tensor_mode, x, y, rounding_mode="trunc")


def check_known_division(x: Value, y: Value) -> None:
    """Like `check_divisor`; if both numbers are known, refuses only impossible divisions."""
    if x.known is None or y.known is None:
        check_divisor(y)
        return
    for dividend, divisor in zip(x.known, y.known, strict=True):
        if bool((divisor == 0).any()) or (bool((divisor == -1).any()) and bool((dividend == INT64_MIN).any())):
            raise TranslationError("integers are divided by 0")


@desc("elementwise_floordiv", "X:x Y:y")
@pir("floor_divide floor_divide_", "x y")
def floor_divide(b: Builder, x: Value, y: Value, axis: int = -1) -> Value:
    x, y = aligned(b, x, y, axis)
    if not x.dtype.is_floating_point:
        check_known_division(x, y)
    return b.binary(aten.div.Tensor_mode, x, y, rounding_mode="floor")


@desc("elementwise_mod", "X:x Y:y")
@pir("remainder remainder_", "x y")
def remainder(b: Builder, x: Value, y: Value, axis: int = -1) -> Value:
    """The remainder has the divisor's sign."""
    x, y = aligned(b, x, y, axis)
    if not x.dtype.is_floating_point:
        check_known_division(x, y)
    return b.binary(aten.remainder.Tensor, x, y)


@desc("elementwise_pow", "X:x Y:y")
@pir("elementwise_pow", "x y")
def elementwise_pow(b: Builder, x: Value, y: Value, axis: int = -1) -> Value:
    x, y = aligned(b, x, y, axis)
    if y.number is not None and x.dtype == y.dtype and broadcast(x.shape, y.shape) == x.shape:
        return power(b, x, y.number)
    _check_exponent(x, y)
    return b.binary(aten.pow.Tensor_Tensor, x, y)


def _check_exponent(x: Value, y: Value) -> None:
    if (
        not x.dtype.is_floating_point
        and not y.dtype.is_floating_point
        and (y.known is None or any(bool((exponents < 0).any()) for exponents in y.known))
    ):
        raise TranslationError("integers are raised to a power that may be negative")


def whole(number: float) -> int:
    """A number for computing with integers.

    Raises:
        TranslationError: it is not an integer, or needs more than 53 bits.
    """
    if not abs(number) < 2**53 or number != int(number):
        raise TranslationError(f"it computes with integers and {number}")
    return int(number)


def power(b: Builder, x: Value, exponent: float) -> Value:
    """`x` to the power of a number."""
    if exponent == 2.0:
        return b.unary(aten.square.default, x)
    if exponent == 0.5 and x.dtype.is_floating_point:
        return b.unary(aten.sqrt.default, x)
    if not x.dtype.is_floating_point:
        exponent = whole(exponent)
        if exponent < 0:
            raise TranslationError(f"integers are raised to the power of {exponent}")
    return b.unary(aten.pow.Tensor_Scalar, x, exponent)


@desc("pow", "X:x FactorTensor:y", "factor:y")
@pir("pow pow_", "x")
def pow_number(b: Builder, x: Value, y: float = 1.0) -> Value:
    return power(b, x, y)


@desc("scale", "X:x ScaleTensor:scale")
@pir("scale scale_", "x scale")
def scale(b: Builder, x: Value, scale: float = 1.0, bias: float = 0.0, bias_after_scale: bool = True) -> Value:
    """scale x + bias, or scale (x + bias)."""
    if not x.dtype.is_floating_point:
        scale, bias = whole(scale), whole(bias)
    if not bias_after_scale:
        x = x if bias == 0 else b.unary(aten.add.Scalar, x, bias)
    if scale != 1:
        x = b.unary(aten.mul.Scalar, x, scale)
    if bias_after_scale and bias != 0:
        x = b.unary(aten.add.Scalar, x, bias)
    return x


@desc("increment", "X:x", "step:value")
@pir("increment increment_", "x")
def increment(b: Builder, x: Value, value: float = 1.0) -> Value:
    return scale(b, x, 1.0, value)


@desc("clip", "X:x Min:min Max:max")
@pir("clip clip_", "x min max")
def clip(b: Builder, x: Value, min: float = -math.inf, max: float = math.inf) -> Value:
    if not x.dtype.is_floating_point:
        if x.dtype == torch.bool:
            raise TranslationError("it clips booleans")
        limits = torch.iinfo(x.dtype)
        bounds = [whole(number) if limits.min < number < limits.max else None for number in (min, max)]
        return x if bounds == [None, None] else b.unary(aten.clamp.default, x, *bounds)
    return b.unary(aten.clamp.default, x, min, max)


@desc("sum", "X:values")
@pir("add_n", "values")
def add_all(b: Builder, values: list[Value]) -> Value:
    result = values[0]
    for value in values[1:]:
        result = b.binary(aten.add.Tensor, result, value)
    return result


@desc("where", "Condition:condition X:x Y:y")
@pir("where where_", "condition x y")
def where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    shape = broadcast(broadcast(condition.shape, x.shape), y.shape)
    condition = b.cast(condition, torch.bool)
    return b.call(aten.where.self, condition, x, y, shape=shape, dtype=torch.promote_types(x.dtype, y.dtype))


@desc("atan2", "X1:x X2:y")
@pir("atan2", "x y")
def atan2(b: Builder, x: Value, y: Value) -> Value:
    return b.binary(aten.atan2.default, x, y)


@desc("logical_not", "X:x")
@pir("logical_not logical_not_", "x")
def logical_not(b: Builder, x: Value) -> Value:
    return b.unary(aten.logical_not.default, x, dtype=torch.bool)


@pir("lerp lerp_", "x y weight")
@desc("lerp", "X:x Y:y Weight:weight")
def lerp(b: Builder, x: Value, y: Value, weight: Value) -> Value:
    difference = b.binary(aten.sub.Tensor, y, x)
    return b.binary(aten.add.Tensor, x, b.binary(aten.mul.Tensor, difference, weight))


@desc("cast", "X:x", "out_dtype:dtype")
@pir("cast cast_", "x")
def cast(b: Builder, x: Value, dtype: torch.dtype) -> Value:
    return b.cast(x, dtype)


@desc("assign share_data share_buffer memcpy memcpy_h2d memcpy_d2h print print_op", "X:x In:x")
@pir(
    "assign assign_ assign_out_ share_data_ share_data memcpy memcpy_h2d memcpy_d2h print data_contiguous_ depend", "x"
)
def assign(b: Builder, x: Value) -> Value:
    return x


@desc("masked_fill", "X:x Mask:mask Value:value")
@pir("masked_fill masked_fill_", "x mask value")
def masked_fill(b: Builder, x: Value, mask: Value, value: Value) -> Value:
    return where(b, mask, b.cast(value, x.dtype), x)
