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

# By class number; None, or missing at the end, where a class has no name that is known.
Names = Sequence[str | None]

TOOLS = Path(__file__).resolve().parent.parent / "tools"
IMAGENET_NAMES = TOOLS / "readable_label.txt"
IMAGENET_SYNSETS = TOOLS / "imagenet_synsets.txt"

# The 21,841 names of the whole ImageNet take half a megabyte.
_MAX_MEGABYTES = 16
_MAX_NAMES = 1_000_000
# At most nine digits: Python takes long to read a number of thousands, or refuses to.
_NUMBER_FIRST = re.compile(r"([0-9]{1,9})(?:\s*[,:;]\s*|\s+)(\S.*)")
_NUMBER_LAST = re.compile(r"\S.*?[\s,:;]\s*([0-9]{1,9})")


def imagenet_names() -> list[str]:
    """The names of ImageNet's 1000 classes."""
    return read_class_names(str(IMAGENET_NAMES), 1000)


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """WordNet's numbers of ImageNet's 1000 classes, which its folders are called by: n01440764 is class 0."""
    return tuple(IMAGENET_SYNSETS.read_text(encoding="utf-8").split())


def readable(names: Names) -> Names:
    """ImageNet's names for its folders' names; any other names as they are."""
    return imagenet_names() if tuple(names) == imagenet_synsets() else names


def name_of(names: Names, number: int) -> str | None:
    """The name of a class, None if it is not known."""
    return names[number] if number < len(names) else None


def label_of(names: Names, number: int) -> str:
    """What a class is called in a picture: its name, or "class 3", which no class's name is taken for."""
    return name_of(names, number) or f"class {number}"


def checked_names(names: list[str], class_dim: int) -> list[str]:
    """--class_names; raises `FlagError` if they are not one per class."""
    if len(names) != class_dim:
        raise FlagError(f"--class_names: {len(names)} names are given, and the network has {class_dim} classes")
    return names


def read_class_names(path: str, class_dim: int, flag: str = "--class_map_path") -> list[str]:
    """Reads a file of class names: one `number name` per line, or one name per line in the order of the classes.

    Args:
        path: the file; see `read_names`.
        class_dim: number of classes, and of names.
        flag: that names the file, for errors.

    Raises:
        UserError: no such file, one in another encoding, or one with more or fewer names.
    """
    names = read_names(path, flag)
    if len(names) > class_dim:
        surplus = len(names) - class_dim
        raise UserError(
            f"{flag} {path} names {len(names)} classes, {surplus} more than the network's {class_dim}: a line that is "
            f"no class's shifts all names. The first line is {_shown(names[0])}, the last {_shown(names[-1])}; remove "
            "what is too much, or give the file of the data it was trained on"
        )
    if len(names) < class_dim:
        raise UserError(
            f"{flag} {path} names {len(names)} classes, and none is class {len(names)} of the network's "
            f"{class_dim}: give the file of the data it was trained on, or another number of classes"
        )
    return names


def _shown(name: str) -> str:
    return repr(cut(name, 60))


def read_names(path: str, flag: str = "--class_map_path") -> list[str]:
    """The names in a file, by class number.

    A file is numbered (`0 cat`, `0,cat`, `0: cat`) if the numbers that its lines begin with are 0 to n - 1, each once,
    in any order. Otherwise each line is a name, whole: `5 cent` is one. Empty lines do not count. JSON and YAML hold a
    list of names, or a mapping between numbers and names, perhaps as their `names`.

    Raises:
        UserError: no such file, one of more than 16 MB or a million lines, one in another encoding, one whose numbers
            come after the names, in another order, or JSON or YAML that holds something else.
    """
    try:
        text = as_text(read_small(path)) if is_url(path) else read_text(path, _MAX_MEGABYTES)
        if path.lower().endswith((".json", ".yaml", ".yml")):
            from utils.formats.yaml_data import read_yaml  # takes a while to import, and few lists are of the kind

            return _names_in_data(read_yaml(text.replace("\t", " ")))  # JSON is YAML, but for tabs
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
        raise FormatError("the numbers are behind the names: write `0 cat`, not `cat 0`")
    return lines


def _names_in_data(data: Any) -> list[str]:
    if isinstance(data, dict) and "names" in data:  # of a data set's file of YOLO
        data = data["names"]
    if isinstance(data, dict):
        entries = {str(key): value for key, value in data.items()}
        numbers = [str(number) for number in range(len(entries))]
        if entries.keys() != set(numbers):  # the other way round: {"cat": 0}
            entries = {str(value): key for key, value in data.items()}
        if entries.keys() != set(numbers):
            raise FormatError(f"its numbers are not 0 to {len(numbers) - 1}, each once")
        data = [entries[number] for number in numbers]
    if not isinstance(data, list):
        raise FormatError("it holds no list of names, and no mapping between numbers and names")
    names = [entry[-1] if isinstance(entry, list) and entry else entry for entry in data]  # [number of WordNet, name]
    if wrong := [name for name in names if isinstance(name, bool) or not isinstance(name, str | int | float)]:
        raise FormatError(f"{cut(str(wrong[0]), 60)} is no text: write names in quotes")
    names = [str(name) for name in names]
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise FormatError("a name has half a character (\\ud800 to \\udfff), which is no text") from None
    return names
