"""Fused operators, which Paddle Inference makes when it optimizes and saves a program.

Most are oneDNN's. After the operator itself follow, in this order, an addend, an activation, a factor, and another
shape.
"""

from __future__ import annotations

from collections.abc import Callable

from utils.programs.paddle_ops.activation import activated, softplus
from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.elementwise import aligned, divide
from utils.programs.paddle_ops.linear import flattened_product, matmul
from utils.programs.paddle_ops.registry import Ints, Sizes, desc, pir
from utils.programs.paddle_ops.shape import reshape, squeeze, unsqueeze
from utils.programs.paddle_ops.sizes import TranslationError, product, static
from utils.programs.paddle_ops.values import Value


def _scaled(b: Builder, x: Value, factor: float) -> Value:
    return x if factor == 1.0 else b.unary(aten.mul.Scalar, x, factor)


@desc("fc", "Input:x W:weight Bias:bias")
@pir("fc", "x weight bias")
def fully_connected(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    in_num_col_dims: int = 1,
    activation_type: str = "",
    padding_weights: bool = False,
    fuse_activation: str = "",
    fuse_alpha: float = 0.0,
    fuse_beta: float = 0.0,
    fused_output_scale: float = 1.0,
    fused_reshape2_shape: Sizes | None = None,
) -> Value:
    """A linear layer; with `padding_weights` the last four rows and columns of its weight are not part of it."""
    if padding_weights:
        for axis in range(weight.ndim):
            weight = b.slice(weight, axis, 0, max(static(weight.shape[axis], "weight") - 4, 0))
    result = flattened_product(b, x, weight, in_num_col_dims, 1)
    if bias is not None:
        result = b.binary(aten.add.Tensor, result, b.reshape(bias, [result.shape[-1]]))
    if activation_type not in ("", "relu"):
        raise TranslationError(f"its activation_type is {activation_type[:50]!r}")
    result = activated(b, result, activation_type, 0.0, 0.0)
    result = _scaled(b, activated(b, result, fuse_activation, fuse_alpha, fuse_beta), fused_output_scale)
    return reshape(b, result, fused_reshape2_shape) if fused_reshape2_shape else result


@desc("fusion_repeated_fc_relu", "X:x W:weights Bias:biases", results="ReluOut Out")
def repeated_fully_connected(
    b: Builder, x: Value, weights: list[Value], biases: list[Value]
) -> tuple[list[Value], Value]:
    """Linear layers with a ReLU after each; weights may be padded like those of fc."""
    results = []
    if len(weights) != len(biases):
        raise TranslationError(f"it has {len(weights)} weights and {len(biases)} biases")
    for weight, bias in zip(weights, biases, strict=True):
        padded = weight.ndim == 2 and weight.shape[0] == product(x.shape[1:]) + 4
        x = fully_connected(b, x, weight, bias, activation_type="relu", padding_weights=padded)
        results.append(x)
    return results[:-1], x


@desc("fused_gemm_epilogue", "X:x Y:y Bias:bias", "trans_x:transpose_x trans_y:transpose_y")
@pir("fused_gemm_epilogue", "x y bias", "trans_x:transpose_x trans_y:transpose_y")
def linear_with_activation(
    b: Builder,
    x: Value,
    y: Value,
    bias: Value,
    transpose_x: bool = False,
    transpose_y: bool = False,
    activation: str = "none",
) -> Value:
    result = b.binary(aten.add.Tensor, matmul(b, x, y, transpose_x, transpose_y), bias)
    if activation not in ("none", "", "relu", "gelu"):
        raise TranslationError(f"its activation is {activation[:50]!r}")
    return activated(b, result, activation.replace("none", ""), 0.0, 0.0)


def _turned(b: Builder, x: Value, shape: Sizes | None, order: Ints | None) -> Value:
    """An operand after its reshape and transpose."""
    x = reshape(b, x, shape) if shape else x
    return b.permute(x, order) if order else x


@desc("fused_matmul", "X:x Y:y ResidualData:residual", """
    fused_reshape_X:fused_reshape_x fused_transpose_X:fused_transpose_x fused_reshape_Y:fused_reshape_y
    fused_transpose_Y:fused_transpose_y fused_reshape_Out:fused_reshape_out fused_transpose_Out:fused_transpose_out
""")  # fmt: skip
@pir("fused_matmul", "x y residual")
def matmul_with_more(
    b: Builder,
    x: Value,
    y: Value,
    residual: Value | None = None,
    trans_x: bool = False,
    trans_y: bool = False,
    matmul_alpha: float = 1.0,
    fuse_activation: str = "",
    fuse_alpha: float = 0.0,
    fuse_beta: float = 0.0,
    fused_output_scale: float = 1.0,
    fused_reshape_x: Sizes | None = None,
    fused_transpose_x: Ints | None = None,
    fused_reshape_y: Sizes | None = None,
    fused_transpose_y: Ints | None = None,
    fused_reshape_out: Sizes | None = None,
    fused_transpose_out: Ints | None = None,
) -> Value:
    """A product of operands that are reshaped and then transposed; the result is transposed and then reshaped."""
    x = _turned(b, x, fused_reshape_x, fused_transpose_x)
    y = _turned(b, y, fused_reshape_y, fused_transpose_y)
    result = _scaled(b, matmul(b, x, y, trans_x, trans_y), matmul_alpha)
    if residual is not None:
        result = b.binary(aten.add.Tensor, result, residual)
    result = _scaled(b, activated(b, result, fuse_activation, fuse_alpha, fuse_beta), fused_output_scale)
    return _turned(b, _turned(b, result, None, fused_transpose_out), fused_reshape_out, None)


def _register(name: str, operate: Callable[[Builder, Value, Value], Value]) -> None:
    """Registers an operator on pairs with the operations that may follow it."""

    @desc(name, "X:x Y:y")
    @pir(name, "x y")
    def pair_with_more(
        b: Builder,
        x: Value,
        y: Value,
        axis: int = -1,
        fuse_activation: str = "",
        fuse_alpha: float = 0.0,
        fuse_beta: float = 0.0,
        fused_output_scale: float = 1.0,
        fused_unsqueeze2_axes: Ints | None = None,
    ) -> Value:
        result = operate(b, *aligned(b, x, y, axis))
        result = _scaled(b, activated(b, result, fuse_activation, fuse_alpha, fuse_beta), fused_output_scale)
        return unsqueeze(b, result, fused_unsqueeze2_axes) if fused_unsqueeze2_axes else result


_register("fused_elementwise_add", lambda b, x, y: b.binary(aten.add.Tensor, x, y))
_register("fused_elementwise_sub", lambda b, x, y: b.binary(aten.sub.Tensor, x, y))
_register("fused_elementwise_mul", lambda b, x, y: b.binary(aten.mul.Tensor, x, y))
_register("fused_elementwise_div", divide)


@desc("fused_transpose", "X:x")
@pir("fused_transpose", "x")
def transpose_with_more(
    b: Builder,
    x: Value,
    axis: Ints,
    fused_squeeze2_axes: Ints | None = None,
    fused_unsqueeze2_axes: Ints | None = None,
    fused_reshape2_shape: Sizes | None = None,
    output_data_type: str = "",
) -> Value:
    """A transpose, after removing dimensions and before adding some or reshaping."""
    if output_data_type not in ("", "fp32"):
        raise TranslationError(f"its output_data_type is {output_data_type[:50]!r}, which is not supported")
    x = squeeze(b, x, fused_squeeze2_axes) if fused_squeeze2_axes else x
    x = b.permute(x, axis)
    x = unsqueeze(b, x, fused_unsqueeze2_axes) if fused_unsqueeze2_axes else x
    return reshape(b, x, fused_reshape2_shape) if fused_reshape2_shape else x


@desc("fused_softplus", "X:x")
@pir("fused_softplus", "x")
def softplus_with_activation(
    b: Builder,
    x: Value,
    beta: float = 1.0,
    threshold: float = 20.0,
    fuse_activation: str = "",
    fuse_alpha: float = 0.0,
    fuse_beta: float = 0.0,
) -> Value:
    return activated(b, softplus(b, x, beta, threshold), fuse_activation, fuse_alpha, fuse_beta)
