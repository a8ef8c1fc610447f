"""ProgramDesc, the programs of PaddlePaddle up to 2.6 (`model`, `__model__`, .pdmodel), read without PaddlePaddle.

It is a protocol-buffer message. What matters of it (field numbers in brackets; all versions since fluid 1.0 agree):

    ProgramDesc  [1] blocks        [4] version, of which [1] is the number      [5] op_version_map
    BlockDesc    [3] variables     [4] operations
    VarDesc      [1] name          [2] type        [3] persistable
    VarType      [1] kind          [3] LoD tensor, of which [1] is a TensorDesc: [1] data type, [2] dimensions
    OpDesc       [1] inputs        [2] outputs     [3] kind      [4] attributes
    OpDesc.Var   [1] slot          [2] names of variables
    OpDesc.Attr  [1] name          [2] type        [3] ... the value, in the field of its type
    OpVersionMap [1] pairs:        [1] operation   [2] version, of which [1] is the number

Most of such a file is the source lines of the exporting machine, in the attribute op_callstack of every operation. They
are stepped over.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any

from utils.errors import FormatError
from utils.formats.paddle_program import (
    DATA_TYPES,
    MAX_DIMENSIONS,
    MAX_OPERATIONS,
    MAX_VARIABLES,
    Operation,
    Program,
    Variable,
    check_program,
    checked_name,
)
from utils.formats.protobuf import read_fields, read_varints

# The largest program of the zoos has 350,000. This many are read in about a second.
_MAX_FIELDS = 600_000

# Of that, nearly all would be source lines.
_MAX_SIZE = 128 << 20
_MAX_TEXT = 1 << 20

_LOD_TENSOR = 7
# Variables that are persistable without having a value in a file: FEED_MINIBATCH, FETCH_LIST, READER, RAW.
_WITHOUT_VALUE = (9, 10, 15, 17)

# Nothing that a result depends on.
_IGNORED_ATTRIBUTES = ("op_callstack", "op_role", "op_role_var", "op_namescope", "op_device")
# How their messages begin: with the name, and then the type.
_IGNORED_HEADS = tuple(b"\x0a%c%s\x10" % (len(name), name.encode()) for name in _IGNORED_ATTRIBUTES)
# Attributes that hold a number of DATA_TYPES, or -1 for none.
_DATA_TYPE_ATTRIBUTES = frozenset({"dtype", "in_dtype", "out_dtype"})

# A variable that is not there, where a slot needs a name.
_EMPTY = "@EMPTY@"

Raw = int | bytes


class _Message:
    """Reads the fields of messages, and counts them: a small file can have very many."""

    def __init__(self) -> None:
        self.left = _MAX_FIELDS

    def fields(self, message: Raw) -> list[tuple[int, Raw]]:
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
        self.left -= count
        if self.left < 0:
            raise FormatError(f"the program has more than {_MAX_FIELDS} fields")

    def number(self, message: Raw) -> int:
        """Field 1 of a message that is there for it alone."""
        value = 0
        for number, raw in self.fields(message):
            if number == 1:
                value = _int64(raw)
        return value


# ----------------------------------------------------------------------------------------------------- single values


def _text(raw: Raw) -> str:
    if isinstance(raw, int):
        raise FormatError("a text in the program is a number")
    if len(raw) > _MAX_TEXT:
        raise FormatError(f"a text in the program has more than {_MAX_TEXT >> 20} MB")
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"the text {raw[:40]!r} in the program is no UTF-8") from None


def _name(raw: Raw) -> str:
    return checked_name(_text(raw))


def _signed(raw: Raw, bits: int) -> int:
    if not isinstance(raw, int):
        raise FormatError("a number in the program is a text")
    raw &= (1 << bits) - 1
    return raw - (1 << bits) if raw >> (bits - 1) else raw


def _int32(raw: Raw) -> int:
    return _signed(raw, 32)


def _int64(raw: Raw) -> int:
    return _signed(raw, 64)


def _bool(raw: Raw) -> bool:
    return _int64(raw) != 0


def _real(code: str) -> Callable[[Raw], list[float]]:
    """What reads numbers of the format `code` of struct: one, or a packed list."""
    size = struct.calcsize(code)

    def read(raw: Raw) -> list[float]:
        if isinstance(raw, int) or len(raw) % size:
            raise FormatError("a number in the program is cut short")
        return list(struct.unpack(f"<{len(raw) // size}{code}", raw))

    return read


_floats, _doubles = _real("f"), _real("d")


# -------------------------------------------------------------------------------------------------------- attributes

# AttrType -> the field of the value, and what reads it.
_SINGLE = {
    0: (3, _int32),
    1: (4, lambda raw: _only(_floats(raw))),
    2: (5, _text),
    6: (10, _bool),
    9: (13, _int64),
    15: (19, lambda raw: _only(_doubles(raw))),
}
_INTEGERS = {3: (6, _int32), 7: (11, _bool), 11: (15, _int64)}
_REALS = {4: (7, _floats), 12: (16, _doubles)}
_STRINGS = (5, 8)
_SCALAR, _SCALARS = (16, 20), (17, 21)
_BLOCK, _BLOCKS = 8, 10
_VARIABLE, _VARIABLES = 13, 14


def _only(values: list[float]) -> float:
    if len(values) != 1:
        raise FormatError(f"a number in the program has {len(values)} values")
    return values[0]


def _scalar(reader: _Message, message: Raw) -> bool | int | float:
    """A Scalar: [1] which of [2] a bool, [3] a whole number, [4] a float64 it is."""
    kind, values = 0, {}
    for number, raw in reader.fields(message):
        if number == 1:
            kind = raw
        else:
            values[number] = raw
    decode = {1: (2, _bool), 2: (3, _int64), 3: (4, lambda raw: _only(_doubles(raw)))}.get(kind)  # type: ignore[arg-type]
    if decode is None:
        raise FormatError(f"a value of it is a scalar of kind {kind!r}, which is not supported")
    field, function = decode
    return function(values[field]) if field in values else function(0 if kind < 3 else bytes(8))


class _BlockOf(Exception):
    """An attribute is a block: the operation is control flow."""


def _value(reader: _Message, name: str, kind: Raw | None, fields: dict[int, list[Raw]]) -> Any:
    """The value of an attribute of type `kind`, whose fields are at hand."""
    if kind in _SINGLE:
        field, decode = _SINGLE[kind]
        if field not in fields:
            raise FormatError(f"attribute {name!r} has no value")
        return decode(fields[field][-1])
    if kind in _INTEGERS:
        field, decode = _INTEGERS[kind]
        return [decode(raw) for raw in reader.integers(fields.get(field, []))]
    if kind in _REALS:
        field, decode_list = _REALS[kind]
        raws = fields.get(field, [])
        reader.spend(sum(len(raw) for raw in raws if isinstance(raw, bytes)) // 4)
        return [value for raw in raws for value in decode_list(raw)]
    if kind == _STRINGS[0]:
        return [_text(raw) for raw in fields.get(_STRINGS[1], [])]
    if kind == _SCALAR[0]:
        return _scalar(reader, fields.get(_SCALAR[1], [b""])[-1])
    if kind == _SCALARS[0]:
        return [_scalar(reader, raw) for raw in fields.get(_SCALARS[1], [])]
    if kind in (_BLOCK, _BLOCKS):
        raise _BlockOf
    if kind in (_VARIABLE, _VARIABLES):
        raise FormatError(f"attribute {name!r} is given by a variable, which is not supported")
    raise FormatError(f"attribute {name!r} is of the unknown type {kind!r}")


def _read_attribute(reader: _Message, message: Raw) -> tuple[str, Any] | None:
    """An attribute's name and value; None for one that does not matter."""
    if isinstance(message, bytes) and message.startswith(_IGNORED_HEADS):
        return None
    name, kind = "", None
    fields: dict[int, list[Raw]] = {}
    for number, raw in reader.fields(message):
        if number == 1:
            name = _name(raw)
        elif number == 2:
            kind = raw
        else:
            fields.setdefault(number, []).append(raw)
    value = _value(reader, name, kind, fields)
    if name in _DATA_TYPE_ATTRIBUTES and kind == 0 and value != -1:
        if value not in DATA_TYPES:
            raise FormatError(f"attribute {name!r} is the unknown data type {value}")
        value = DATA_TYPES[value]
    elif name in _DATA_TYPE_ATTRIBUTES and kind == 0:
        value = None
    return name, value


# ------------------------------------------------------------------------------------------ operations and variables


def _read_slot(reader: _Message, message: Raw) -> tuple[str, tuple[str, ...]]:
    slot, names = "", []
    for number, raw in reader.fields(message):
        if number == 1:
            slot = _name(raw)
        elif number == 2:
            names.append(_name(raw))
    return slot, tuple("" if name == _EMPTY else name for name in names)


def _read_operation(reader: _Message, message: Raw) -> tuple[Operation, bool]:
    """An operation, and whether it is control flow."""
    kind, blocks = "", False
    slots: tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]] = ({}, {})
    attributes: dict[str, Any] = {}
    messages: list[Raw] = []
    for number, raw in reader.fields(message):
        if number == 3:
            kind = _name(raw)
        elif number in (1, 2):
            slot, names = _read_slot(reader, raw)
            if slot in slots[number - 1]:
                raise FormatError(f"an operation has two slots {slot!r}")
            if any(names):
                slots[number - 1][slot] = names
        elif number == 4:
            messages.append(raw)
    try:
        for raw in messages:
            if (attribute := _read_attribute(reader, raw)) is not None:
                attributes[attribute[0]] = attribute[1]
    except _BlockOf:
        blocks = True
    except FormatError as error:
        raise FormatError(f"operation {kind!r}: {error}") from None
    if not kind:
        raise FormatError("an operation of the program has no kind")
    return Operation(kind, *slots, attributes), blocks


def _read_tensor_type(reader: _Message, message: Raw) -> tuple[str | None, tuple[int, ...]]:
    """Data type and shape of a LoDTensorDesc."""
    dtype, dimensions = None, []
    for number, raw in reader.fields(message):
        if number != 1:
            continue
        for field, value in reader.fields(raw):
            if field == 1 and isinstance(value, int):
                dtype = DATA_TYPES.get(value)
            elif field == 2:
                dimensions.append(value)
        if len(dimensions) > MAX_DIMENSIONS:
            raise FormatError(f"a variable of the program has more than {MAX_DIMENSIONS} dimensions")
    # fluid has calculated with the -1 of the batch: -16 is as unknown.
    shape = tuple(max(_int64(dimension), -1) for dimension in reader.integers(dimensions))
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"a variable of the program has more than {MAX_DIMENSIONS} dimensions")
    return dtype, shape


def _read_variable(reader: _Message, message: Raw) -> Variable:
    name, persistable, kind = "", False, -1
    dtype, shape = None, None
    for number, raw in reader.fields(message):
        if number == 1:
            name = _name(raw)
        elif number == 2:
            for field, value in reader.fields(raw):
                if field == 1:
                    kind = _int64(value)
                elif field == 3:
                    dtype, shape = _read_tensor_type(reader, value)
        elif number == 3:
            persistable = _bool(raw)
    if kind != _LOD_TENSOR:
        dtype, shape = None, None
    if persistable and kind in _WITHOUT_VALUE:
        persistable = False
    elif persistable and (dtype is None or shape is None):
        raise FormatError(f"parameter {name!r} is no tensor (kind {kind})")
    return Variable(name, shape, dtype, persistable)


def _read_block(reader: _Message, message: Raw) -> tuple[list[Operation], dict[str, Variable], list[str]]:
    """Operations, variables, and the kinds of operations that are control flow."""
    operations: list[Operation] = []
    variables: dict[str, Variable] = {}
    control_flow: list[str] = []
    for number, raw in reader.fields(message):
        if number == 3:
            variable = _read_variable(reader, raw)
            if variable.name in variables:
                raise FormatError(f"the program has two variables {variable.name!r}")
            variables[variable.name] = variable
        elif number == 4:
            operation, has_block = _read_operation(reader, raw)
            operations.append(operation)
            if has_block:
                control_flow.append(operation.kind)
        if len(operations) > MAX_OPERATIONS or len(variables) > MAX_VARIABLES:
            raise FormatError(f"the program has more than {MAX_OPERATIONS} operations or {MAX_VARIABLES} variables")
    return operations, variables, control_flow


def _ends(operations: list[Operation], kind: str) -> tuple[str, ...]:
    """The variables of the operations `feed` or `fetch`, in the order of their columns."""
    columns: dict[int, str] = {}
    for operation in operations:
        if operation.kind != kind:
            continue
        slots = operation.outputs if kind == "feed" else operation.inputs
        names = slots.get("Out" if kind == "feed" else "X", ())
        column = operation.attributes.get("col", 0)
        if len(names) != 1 or not isinstance(column, int) or column in columns:
            raise FormatError(f"operation {kind!r} is damaged (column {column}, variables {list(names)[:3]})")
        columns[column] = names[0]
    return tuple(columns[column] for column in sorted(columns))


def _read_operation_versions(reader: _Message, message: Raw) -> dict[str, int]:
    versions = {}
    for number, pair in reader.fields(message):
        if number == 1:
            name, version = "", 0
            for field, raw in reader.fields(pair):
                if field == 1:
                    name = _name(raw)
                elif field == 2:
                    version = reader.number(raw)
            versions[name] = version
    return versions


def read_program_desc(buffer: bytes | memoryview) -> Program:
    """Reads a ProgramDesc.

    Raises:
        FormatError: it is none, is damaged, was not exported for inference, has control flow, or is so large that
            reading it would take seconds.
    """
    if len(buffer) > _MAX_SIZE:
        raise FormatError(f"the program has more than {_MAX_SIZE >> 20} MB")
    reader = _Message()
    blocks: list[Raw] = []
    version, versions = 0, {}
    for number, raw in reader.fields(bytes(buffer)):
        if number == 1:
            blocks.append(raw)
        elif number == 4:
            version = reader.number(raw)
        elif number == 5:
            versions = _read_operation_versions(reader, raw)
    if not blocks:
        raise FormatError("holds no program of PaddlePaddle")
    # Blocks behind the first are bodies of control flow. Where no operation has one, they do not matter.
    operations, variables, control_flow = _read_block(reader, blocks[0])
    if control_flow:
        kinds = ", ".join(sorted(set(control_flow)))
        raise FormatError(f"the program has control flow, which is not supported: {kinds}")
    feeds, fetches = _ends(operations, "feed"), _ends(operations, "fetch")
    program = Program(
        dialect="desc",
        version=version,
        operations=tuple(operation for operation in operations if operation.kind not in ("feed", "fetch")),
        variables=variables,
        parameters=tuple(sorted(name for name, variable in variables.items() if variable.persistable)),
        feeds=feeds,
        fetches=fetches,
        feed_labels=feeds,
        fetch_labels=fetches,
        operation_versions=versions,
    )
    check_program(program)
    return program
