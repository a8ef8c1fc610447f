"""Words with options, of flags that take a list of them: `NAME` or `NAME:option=value:option`."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Kind = Callable[[str], Any]


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is none: the nearest one, or all."""
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def options_of(word: str, options: Mapping[str, Kind]) -> dict[str, Any]:
    """The options of a word, by name.

    Args:
        word: as typed; an option without a value is a switch that is on.
        options: the options there are, and what their texts become.

    Raises:
        argparse.ArgumentTypeError: one that is none, or whose value is not right.
    """
    values: dict[str, Any] = {}
    for part in word.split(":")[1:]:
        name, equals, text = part.partition("=")
        if name not in options:
            raise argparse.ArgumentTypeError(f"no option {name!r}; {nearest(name, options) if options else 'none'}")
        try:
            values[name] = options[name](text if equals else "true")
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from None
    return values
