"""YAML as data: numbers, texts, lists and mappings, within bounds of size, depth and time."""

from __future__ import annotations

from typing import Any

import yaml

from utils.errors import FormatError

# The 21,841 classes of the whole ImageNet stay well below these, and anything below them is read in about a second.
_MAX_CHARACTERS = 4 << 20
_MAX_EVENTS = 60_000
_MAX_DEPTH = 32
# 1:1:1:... is a number to base 60, and takes time that grows with the square of its length.
_MAX_SCALAR = 1_000

# libyaml's, where PyYAML was built with it, is many times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str) -> Any:
    """Reads a YAML document as PyYAML's safe loader does.

    Raises:
        FormatError: it is no YAML, is too long or nested too deep, refers to parts of itself, or holds more than data.
    """
    if len(text) > _MAX_CHARACTERS:
        raise FormatError(f"it has more than {_MAX_CHARACTERS >> 20} MB")
    try:
        _check_events(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error)
        raise FormatError(f"it is no YAML: {' '.join(reason.split())[:200]}{place}") from None
    except FormatError:
        raise
    # Texts that look like numbers and dates and are none: 2001-99-99, 1:99999999999.5.
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise FormatError(f"it is no YAML: {' '.join(str(error).split())[:200]}") from None


def _check_events(text: str) -> None:
    """Goes through a document without building anything of it."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, _Loader)):
        if number == _MAX_EVENTS:
            raise FormatError(f"it has more than {_MAX_EVENTS} parts")
        if isinstance(event, yaml.AliasEvent):
            raise FormatError(f"it refers to a part of itself (*{event.anchor[:40]}), which is not supported")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_SCALAR:
            raise FormatError(f"a value in it has more than {_MAX_SCALAR} characters")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise FormatError(f"it is nested more than {_MAX_DEPTH} deep")
