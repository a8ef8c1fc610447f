"""Matrix products."""

from __future__ import annotations

import torch

from utils.programs.paddle_ops.builder import Builder, aten
from utils.programs.paddle_ops.registry import desc, pir
from utils.programs.paddle_ops.sizes import Size, TranslationError, product, show, static
from utils.programs.paddle_ops.values import Value, broadcast


def multiply_matrices(b: Builder, x: Value, y: Value) -> Value:
    """PyTorch's matmul; with a constant matrix a linear layer, into which a bias can be folded later."""
    if x.ndim == 0 or y.ndim == 0:
        raise TranslationError(f"tensors of shapes {show(x.shape)} and {show(y.shape)} do not fit")
    left = x.shape if x.ndim > 1 else (1, *x.shape)
    right = y.shape if y.ndim > 1 else (*y.shape, 1)
    if left[-1] != right[-2]:
        raise TranslationError(f"matrices of shapes {show(x.shape)} and {show(y.shape)} do not fit")
    shape: list[Size] = [*broadcast(left[:-2], right[:-2])]
    shape += [left[-2]] if x.ndim > 1 else []
    shape += [right[-1]] if y.ndim > 1 else []
    inner = static(left[-1], "number of features")
    if x.known is None and y.constant is not None and y.ndim == 2 and x.ndim > 1 and x.dtype.is_floating_point:
        return b.call(aten.linear.default, x, b.permute(y, [1, 0]), shape=shape, dtype=x.dtype)
    return b.call(aten.matmul.default, x, y, shape=shape, dtype=x.dtype, work=max(inner, 1))


def _transposed(b: Builder, x: Value, wanted: bool) -> Value:
    """Transposes a matrix, or each of several."""
    if not wanted or x.ndim < 2:
        return x
    return b.permute(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])


@desc("matmul_v2", "X:x Y:y", "trans_x:transpose_x trans_y:transpose_y")
@pir("matmul", "x y")
def matmul(b: Builder, x: Value, y: Value, transpose_x: bool = False, transpose_y: bool = False) -> Value:
    return multiply_matrices(b, _transposed(b, x, transpose_x), _transposed(b, y, transpose_y))


@desc("matmul", "X:x Y:y", "transpose_X:transpose_x transpose_Y:transpose_y")
def scaled_matmul(
    b: Builder, x: Value, y: Value, transpose_x: bool = False, transpose_y: bool = False, alpha: float = 1.0
) -> Value:
    """fluid's matmul, with a factor; a vector is one row on the left side, one column on the right side."""
    result = matmul(b, x, y, transpose_x, transpose_y)
    if result.ndim == 0:
        result = b.reshape(result, [1])
    return result if alpha == 1.0 else b.unary(aten.mul.Scalar, result, alpha)


@desc("mul", "X:x Y:y")
@pir("mul", "x y")
def flattened_product(b: Builder, x: Value, y: Value, x_num_col_dims: int = 1, y_num_col_dims: int = 1) -> Value:
    """fluid's fully connected layer: both tensors are flattened to matrices."""
    for value, dims in ((x, x_num_col_dims), (y, y_num_col_dims)):
        if not 0 < dims < value.ndim:
            raise TranslationError(f"a tensor of shape {show(value.shape)} flattened from dimension {dims}")
    rows, columns = x.shape[:x_num_col_dims], y.shape[y_num_col_dims:]
    if x_num_col_dims == x.ndim - 1 and y_num_col_dims == 1 and y.ndim == 2:
        return multiply_matrices(b, x, y)  # without reshapes
    left = b.reshape(x, [product(rows), product(x.shape[x_num_col_dims:])])
    right = b.reshape(y, [product(y.shape[:y_num_col_dims]), product(columns)])
    return b.reshape(multiply_matrices(b, left, right), [*rows, *columns])


@desc("bmm", "X:x Y:y")
@pir("bmm", "x y")
def batched_product(b: Builder, x: Value, y: Value) -> Value:
    if x.ndim != 3 or y.ndim != 3 or x.shape[0] != y.shape[0]:
        raise TranslationError(f"tensors of shapes {show(x.shape)} and {show(y.shape)} do not fit")
    return multiply_matrices(b, x, y)


@desc("mv", "X:x Vec:y")
@pir("mv", "x y")
def matrix_vector(b: Builder, x: Value, y: Value) -> Value:
    return multiply_matrices(b, x, y)


@desc("dot", "X:x Y:y")
@pir("dot", "x y")
def dot(b: Builder, x: Value, y: Value) -> Value:
    """The dot product over the last dimension, which fluid keeps (as its variable's shape says)."""
    products = b.binary(aten.mul.Tensor, x, y)
    if products.ndim == 0:
        raise TranslationError("its inputs are single numbers")
    shape = products.shape[:-1]
    return b.call(aten.sum.dim_IntList, products, [products.ndim - 1], False, shape=shape, dtype=products.dtype)


@desc("addmm", "Input:input X:x Y:y", "Alpha:alpha Beta:beta")
@pir("addmm addmm_", "input x y")
def addmm(b: Builder, input: Value, x: Value, y: Value, alpha: float = 1.0, beta: float = 1.0) -> Value:
    """beta input + alpha x y"""
    terms = []
    for value, factor in ((multiply_matrices(b, x, y), alpha), (input, beta)):
        terms.append(value if factor == 1.0 else b.unary(aten.mul.Scalar, value, factor))
    return b.binary(aten.add.Tensor, *terms)


@desc("kron", "X:x Y:y")
@pir("kron", "x y")
def kronecker(b: Builder, x: Value, y: Value) -> Value:
    if x.ndim != y.ndim:
        raise TranslationError(f"tensors of shapes {show(x.shape)} and {show(y.shape)} do not fit")
    shape = [one * other for one, other in zip(x.shape, y.shape, strict=True)]
    return b.call(aten.kron.default, x, y, shape=shape, dtype=x.dtype)


@desc("bilinear_tensor_product", "X:x Y:y Weight:weight Bias:bias")
@pir("bilinear", "x y weight bias")
def bilinear(b: Builder, x: Value, y: Value, weight: Value, bias: Value | None = None) -> Value:
    """x_n W_k y_n for every output k, with weights (out, x features, y features)."""
    if x.ndim != 2 or y.ndim != 2 or weight.ndim != 3:
        raise TranslationError(f"tensors of shapes {show(x.shape)}, {show(y.shape)} and {show(weight.shape)}")
    left = b.reshape(x, [x.shape[0], 1, 1, x.shape[1]])
    product_left = multiply_matrices(b, left, weight)
    right = b.reshape(y, [y.shape[0], 1, y.shape[1], 1])
    result = b.reshape(multiply_matrices(b, product_left, right), [x.shape[0], weight.shape[0]])
    return result if bias is None else b.binary(aten.add.Tensor, result, bias)


@desc("einsum", "Operands:values")
@pir("einsum", "values")
def einsum(b: Builder, values: list[Value], equation: str) -> Value:
    """Einstein notation, with letters for dimensions and at most one leading "..." per operand."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(values) or not equation.isascii() or len(equation) > 200:
        raise TranslationError(f"its equation is {equation[:50]!r}")
    sizes: dict[str, Size] = {}
    ellipsis: tuple[Size, ...] = ()
    for term, value in zip(terms, values, strict=True):
        before, dots, after = term.partition("...")
        count = value.ndim - len(before) - len(after)
        if count < 0 or (count and not dots) or (not (before + after).isalpha() and before + after):
            raise TranslationError(f"its equation is {equation[:50]!r}, for a tensor of shape {show(value.shape)}")
        ellipsis = broadcast(ellipsis, value.shape[len(before) : len(before) + count])
        named = [*value.shape[: len(before)], *value.shape[value.ndim - len(after) :]]
        for letter, size in zip(before + after, named, strict=True):
            if sizes.setdefault(letter, size) not in (size, 1) and size != 1:
                raise TranslationError(f"its equation is {equation[:50]!r}, but {letter} has two sizes")
            if size != 1:
                sizes[letter] = size
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        dots = "..." if "..." in left else ""
        right = dots + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    before, dots, after = right.partition("...")
    if not all(letter in sizes for letter in before + after) or len(set(before + after)) < len(before + after):
        raise TranslationError(f"its equation is {equation[:50]!r}")
    shape = [*(sizes[letter] for letter in before), *(ellipsis if dots else ()), *(sizes[letter] for letter in after)]
    return b.call(aten.einsum.default, f"{left}->{right}", list(values), shape=shape, dtype=values[0].dtype)


@desc("cross", "X:x Y:y", "dim:axis")
@pir("cross", "x y")
def cross(b: Builder, x: Value, y: Value, axis: int = 9) -> Value:
    """The cross product along dimension `axis`; 9: the first dimension of size 3."""
    if axis == 9:
        axis = next((index for index, size in enumerate(x.shape) if size == 3), -1)
    axis = x.axis(axis)
    if x.shape != y.shape or x.shape[axis] != 3:
        raise TranslationError(f"tensors of shapes {show(x.shape)} and {show(y.shape)}")
    return b.call(aten.linalg_cross.default, x, y, dim=axis, shape=x.shape, dtype=torch.promote_types(x.dtype, y.dtype))
