"""Values of a program, their shapes, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from utils.programs.paddle_ops.sizes import BATCHES, BatchSize, Size, TranslationError, at, from_values, product, show

# Elements that a value may have per image. (The largest of the zoo's networks have 30 million.)
MAX_ELEMENTS = 2**28
# Elements of values that are computed here and now rather than in the graph, beyond those they are computed from.
MAX_FOLDED = 2**20
# The same of values that depend on the number of images: shapes, as a rule.
MAX_SIZES = 2**12
MAX_DIMENSIONS = 16


class Value:
    """A tensor of the program.

    Attributes:
        shape: its sizes.
        dtype: as the program says; the graph may compute in another precision.
        known: its contents for each of `BATCHES` images, where they do not depend on the images: the same tensor
            twice for a constant, two for the sizes of a batch.
        source: name of the parameter that it is.
    """

    __slots__ = ("_emit", "_node", "dtype", "known", "shape", "source")

    def __init__(
        self,
        shape: Sequence[Size],
        dtype: torch.dtype,
        known: tuple[Tensor, Tensor] | None = None,
        emit: Callable[[], fx.Node] | None = None,
        source: str | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.known = known
        self.source = source
        self._emit = emit
        self._node: fx.Node | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def constant(self) -> Tensor | None:
        """Its contents, if they are the same for any number of images."""
        return self.known[0] if self.known is not None and self.known[0] is self.known[1] else None

    @property
    def number(self) -> float | int | bool | None:
        """Its only element, if it is constant and has one, or the same one over and over."""
        constant = self.constant
        if constant is None or constant.numel() == 0:
            return None
        if any(stride and size > 1 for stride, size in zip(constant.stride(), constant.shape, strict=True)):
            return None
        return constant[(0,) * constant.ndim].item()

    @property
    def node(self) -> fx.Node:
        """The node that computes it, made when first asked for."""
        if self._node is None:
            assert self._emit is not None
            self._node = self._emit()
            self._node.meta["shape"] = tuple(size if isinstance(size, int) else None for size in self.shape)
        return self._node

    def axis(self, axis: int) -> int:
        """A dimension, counted from the front.

        Raises:
            TranslationError: there is none of this number.
        """
        if not -self.ndim <= axis < max(self.ndim, 1):
            raise TranslationError(f"axis {axis} of a tensor of shape {show(self.shape)}")
        return axis % max(self.ndim, 1)

    def axes(self, axes: Sequence[int]) -> list[int]:
        """Dimensions, counted from the front, each once, in order."""
        return sorted({self.axis(axis) for axis in axes})


def check_shape(shape: Sequence[Size]) -> None:
    """Raises `TranslationError` for a shape that no tensor can have here."""
    if len(shape) > MAX_DIMENSIONS:
        raise TranslationError(f"a tensor has {len(shape)} dimensions")
    if any(at(size, BATCHES[0]) < 0 for size in shape):
        raise TranslationError(f"a tensor would have the shape {show(shape)}")
    if at(product(shape), 1) > MAX_ELEMENTS:
        raise TranslationError(f"a tensor of shape {show(shape)} is too large for an image classifier")


def values_in(arguments: Any) -> list[Value]:
    """All values in nested lists, tuples and dictionaries."""
    if isinstance(arguments, Value):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, list | tuple):
        return [value for item in arguments for value in values_in(item)]
    return []


def convert(arguments: Any, value: Callable[[Value], Any], size: Callable[[Size], Any]) -> Any:
    """Nested arguments with every `Value` and `BatchSize` replaced."""
    if isinstance(arguments, Value):
        return value(arguments)
    if isinstance(arguments, BatchSize):
        return size(arguments)
    if isinstance(arguments, list | tuple):
        return type(arguments)(convert(item, value, size) for item in arguments)
    if isinstance(arguments, dict):
        return {key: convert(item, value, size) for key, item in arguments.items()}
    return arguments


def depends_on_batch(arguments: Any) -> bool:
    """Whether nested arguments hold something that is not the same for every number of images."""
    if isinstance(arguments, Value):
        return arguments.constant is None
    if isinstance(arguments, list | tuple):
        return any(depends_on_batch(item) for item in arguments)
    if isinstance(arguments, dict):
        return any(depends_on_batch(item) for item in arguments.values())
    return isinstance(arguments, BatchSize)


def broadcast(first: Sequence[Size], second: Sequence[Size]) -> tuple[Size, ...]:
    """The shape of what is computed from two tensors element by element.

    Raises:
        TranslationError: their shapes do not fit.
    """
    rank = max(len(first), len(second))
    result: list[Size] = []
    for one, other in zip(
        [1] * (rank - len(first)) + list(first), [1] * (rank - len(second)) + list(second), strict=True
    ):
        if one != other and one != 1 and other != 1:
            raise TranslationError(f"tensors of shapes {show(first)} and {show(second)} do not fit")
        result.append(other if one == 1 else one)
    return tuple(result)


def known_sizes(value: Value, what: str) -> list[Size]:
    """The elements of a value that holds sizes.

    Raises:
        TranslationError: they depend on the images.
    """
    if value.known is None or value.dtype.is_floating_point or value.dtype == torch.bool:
        raise TranslationError(f"its {what} is computed from the images")
    first, second = value.known
    if first.numel() > MAX_SIZES:
        raise TranslationError(f"its {what} is a list of {first.numel()} numbers")
    return [from_values(pair) for pair in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)]
