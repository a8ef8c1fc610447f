"""Reads YAML as data: numbers, texts, lists and mappings, within bounds of size, depth and time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from utils.errors import FormatError

# A file with the 21,841 classes of the whole ImageNet stays well below these bounds; files within them take about a
# second.
_MAX_CHARACTERS = 4 << 20
_MAX_EVENTS = 60_000
_MAX_DEPTH = 32
# 1:1:1:... is a number in base 60, and parsing takes time quadratic in its length.
_MAX_SCALAR = 1_000

# libyaml's loader, if PyYAML was built with it, is many times faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The keys and indices that lead to a value.
Path = tuple[str | int, ...]


def read_yaml(text: str) -> Any:
    """Reads a YAML document as PyYAML's safe loader does.

    Raises:
        FormatError: it is not YAML, is too long or nested too deeply, has references, or holds more than data.
    """
    return _read(text, aliases=False)[0]


def read_yaml_lines(text: str) -> tuple[Any, dict[Path, int]]:
    """Reads a YAML document that may have references (aliases), and the line of every key and list element.

    Args:
        text: the document. It may have 60,000 values at most, counting a referenced part at every reference.

    Returns:
        The document; and path -> line, counted from 1.

    Raises:
        FormatError: see `read_yaml`; or a part refers to itself.
    """
    data, node = _read(text, aliases=True)
    return data, dict(_lines(node, ())) if node is not None else {}


def _read(text: str, aliases: bool) -> tuple[Any, yaml.Node | None]:
    """The document and its root node; None if it is empty."""
    if len(text) > _MAX_CHARACTERS:
        raise FormatError(f"it has more than {_MAX_CHARACTERS >> 20} MB")
    try:
        _check_events(text, aliases)
        node = yaml.compose(text, _Loader)
        if node is not None:
            _check_size(node, {}, set())
        return yaml.load(text, _Loader), node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error)
        raise FormatError(f"it is not valid YAML: {' '.join(reason.split())[:200]}{place}") from None
    except FormatError:
        raise
    # Texts that only look like dates or numbers: 2001-99-99, 1:99999999999.5.
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise FormatError(f"it is not valid YAML: {' '.join(str(error).split())[:200]}") from None


def _check_events(text: str, aliases: bool) -> None:
    """Checks a document's events against the bounds, without building any values."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, _Loader)):
        if number == _MAX_EVENTS:
            raise FormatError(f"it has more than {_MAX_EVENTS} parts")
        if isinstance(event, yaml.AliasEvent) and not aliases:
            raise FormatError(f"it refers to a part of itself (*{event.anchor[:40]}), which is not supported")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_SCALAR:
            raise FormatError(f"a value in it has more than {_MAX_SCALAR} characters")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise FormatError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _children(node: yaml.Node) -> Iterator[tuple[yaml.Node | None, yaml.Node]]:
    """The parts of a mapping, with their keys, or of a list."""
    if isinstance(node, yaml.MappingNode):
        yield from node.value
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield None, part


def _check_size(node: yaml.Node, sizes: dict[int, tuple[int, int]], above: set[int]) -> tuple[int, int]:
    """Number of values in a part and its depth, including what it refers to; each part is visited once."""
    if id(node) in above:
        raise FormatError(f"line {node.start_mark.line + 1} refers to a part that contains it")
    if id(node) not in sizes:
        above.add(id(node))
        parts = [_check_size(part, sizes, above) for _, part in _children(node)]
        above.remove(id(node))
        size, depth = 1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0)
        if size > _MAX_EVENTS or depth > _MAX_DEPTH + 1:
            raise FormatError("its references repeat parts too often, or nest them too deeply")
        sizes[id(node)] = size, depth
    return sizes[id(node)]


def _lines(node: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    """The paths below a part, each with the line of its key or list element."""
    for index, (key, part) in enumerate(_children(node)):
        below: Path = (*path, index if key is None else str(key.value))
        yield below, (part if key is None else key).start_mark.line + 1
        yield from _lines(part, below)
