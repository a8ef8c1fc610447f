"""Handles images whose channels come last (NHWC)."""

from __future__ import annotations

from collections.abc import Callable

from utils.programs.paddle_ops.builder import Builder
from utils.programs.paddle_ops.sizes import TranslationError
from utils.programs.paddle_ops.values import Value

CHANNELS_FIRST = ("NCHW", "NCL", "NC", "NCDHW", "AnyLayout", "ANYLAYOUT", "Undefined(AnyLayout)")
CHANNELS_LAST = ("NHWC", "NLC", "NDHWC")


def is_channels_last(layout: str) -> bool:
    """Whether a layout's name means channels last.

    Raises:
        TranslationError: it is not a layout's name.
    """
    if layout not in (
        "NCHW",
        "NCL",
        "NC",
        "NCDHW",
        "AnyLayout",
        "ANYLAYOUT",
        "Undefined(AnyLayout)",
        "NHWC",
        "NLC",
        "NDHWC",
    ):
        raise TranslationError(f"its layout is {layout[:50]!r}")
    return layout in ("NHWC", "NLC", "NDHWC")


def channels_first(b: Builder, x: Value, layout: str) -> tuple[Value, Callable[[Value], Value]]:
    """Images with the channels in dimension 1, and a function that returns a result to their layout."""
    if not is_channels_last(layout) or x.ndim < 3:
        return x, lambda value: value

    def restore(value: Value) -> Value:
        return b.permute(value, [0, *range(2, value.ndim), 1])

    return b.permute(x, [0, x.ndim - 1, *range(1, x.ndim - 1)]), restore
