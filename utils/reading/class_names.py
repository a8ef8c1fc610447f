"""Readable names of the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from utils.errors import FlagError, FormatError, UserError, cut, one_line, reason
from utils.files import as_text, read_text
from utils.reading.remote import is_url, read_small

# Names by class number; unknown names are None, or missing at the end.
Names = Sequence[str | None]

TOOLS = Path(__file__).resolve().parent.parent / "tools"
IMAGENET_NAMES = TOOLS / "readable_label.txt"
IMAGENET_SYNSETS = TOOLS / "imagenet_synsets.txt"

# The 21,841 names of the whole ImageNet take half a megabyte.
_MAX_MEGABYTES = 16
_MAX_NAMES = 1_000_000
# At most nine digits: Python takes long to parse numbers of thousands of digits, or refuses.
_NUMBER_FIRST = re.compile(r"([0-9]{1,9})(?:\s*[,:;]\s*|\s+)(\S.*)")
_NUMBER_LAST = re.compile(r"\S.*?[\s,:;]\s*([0-9]{1,9})")


def imagenet_names() -> list[str]:
    """The names of ImageNet's 1000 classes."""
    return read_class_names(str(IMAGENET_NAMES), 1000)


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, which are its folder names: n01440764 is class 0."""
    return tuple(IMAGENET_SYNSETS.read_text(encoding="utf-8").split())


def readable(names: Names) -> Names:
    """Replaces ImageNet's folder names by class names; keeps all other names."""
    return imagenet_names() if tuple(names) == imagenet_synsets() else names


def name_of(names: Names, number: int) -> str | None:
    """The name of a class; None if unknown."""
    return names[number] if number < len(names) else None


def label_of(names: Names, number: int) -> str:
    """The label of a class in a picture: its name, or "class 3"."""
    return name_of(names, number) or f"class {number}"


def checked_names(names: list[str], class_dim: int) -> list[str]:
    """--class_names; raises `FlagError` unless there is one name per class."""
    if len(names) != class_dim:
        raise FlagError(
            f"--class_names: {len(names)} names were given, but the network has {class_dim} classes: give one for each"
        )
    return names


def read_class_names(path: str, class_dim: int, flag: str = "--class_map_path") -> list[str]:
    """Reads a file of class names: one `number name` per line, or one name per line in the order of the classes.

    Args:
        path: the file; see `read_names`.
        class_dim: number of classes, and of names.
        flag: the flag that gave the file, for errors.

    Raises:
        UserError: the file is missing, has another encoding, or the wrong number of names.
    """
    names = read_names(path, flag)
    if len(names) > class_dim:
        surplus = len(names) - class_dim
        raise UserError(
            f"{flag} {path} names {len(names)} classes, {surplus} more than the network's {class_dim}: an extra line "
            f"shifts all names. The first line is {_shown(names[0])}, the last {_shown(names[-1])}; remove extra "
            "lines, or give the file of the training data"
        )
    if len(names) < class_dim:
        raise UserError(
            f"{flag} {path} names {len(names)} classes, but the network has {class_dim}: give the file of the "
            "training data, or the right number of classes"
        )
    return names


def _shown(name: str) -> str:
    return repr(cut(name, 60))


def read_names(path: str, flag: str = "--class_map_path") -> list[str]:
    """The names in a file, by class number.

    A file is numbered (`0 cat`, `0,cat`, `0: cat`) if its lines begin with the numbers 0 to n - 1, each once, in any
    order. Otherwise each whole line is a name, such as `5 cent`. Empty lines are skipped. JSON and YAML files contain a
    list of names, or a mapping between numbers and names, optionally under the key `names`.

    Raises:
        UserError: the file is missing, exceeds 16 MB or a million lines, has another encoding, has numbers after the
            names, or is JSON or YAML with other content.
    """
    try:
        text = as_text(read_small(path)) if is_url(path) else read_text(path, _MAX_MEGABYTES)
        if path.lower().endswith((".json", ".yaml", ".yml")):
            from utils.formats.yaml_data import read_yaml  # slow to import, and rarely needed

            return _names_in_data(read_yaml(text.replace("\t", " ")))  # JSON is YAML, except for tabs
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) > _MAX_NAMES:
            raise FormatError(f"it has more than {_MAX_NAMES} lines")
        return _names_in_lines(lines)
    except OSError as error:
        raise UserError(f"{flag} {path}: {reason(error)}") from None
    except FormatError as error:
        raise UserError(f"{flag} {path}: {one_line(error)}") from None


def _names_in_lines(lines: list[str]) -> list[str]:
    numbered = [_NUMBER_FIRST.fullmatch(line) for line in lines]
    names = {int(found[1]): found[2] for found in numbered if found}
    if lines and names.keys() == set(range(len(lines))):
        return [names[number] for number in range(len(lines))]
    last = [int(found[1]) for line in lines if (found := _NUMBER_LAST.fullmatch(line))]
    if sorted(last) == list(range(len(lines))) and last != sorted(last):
        raise FormatError("the numbers follow the names: write `0 cat`, not `cat 0`")
    return lines


def _names_in_data(data: Any) -> list[str]:
    if isinstance(data, dict) and "names" in data:  # as in YOLO's dataset files
        data = data["names"]
    if isinstance(data, dict):
        entries = {str(key): value for key, value in data.items()}
        numbers = [str(number) for number in range(len(entries))]
        if entries.keys() != set(numbers):  # reversed: {"cat": 0}
            entries = {str(value): key for key, value in data.items()}
        if entries.keys() != set(numbers):
            raise FormatError(f"its numbers must be 0 to {len(numbers) - 1}, each once")
        data = [entries[number] for number in numbers]
    if not isinstance(data, list):
        raise FormatError("it contains neither a list of names nor a mapping between numbers and names")
    names = [entry[-1] if isinstance(entry, list) and entry else entry for entry in data]  # [WordNet id, name]
    if wrong := [name for name in names if isinstance(name, bool) or not isinstance(name, str | int | float)]:
        raise FormatError(f"{cut(str(wrong[0]), 60)} is not text: put names in quotes")
    names = [str(name) for name in names]
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise FormatError("a name contains half a character (\\ud800 to \\udfff), which is not valid text") from None
    return names
