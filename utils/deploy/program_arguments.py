"""What the operators of a program may be called with: PyTorch does not look at everything itself.

A stride of 0 ends the process by a signal; a size that is squared forty times over is a number of terabytes.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

# The longest list of numbers, and the longest text (the name of a mode), that an operator of a network takes.
_LONGEST_LIST, _LONGEST_TEXT = 10_000, 100
_LARGEST = 1 << 16  # pixels, channels or parts
# Arguments that are whole numbers of 1 or more, or lists of them; and of 0 or more.
_POSITIVE = frozenset(
    ("kernel_size", "stride", "dilation", "groups", "num_groups", "chunks", "upscale_factor", "downscale_factor")
)
_NOT_NEGATIVE = frozenset(("padding", "output_padding", "output_size"))
# PyTorch would take a number for one of these, and not look whether there is such a type.
_SETTINGS = frozenset(("dtype", "layout", "device", "memory_format", "pin_memory"))
# Bits of a size, and of what is computed of sizes: a product of several has more.
SIZE_BITS, _MOST_BITS = 63, 4096


def is_literal(kind: str, value: Any) -> bool:
    """Whether an argument of a program is what its kind says, and no longer than networks need."""
    if kind == "as_string":
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT
    if kind in ("as_int", "as_bool"):
        return _is_number(value, bool if kind == "as_bool" else int)
    of = {"as_ints": (int,), "as_bools": (bool,), "as_floats": (int, float)}[kind]
    return isinstance(value, list) and len(value) <= _LONGEST_LIST and all(_is_number(part, *of) for part in value)


def _is_number(value: Any, *types: type) -> bool:
    return type(value) in types and (isinstance(value, float) or -(1 << 63) <= value < 1 << 63)


def check_keyword(name: Any) -> None:
    """Raises `ValueError` if something cannot be the name of an argument: fx writes it into Python code."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{str(name)[:100]!r} is no name of an argument")


def check_arguments(schema: torch.FunctionSchema, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Checks what PyTorch takes on trust: numbers that it divides by, or goes by in memory.

    Raises:
        ValueError: one is none that a network could have.
    """
    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(args) > len(names) or not given.keys() <= set(names):
        raise ValueError(f"{schema.name} has no such arguments")
    # It divides by the heads of the key, of which there may be none. No network here has fewer of them than queries.
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
    """How many bits a number that is computed of sizes may have.

    Args:
        function: its name in the module `operator`.
        args: numbers, and nodes with such `meta["bits"]`.

    Raises:
        ValueError: they are something else, or so many that the arithmetic would take long.
    """
    bits = [_bits(argument) for argument in args]
    if function == "floordiv" and args[1:] == (0,):
        raise ValueError("it divides by zero")
    found = sum(bits) if function == "mul" else max(bits) + 1
    if found > _MOST_BITS:
        raise ValueError("its arithmetic on sizes is of numbers that no size is")
    return found


def _bits(argument: Any) -> int:
    if isinstance(argument, fx.Node) and "bits" in argument.meta:
        return argument.meta["bits"]
    if type(argument) is not int:
        raise ValueError("its arithmetic on sizes is of something else")
    return max(argument.bit_length(), 1)
