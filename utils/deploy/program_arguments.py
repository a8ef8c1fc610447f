"""Checks the arguments of a program's operators, as PyTorch does not check them all itself.

A stride of 0 kills the process with a signal; a size squared forty times becomes a number of terabytes.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

# Longest list of numbers, and longest text (the name of a mode), that a network's operator takes.
_LONGEST_LIST, _LONGEST_TEXT = 10_000, 100
_LARGEST = 1 << 16  # pixels, channels or parts
# Arguments that must be integers of at least 1, or lists of them; and those that must be at least 0.
_POSITIVE = frozenset(
    ("kernel_size", "stride", "dilation", "groups", "num_groups", "chunks", "upscale_factor", "downscale_factor")
)
_NOT_NEGATIVE = frozenset(("padding", "output_padding", "output_size"))
# PyTorch accepts any number for these, even one that stands for no type.
_SETTINGS = frozenset(("dtype", "layout", "device", "memory_format", "pin_memory"))
# Bits of a size, and most bits of a number computed from sizes: products need more than a size.
SIZE_BITS, _MOST_BITS = 63, 4096


def is_literal(kind: str, value: Any) -> bool:
    """Whether an argument has the type that its kind says, and is no longer than networks need."""
    if kind == "as_string":
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT
    if kind in ("as_int", "as_bool"):
        return _is_number(value, bool if kind == "as_bool" else int)
    of = {"as_ints": (int,), "as_bools": (bool,), "as_floats": (int, float)}[kind]
    return isinstance(value, list) and len(value) <= _LONGEST_LIST and all(_is_number(part, *of) for part in value)


def _is_number(value: Any, *types: type) -> bool:
    return type(value) in types and (isinstance(value, float) or -(1 << 63) <= value < 1 << 63)


def check_keyword(name: Any) -> None:
    """Raises `ValueError` if `name` cannot name an argument: fx writes it into Python code."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{str(name)[:100]!r} cannot be an argument's name")


def check_arguments(schema: torch.FunctionSchema, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Checks what PyTorch trusts: numbers that it divides by, or computes addresses from.

    Raises:
        ValueError: a network cannot have such an argument.
    """
    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(args) > len(names) or not given.keys() <= set(names):
        raise ValueError(f"{schema.name} has no such arguments")
    # With enable_gqa PyTorch divides by the key's number of heads, which may be 0. No network here uses it.
    if given.get("enable_gqa"):
        raise ValueError(f"{schema.name}: enable_gqa is not supported")
    for name, value in given.items():
        if name in _SETTINGS and isinstance(value, int | float | str | list) and type(value) is not bool:
            raise ValueError(f"{schema.name}: {name} is {str(value)[:60]}")
        if value is None or isinstance(value, str) or (name == "output_size" and isinstance(value, fx.Node)):
            continue
        parts = value if isinstance(value, list) else [value]
        lowest = 1 if name in _POSITIVE else 0
        if name in _POSITIVE | _NOT_NEGATIVE and not all(
            (type(part) is int and lowest <= part <= _LARGEST) or (isinstance(part, fx.Node) and name == "output_size")
            for part in parts
        ):
            raise ValueError(f"{schema.name}: {name} is {str(value)[:60]}")
        if name in ("scale_factors", "scales_h", "scales_w") and not all(
            type(part) in (int, float) and math.isfinite(part) and 0 < part <= _LARGEST for part in parts
        ):
            raise ValueError(f"{schema.name}: {name} is {str(value)[:60]}")


def bits_of_result(function: str, args: Sequence[Any]) -> int:
    """Upper bound of the bits of a number computed from sizes.

    Args:
        function: the function's name in the module `operator`.
        args: numbers, and nodes whose `meta["bits"]` is such a bound.

    Raises:
        ValueError: an argument is something else, or the result would be too long.
    """
    bits = [_bits(argument) for argument in args]
    if function == "floordiv" and args[1:] == (0,):
        raise ValueError("it divides by zero")
    found = sum(bits) if function == "mul" else max(bits) + 1
    if found > _MOST_BITS:
        raise ValueError("its arithmetic on sizes makes numbers too large for a size")
    return found


def _bits(argument: Any) -> int:
    if isinstance(argument, fx.Node) and "bits" in argument.meta:
        return argument.meta["bits"]
    if type(argument) is not int:
        raise ValueError("its arithmetic on sizes uses something other than sizes")
    return max(argument.bit_length(), 1)
