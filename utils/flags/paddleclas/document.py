"""A configuration file and its overrides as data, with the line of every key."""

from __future__ import annotations

import ast
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.errors import FlagError, FormatError, cut, reason
from utils.files import read_text, similar_path
from utils.formats.yaml_data import Path, read_yaml_lines

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@dataclass
class Document:
    """The content of a file after its overrides.

    Attributes:
        file: its name.
        content: mappings, lists and plain values.
        lines: path -> line, for keys in the file.
        overridden: path -> the override as typed.
    """

    file: str
    content: dict[str, Any]
    lines: dict[Path, int] = field(default_factory=dict)
    overridden: dict[Path, str] = field(default_factory=dict)

    def place(self, path: Path) -> str:
        """The place and name of a key: `FILE line 12: Optimizer.lr`."""
        key = ".".join(map(str, path))
        for length in range(len(path), 0, -1):
            if override := self.overridden.get(path[:length]):
                return f"-o {cut(override, 100)}: {key}"
            if line := self.lines.get(path[:length]):
                return f"{self.file} line {line}: {key}"
        return f"{self.file}: {key}"


def read_document(file: str, overrides: Sequence[str]) -> Document:
    """Reads a configuration as PaddleClas does.

    Args:
        file: a YAML file.
        overrides: `KEY=VALUE`, where dots separate the key's parts and a number is a list index.

    Raises:
        FlagError: the file does not exist or is not a YAML mapping, or an override is invalid.
    """
    try:
        content, lines = read_yaml_lines(read_text(file, limit=4))
    except OSError as error:
        meant = similar_path(file) if isinstance(error, FileNotFoundError) else ""
        raise FlagError(f"-c {file}: {reason(error)}{meant}") from None
    except FormatError as error:
        raise FlagError(f"-c {file}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FlagError(f"-c {file}: not a configuration: it must be a mapping with keys such as Arch and DataLoader")
    document = Document(file, _evaluated(content), lines)
    for override in overrides:
        _override(document, override)
    return document


def _evaluated(mapping: dict[Any, Any]) -> dict[str, Any]:
    """A mapping with texts that are Python literals replaced by their values, also in nested mappings but not in lists:
    YAML 1.1 takes 1e-3 for a text.
    """
    return {
        str(key): _evaluated(value) if isinstance(value, dict) else literal(value) if isinstance(value, str) else value
        for key, value in mapping.items()
    }


def literal(text: str) -> Any:
    """The value of a Python literal; any other text stays unchanged."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def arithmetic(text: str) -> float | None:
    """The value of an arithmetic formula, such as 1.0/255.0; None for anything else."""
    try:
        return float(_calculated(ast.parse(text.strip(), mode="eval").body))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, ArithmeticError):
        return None


def _calculated(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # pyright: ignore[reportReturnType] (the line above)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_calculated(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_calculated(node.left), _calculated(node.right))
    raise ValueError


def _override(document: Document, override: str) -> None:
    """Sets a value in the document; creates missing keys, but no list items."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise FlagError(f"-o {override}: give KEY=VALUE, such as -o Global.epochs=30")
    value = literal(text)
    if isinstance(value, str) and (number := arithmetic(value)) is not None:
        value = number
    path: Path = ()
    here: Any = document.content
    for number, part in enumerate(parts):
        step = _step(here, part, path, override)
        path = (*path, step)
        if number == len(parts) - 1:
            here[step] = value
        elif isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        here = here[step]
    document.overridden[path] = override


def _step(here: Any, part: str, path: Path, override: str) -> str | int:
    """The key or index that `part` of an override means at `path`.

    Raises:
        FlagError: there is no such place.
    """
    if isinstance(here, dict):
        return part
    name = ".".join(map(str, path))
    if not isinstance(here, list):
        raise FlagError(f"-o {override}: {name} is {cut(repr(here), 60)}, which has no part {part!r}")
    if not part.isdecimal() or int(part) >= len(here):
        there = ", ".join(f"{index} {next(iter(e))}" for index, e in enumerate(here) if isinstance(e, dict) and e)
        raise FlagError(
            f"-o {override}: {name} is a list of {len(here)}, and {part!r} is not an index in it"
            + (f": {cut(there, 200)}" if there else "")
        )
    return int(part)
