"""Values of a configuration, looked up by name and checked; unused keys are refused at the end."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from utils.errors import cut
from utils.flags import kinds
from utils.flags.kinds import FALSE_WORDS, TRUE_WORDS
from utils.flags.paddleclas.document import Document, Path, arithmetic

T = TypeVar("T")
MISSING: Any = object()

# Characters of a refusal: the file may hold names of any length.
LONGEST = 1000


@dataclass
class Reading:
    """The results of reading a configuration.

    Attributes:
        document: the configuration.
        flags: name -> value as typed, in the order found.
        refusals: unsupported settings, one line each.
        notes: differences from PaddleClas, one line each.
        idle: keys without effect here.
        needed: flag -> why it must be given in addition to the configuration.
        progressive: images grow during the run (Global.train_mode).
        attention: for AFD, the layers of "student" and "teacher" and the query features "dim", as typed.
    """

    document: Document
    flags: dict[str, str | list[str]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    needed: dict[str, str] = field(default_factory=dict)
    progressive: bool = False
    attention: dict[str, str] = field(default_factory=dict)

    def set(self, flag: str, value: Any) -> None:
        """Sets a flag; writes numbers in the shortest form that reads back unchanged."""
        self.flags[flag] = [typed(part) for part in value] if isinstance(value, list | tuple) else typed(value)

    @property
    def classes(self) -> int:
        """The number of classes, as far as it has been read."""
        return int(str(self.flags.get("class_dim", 1000)))

    def note(self, line: str) -> None:
        """Keeps a note once."""
        if line not in self.notes:
            self.notes.append(line)


def typed(value: Any) -> str:
    """A value as typed after a flag."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


class Section:
    """A mapping of a configuration.

    Args:
        reading: what comes out.
        path: path of the mapping.
        value: the mapping; None counts as an empty one.
    """

    def __init__(self, reading: Reading, path: Path, value: Any) -> None:
        self.reading = reading
        self.path = path
        self.asked: set[str] = set()
        if value is not None and not isinstance(value, dict):
            self._refuse(path, f"{shown(value)} should be a mapping")
            value = {}
        self.values: dict[str, Any] = {} if value is None else value

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def take(self, name: str, kind: Callable[[Any], T], default: T) -> T:
        """The value of a key, converted by `kind`, whose `ValueError` says what is expected; `default` if the key is
        missing or empty.
        """
        self.asked.add(name)
        value = self.values.get(name)
        if value is None:
            return default
        try:
            return kind(value)
        except ValueError as error:
            self._refuse((*self.path, name), f"{shown(value)} should be {error}")
            return default

    def section(self, name: str) -> Section:
        """The mapping at a key; empty if it is missing."""
        self.asked.add(name)
        return Section(self.reading, (*self.path, name), self.values.get(name))

    def entries(self, name: str) -> Iterator[tuple[str, Section]]:
        """The operations of a list `- NAME: {options}`, in order."""
        self.asked.add(name)
        value = self.values.get(name)
        if value is not None and not isinstance(value, list):
            self._refuse((*self.path, name), f"{shown(value)} should be a list")
            return
        for index, entry in enumerate(value or ()):
            path = (*self.path, name, index)
            if isinstance(entry, str):
                entry = {entry: None}
            if not isinstance(entry, dict) or len(entry) != 1:
                self._refuse(path, f"{shown(entry)} should be one name with its options")
                continue
            ((operation, options),) = entry.items()
            yield str(operation), Section(self.reading, (*path, str(operation)), options)

    def idle(self, *names: str) -> None:
        """Marks keys that have no effect here."""
        for name in names:
            self.asked.add(name)
            if self.values.get(name) is not None:
                self.reading.idle.append(".".join(str(part) for part in (*self.path, name)))

    def only(self, name: str, *allowed: Any, why: str = "") -> None:
        """Refuses a value not in `allowed`; a missing or empty one passes."""
        self.asked.add(name)
        value = self.values.get(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in allowed):
            choices = " or ".join(map(str, allowed))
            self._refuse((*self.path, name), f"{shown(value)} is not supported{why}: give {choices}")

    def refuse(self, name: str | None, why: str) -> None:
        """Refuses a key, or the whole section."""
        if name is not None:
            self.asked.add(name)
        self._refuse(self.path if name is None else (*self.path, name), why)

    def finish(self, known: tuple[str, ...] = ()) -> None:
        """Refuses every unused key, and suggests the nearest known one, or keys with this name in other sections."""
        for name in self.values:
            if name not in self.asked:
                near = difflib.get_close_matches(name, sorted(self.asked | set(known)), n=1)
                path = (*self.path, name)
                there = [at for at in self.reading.document.lines if at[-1] == name and at != path]
                meant = near or [".".join(map(str, at)) for at in there[:3]]
                self._refuse(path, "unknown key" + (f": did you mean {' or '.join(meant)}?" if meant else ""))

    def _refuse(self, path: Path, why: str) -> None:
        self.reading.refusals.append(cut(f"{self.reading.document.place(path)}: {why}", LONGEST))


def shown(value: Any) -> str:
    """A value in a message."""
    return cut(ascii(value), 80)


def processes() -> int:
    """The number of processes: batch sizes are global here and per process in PaddleClas."""
    return int(os.environ.get("WORLD_SIZE", "1"))


# ------------------------------------------------------------------------------------------------------ kinds of values


def text(value: Any) -> str:
    """A text, such as a name or a path."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError("a text")
    if "\n" in str(value):
        raise ValueError("a text of one line")
    return str(value)


def layer_name(value: Any) -> str:
    """A layer's path, such as blocks[3]."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w.\[\]]+", value):
        raise ValueError("the name of a layer")
    return value


def boolean(value: Any) -> bool:
    """True or False, also as a word, as in an override."""
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(word, bool) or word in (0, 1):
        return bool(word)
    if isinstance(word, str) and word in TRUE_WORDS | FALSE_WORDS:
        return word in TRUE_WORDS
    raise ValueError("True or False")


def number(value: Any) -> float:
    """A finite number, also as a formula: 1.0/255.0."""
    found = arithmetic(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= sys.float_info.max:
        raise ValueError("a number")
    return float(found)


def fraction(value: Any) -> float:
    """A number from 0 to 1."""
    if not 0 <= number(value) <= 1:
        raise ValueError("a number from 0 to 1")
    return number(value)


def integer(value: Any) -> int:
    """A whole number, not negative."""
    found = number(value)
    if found != int(found) or found < 0:
        raise ValueError("a whole number, 0 or more")
    return int(found)


def positive(value: Any) -> int:
    """A whole number above 0."""
    if not integer(value):
        raise ValueError("a whole number above 0")
    return integer(value)


def list_of(kind: Callable[[Any], T], length: int | None = None) -> Callable[[Any], list[T]]:
    """A converter for lists, of `length` values if given; accepts the text of a list, as in an override."""

    def parse(value: Any) -> list[T]:
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            raise ValueError("a list" if length is None else f"a list of {length}")
        return [kind(part) for part in value]

    return parse


def numbers(count: int) -> Callable[[Any], list[float]]:
    """A converter for lists of `count` numbers."""
    return list_of(number, count)


def width_and_height(value: Any) -> tuple[int, int]:
    """A size, or width and height."""
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError("a size, or width and height")
        return positive(value[0]), positive(value[1])
    return positive(value), positive(value)


def written_size(size: tuple[int, int]) -> str:
    """Width and height as HEIGHTxWIDTH, or one number."""
    return str(size[0]) if size[0] == size[1] else f"{size[1]}x{size[0]}"


def delimiter(value: Any) -> str:
    """A delimiter between the parts of a line."""
    try:
        return kinds.delimiter(value if isinstance(value, str) else "")
    except argparse.ArgumentTypeError:
        raise ValueError("a few characters, such as ','") from None


def choice(*allowed: str) -> Callable[[Any], str]:
    """A converter for texts: one of a few, in any case."""

    def parse(value: Any) -> str:
        word = text(value).lower()
        if word not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return word

    return parse
