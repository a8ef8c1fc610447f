"""The operand types that PyTorch's operators support."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from utils.programs.paddle_ops.sizes import TranslationError
from utils.programs.paddle_ops.values import Value

aten = torch.ops.aten

# Operations that also take a number as the second operand; most constants are numbers.
WITH_NUMBER: dict[Any, Any] = {
    aten.add.Tensor: aten.add.Scalar,
    aten.sub.Tensor: aten.sub.Scalar,
    aten.mul.Tensor: aten.mul.Scalar,
    aten.div.Tensor: aten.div.Scalar,
    aten.maximum.default: aten.clamp_min.default,
    aten.minimum.default: aten.clamp_max.default,
    aten.eq.Tensor: aten.eq.Scalar,
    aten.ne.Tensor: aten.ne.Scalar,
    aten.lt.Tensor: aten.lt.Scalar,
    aten.le.Tensor: aten.le.Scalar,
    aten.gt.Tensor: aten.gt.Scalar,
    aten.ge.Tensor: aten.ge.Scalar,
}
# Operations whose results share their operand's memory.
VIEWS = {aten.permute.default, aten.slice.Tensor, aten.expand.default, aten.split_with_sizes.default}
# Operations that also take integers and booleans; all others take floating-point numbers of one type.
ANY_TYPE = {
    *WITH_NUMBER, *WITH_NUMBER.values(), *VIEWS, aten.reshape.default, aten.repeat.default, aten.cat.default,
    aten.flip.default, aten.roll.default, aten.pad.default, aten.to.dtype, aten.where.self, aten.full.default,
    aten.index_select.default, aten.index.Tensor, aten.index_put.default, aten.index_copy.default,
    aten.index_add.default, aten.gather.default, aten.scatter.src, aten.scatter_add.default, aten.embedding.default,
    aten.slice_scatter.default, aten.amax.default, aten.amin.default, aten.sum.dim_IntList, aten.prod.dim_int,
    aten.all.dim, aten.any.dim, aten.argmax.default, aten.argmin.default, aten.topk.default, aten.sort.stable,
    aten.kthvalue.default, aten.cumsum.default, aten.cumprod.default, aten.tril.default, aten.triu.default,
    aten.diag.default, aten.diagonal.default, aten.abs.default, aten.sign.default, aten.square.default,
    aten.relu.default, aten.clamp.default, aten.threshold.default, aten.neg.default, aten.fmax.default,
    aten.fmin.default, aten.div.Tensor_mode, aten.remainder.Tensor, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor,
    aten.bitwise_and.Tensor, aten.bitwise_or.Tensor, aten.bitwise_xor.Tensor, aten.bitwise_not.default,
    aten.logical_and.default, aten.logical_or.default, aten.logical_xor.default, aten.logical_not.default,
    aten.isnan.default, aten.isinf.default, aten.isfinite.default, aten.einsum.default, aten.kron.default,
    aten.linalg_cross.default, aten.ceil.default, aten.floor.default, aten.round.default, aten.trunc.default,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.matmul.default,
}  # fmt: skip
# Operations that do not support booleans.
NO_FLAGS = {
    aten.sub.Tensor, aten.sub.Scalar, aten.abs.default, aten.sign.default, aten.square.default, aten.relu.default,
    aten.clamp.default, aten.threshold.default, aten.neg.default, aten.clamp_min.default, aten.clamp_max.default,
    aten.cumsum.default, aten.cumprod.default, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.matmul.default,
    aten.div.Tensor_mode, aten.remainder.Tensor, aten.topk.default, aten.kthvalue.default, aten.argmax.default,
    aten.argmin.default, aten.add.Scalar, aten.mul.Scalar, aten.roll.default, aten.ceil.default, aten.floor.default,
    aten.round.default, aten.trunc.default,
}  # fmt: skip


def check_types(target: Callable[..., Any], operands: Sequence[Value]) -> None:
    """Refuses operands of types that an operator does not support."""
    dtypes = {value.dtype for value in operands}
    if target not in ANY_TYPE and (len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes)):
        raise TranslationError(f"it computes with {_named(dtypes)}")
    if target in NO_FLAGS and torch.bool in dtypes:
        raise TranslationError("it computes with booleans")


def _named(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
