"""Sizes that may depend on the number of images.

Programs compute shapes from shapes: they read the batch size from one tensor to reshape another. Every size therefore
records how it grows with the number of images N, always in the form `per_image * N + constant`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from utils.errors import FormatError

# Two numbers of images for which dependent values are computed. Values that are not linear in N (a rounded division, a
# minimum) are detected, as the difference must be a multiple of 1009, a prime, or 0.
BATCHES = (2, 1011)


class TranslationError(FormatError):
    """A program cannot be translated. The message says why, without the file's name."""


@dataclass(frozen=True)
class BatchSize:
    """`per_image * N + constant` for N images."""

    per_image: int
    constant: int = 0

    def __add__(self, other: Size) -> Size:
        if isinstance(other, BatchSize):
            return linear(self.per_image + other.per_image, self.constant + other.constant)
        return BatchSize(self.per_image, self.constant + other)

    __radd__ = __add__

    def __mul__(self, other: Size) -> Size:
        if isinstance(other, BatchSize):
            raise TranslationError("a size grows with the square of the number of images")
        return linear(self.per_image * other, self.constant * other)

    __rmul__ = __mul__

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + -other

    def __rsub__(self, other: int) -> Size:
        return -self + other

    def __floordiv__(self, other: Size) -> Size:
        if isinstance(other, BatchSize):
            return ratio(self, other)
        if other == 0 or self.per_image % other:
            raise TranslationError("a size is a fraction of the number of images")
        return linear(self.per_image // other, self.constant // other)


Size = int | BatchSize


def linear(per_image: int, constant: int) -> Size:
    """The size `per_image * N + constant`."""
    return BatchSize(per_image, constant) if per_image else constant


def ratio(numerator: Size, denominator: Size) -> Size:
    """`numerator` / `denominator`, which must be an integer for every number of images.

    Raises:
        TranslationError: it is not.
    """
    if isinstance(denominator, int):
        if denominator == 0 or at(numerator, 0) % denominator or at(numerator, 1) % denominator:
            raise TranslationError(f"{show([numerator])} is not a multiple of {denominator}")
        return numerator // denominator
    if isinstance(numerator, BatchSize) and numerator.per_image % denominator.per_image == 0:
        times = numerator.per_image // denominator.per_image
        if times * denominator.constant == numerator.constant:
            return times
    raise TranslationError(f"{show([numerator])} is not a multiple of {show([denominator])}")


def at(size: Size, batch: int) -> int:
    """A size for a number of images."""
    return size if isinstance(size, int) else size.per_image * batch + size.constant


def from_values(values: Sequence[int]) -> Size:
    """The size that has these values for `BATCHES` images.

    Raises:
        TranslationError: no linear size has these values.
    """
    first, second = values
    per_image, rest = divmod(second - first, BATCHES[1] - BATCHES[0])
    if rest:
        raise TranslationError("a size depends on the number of images, but is not linear in it")
    return linear(per_image, first - per_image * BATCHES[0])


def product(sizes: Iterable[Size]) -> Size:
    """Number of elements of a shape.

    Raises:
        TranslationError: two of the sizes depend on the number of images.
    """
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def static(size: Size, what: str) -> int:
    """A size that must not depend on the number of images.

    Raises:
        TranslationError: it does.
    """
    if isinstance(size, BatchSize):
        raise TranslationError(f"its {what} depends on the number of images")
    return size


def freed(sizes: Sequence[Size], shape: Sequence[Size], fixed: int) -> list[Size]:
    """A shape to which one of any number of images is brought, by a program that knows its `fixed` number only.

    The size that is in the images' place is a multiple of them. Where `fixed` is 0, nothing changes.
    """
    place = next((place for place, size in enumerate(shape) if isinstance(size, BatchSize)), None)
    if not fixed or place is None or any(isinstance(size, BatchSize) for size in sizes):
        return [*sizes]
    before = product(shape[:place])
    for there, size in enumerate(sizes):
        if product(sizes[:there]) == before and isinstance(size, int) and size > 0 and size % fixed == 0:
            return [*sizes[:there], BatchSize(size // fixed), *sizes[there + 1 :]]
        if size == -1:
            break
    return [*sizes]


def show(shape: Sequence[Size]) -> str:
    """A shape for messages: [N, 3, 224, 224]."""

    def text(size: Size) -> str:
        if isinstance(size, int):
            return str(size)
        times = "N" if size.per_image == 1 else f"{size.per_image} N"
        return f"{times} + {size.constant}" if size.constant else times

    return f"[{', '.join(text(size) for size in shape)}]"
