"""How a flag's text becomes a value: booleans, bounded numbers, ranges."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})


def boolean(text: str) -> bool:
    """`True`/`False` from any of the accepted words."""
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not a boolean: use True or False")


def number(
    kind: type[int] | type[float], low: float = -math.inf, high: float = math.inf, above: bool = False
) -> Callable[[str], Any]:
    """A parser of one finite number in [low, high], or in (low, high] with `above`."""
    noun = "a whole number" if kind is int else "a number"
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if above else 'at least'} {low:g}")
    if high < math.inf:
        bounds.append(f"at most {high if kind is int else format(high, 'g')}")
    allowed = " ".join([noun, " and ".join(bounds)]).strip()

    def parse_number(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None
        if value != value or abs(value) == math.inf or value > high or value < low or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text} is not allowed: it must be {allowed}")
        return value

    return parse_number


positive_int = number(int, 1)
non_negative_int = number(int, 0)
positive = number(float, 0, above=True)
non_negative = number(float, 0)
fraction = number(float, 0, 1)


def size_range(text: str) -> list[int]:
    """The whole numbers of FIRST:LAST:STEP, both ends included."""
    try:
        first, last, step = map(int, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST:STEP, such as 192:352:32") from None
    if not (0 < first <= last and step > 0):
        raise argparse.ArgumentTypeError(f"{text!r} has no sizes in it: FIRST:LAST:STEP, such as 192:352:32")
    return list(range(first, last + 1, step))
