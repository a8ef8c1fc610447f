"""Reads values in a ProgramDesc: texts, numbers, and attributes of operations; see `utils.formats.program_desc`."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any

from utils.errors import FormatError
from utils.formats.paddle_program import DATA_TYPES, checked_name
from utils.formats.protobuf import read_fields, read_varints

# The largest program in the zoos has 350,000 fields. Reading this many takes about a second.
_MAX_FIELDS = 600_000
_MAX_TEXT = 1 << 20

# Attributes without influence on results.
_IGNORED_ATTRIBUTES = ("op_callstack", "op_role", "op_role_var", "op_namescope", "op_device")
# How these messages begin: with the name, and then the type.
_IGNORED_HEADS = tuple(b"\x0a%c%s\x10" % (len(name), name.encode()) for name in _IGNORED_ATTRIBUTES)
# Attributes that hold a number of DATA_TYPES, or -1 for none.
_DATA_TYPE_ATTRIBUTES = frozenset({"dtype", "in_dtype", "out_dtype"})

Raw = int | bytes


class MessageReader:
    """Reads the fields of messages and counts them, as a small file can have very many.

    All functions of this module raise `FormatError` for a field of the wrong kind.

    Attributes:
        left: number of fields that may still be read.
    """

    def __init__(self) -> None:
        self.left = _MAX_FIELDS

    def fields(self, message: Raw) -> list[tuple[int, Raw]]:
        """The fields of a message: number and value."""
        if isinstance(message, int):
            raise FormatError("a part of the program is a number")
        fields = list(itertools.islice(read_fields(message), self.left + 1))
        self.spend(len(fields))
        return fields

    def integers(self, raws: list[Raw]) -> list[int]:
        """The numbers of a repeated field, packed or not."""
        numbers: list[int] = []
        for raw in raws:
            if isinstance(raw, int):
                numbers.append(raw)
            else:
                self.spend(len(raw))
                numbers += read_varints(raw)
        return numbers

    def spend(self, count: int) -> None:
        """Counts fields, or numbers of a packed list."""
        self.left -= count
        if self.left < 0:
            raise FormatError(f"the program has more than {_MAX_FIELDS} fields")

    def number(self, message: Raw) -> int:
        """Field 1 of a message that wraps only this field."""
        value = 0
        for number, raw in self.fields(message):
            if number == 1:
                value = as_int64(raw)
        return value


# ----------------------------------------------------------------------------------------------------- single values


def as_text(raw: Raw) -> str:
    """A text, up to a generous limit."""
    if isinstance(raw, int):
        raise FormatError("a text in the program is a number")
    if len(raw) > _MAX_TEXT:
        raise FormatError(f"a text in the program has more than {_MAX_TEXT >> 20} MB")
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"the text {raw[:40]!r} in the program is not UTF-8") from None


def as_name(raw: Raw) -> str:
    """A name that is short enough to be shown."""
    return checked_name(as_text(raw))


def _signed(raw: Raw, bits: int) -> int:
    if not isinstance(raw, int):
        raise FormatError("a number in the program is a text")
    raw &= (1 << bits) - 1
    return raw - (1 << bits) if raw >> (bits - 1) else raw


def as_int32(raw: Raw) -> int:
    """A 32-bit integer: the lower bits, as protocol buffers define it."""
    return _signed(raw, 32)


def as_int64(raw: Raw) -> int:
    """A 64-bit integer."""
    return _signed(raw, 64)


def as_bool(raw: Raw) -> bool:
    """True for any number but 0."""
    return as_int64(raw) != 0


def _real(code: str) -> Callable[[Raw], list[float]]:
    """Returns a reader of numbers in struct's format `code`: one number, or a packed list."""
    size = struct.calcsize(code)

    def read(raw: Raw) -> list[float]:
        if isinstance(raw, int) or len(raw) % size:
            raise FormatError("a number in the program is cut short")
        return list(struct.unpack(f"<{len(raw) // size}{code}", raw))

    return read


_floats, _doubles = _real("f"), _real("d")


def _only(values: list[float]) -> float:
    if len(values) != 1:
        raise FormatError(f"a number in the program has {len(values)} values")
    return values[0]


# -------------------------------------------------------------------------------------------------------- attributes

# Functions that read an attribute's value from the fields that hold it.
Reader = Callable[[MessageReader, list[Raw]], Any]


def _single(decode: Callable[[Raw], Any]) -> Reader:
    def read(_: MessageReader, raws: list[Raw]) -> Any:
        if not raws:
            raise FormatError("has no value")
        return decode(raws[-1])

    return read


def _integers(decode: Callable[[Raw], Any]) -> Reader:
    return lambda reader, raws: [decode(raw) for raw in reader.integers(raws)]


def _reals(decode: Callable[[Raw], list[float]]) -> Reader:
    def read(reader: MessageReader, raws: list[Raw]) -> list[float]:
        reader.spend(sum(len(raw) for raw in raws if isinstance(raw, bytes)) // 4)
        return [value for raw in raws for value in decode(raw)]

    return read


# Kind of a Scalar [1] -> the field of its value, the value's reader, and the default.
_SCALARS: dict[int, tuple[int, Callable[[Raw], Any], Raw]] = {
    1: (2, as_bool, 0),
    2: (3, as_int64, 0),
    3: (4, lambda raw: _only(_doubles(raw)), bytes(8)),
}


def _read_scalar(reader: MessageReader, raw: Raw) -> bool | int | float:
    values = dict(reader.fields(raw))
    kind = as_int32(values.get(1, 0))
    if kind not in _SCALARS:
        raise FormatError(f"is a scalar of kind {kind}, which is not supported")
    field, decode, zero = _SCALARS[kind]
    return decode(values.get(field, zero))


# AttrType -> the field of the value, and its reader.
_ATTRIBUTES: dict[int, tuple[int, Reader]] = {
    0: (3, _single(as_int32)),
    1: (4, _single(lambda raw: _only(_floats(raw)))),
    2: (5, _single(as_text)),
    3: (6, _integers(as_int32)),
    4: (7, _reals(_floats)),
    5: (8, lambda _, raws: [as_text(raw) for raw in raws]),
    6: (10, _single(as_bool)),
    7: (11, _integers(as_bool)),
    9: (13, _single(as_int64)),
    11: (15, _integers(as_int64)),
    12: (16, _reals(_doubles)),
    15: (19, _single(lambda raw: _only(_doubles(raw)))),
    16: (20, lambda reader, raws: _read_scalar(reader, raws[-1] if raws else b"")),
    17: (21, lambda reader, raws: [_read_scalar(reader, raw) for raw in raws]),
}
_BLOCKS = (8, 10)
_VARIABLES = (13, 14)


class HasBlock(Exception):
    """An attribute is a block, so its operation is control flow."""


def _data_type(number: int) -> str | None:
    if number != -1 and number not in DATA_TYPES:
        raise FormatError(f"is the unknown data type {number}")
    return DATA_TYPES.get(number)


def read_attribute(reader: MessageReader, message: Raw) -> tuple[str, Any] | None:
    """An attribute's name and value; None for an attribute that does not matter."""
    if isinstance(message, bytes) and message.startswith(_IGNORED_HEADS):
        return None
    name, kind = "", None
    fields: dict[int, list[Raw]] = {}
    for number, raw in reader.fields(message):
        if number == 1:
            name = as_name(raw)
        elif number == 2:
            kind = as_int32(raw)
        else:
            fields.setdefault(number, []).append(raw)
    if name in _IGNORED_ATTRIBUTES:
        return None
    if kind in _BLOCKS:
        raise HasBlock
    try:
        if kind in _VARIABLES:
            raise FormatError("is given by a variable, which is not supported")
        if kind not in _ATTRIBUTES:
            raise FormatError(f"is of the unknown type {kind}")
        field, read = _ATTRIBUTES[kind]
        value = read(reader, fields.get(field, []))
        return name, _data_type(value) if name in _DATA_TYPE_ATTRIBUTES and kind == 0 else value
    except FormatError as error:
        raise FormatError(f"attribute {name!r}: {error}") from None
