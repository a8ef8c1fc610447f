"""Reads ProgramDesc, the programs of PaddlePaddle up to 2.6 (`model`, `__model__`, .pdmodel), without PaddlePaddle.

It is a protocol-buffer message. The parts that matter (field numbers in brackets; the same in all versions since fluid
1.0):

    ProgramDesc  [1] blocks        [4] version, of which [1] is the number      [5] op_version_map
    BlockDesc    [3] variables     [4] operations
    VarDesc      [1] name          [2] type        [3] persistable
    VarType      [1] kind          [3] LoD tensor, of which [1] is a TensorDesc: [1] data type, [2] dimensions
    OpDesc       [1] inputs        [2] outputs     [3] kind      [4] attributes
    OpDesc.Var   [1] slot          [2] names of variables
    OpDesc.Attr  [1] name          [2] type        [3] ... the value, in the field of its type
    OpVersionMap [1] pairs:        [1] operation   [2] version, of which [1] is the number

Versions 1.6 to 1.8 have an op_compatible_map [3] instead, which only tells older readers what they cannot run.

Source lines of the exporting program, in the attribute op_callstack of every operation, fill most of the file. They are
skipped.
"""

from __future__ import annotations

from typing import Any

from utils.errors import FormatError
from utils.formats.desc_values import HasBlock, MessageReader, Raw, as_bool, as_int64, as_name, read_attribute
from utils.formats.paddle_program import (
    DATA_TYPES,
    MAX_DIMENSIONS,
    MAX_OPERATIONS,
    MAX_VARIABLES,
    Operation,
    Program,
    Variable,
    check_program,
)

# Nearly all of a file is source lines.
_MAX_SIZE = 128 << 20

_LOD_TENSOR = 7
# Kinds of persistable variables that have no value in a file: FEED_MINIBATCH, FETCH_LIST, READER, RAW.
_WITHOUT_VALUE = (9, 10, 15, 17)

# Name of a missing variable in a slot that needs one.
_EMPTY = "@EMPTY@"


def _read_slot(reader: MessageReader, message: Raw) -> tuple[str, tuple[str, ...]]:
    slot, names = "", []
    for number, raw in reader.fields(message):
        if number == 1:
            slot = as_name(raw)
        elif number == 2:
            names.append(as_name(raw))
    return slot, tuple("" if name == _EMPTY else name for name in names)


def _read_operation(reader: MessageReader, message: Raw) -> tuple[Operation, bool]:
    """An operation, and whether it is control flow."""
    kind, blocks = "", False
    slots: tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]] = ({}, {})
    attributes: dict[str, Any] = {}
    messages: list[Raw] = []
    for number, raw in reader.fields(message):
        if number == 3:
            kind = as_name(raw)
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
            if (attribute := read_attribute(reader, raw)) is not None:
                attributes[attribute[0]] = attribute[1]
    except HasBlock:
        blocks = True
    except FormatError as error:
        raise FormatError(f"operation {kind!r}: {error}") from None
    if not kind:
        raise FormatError("an operation of the program has no kind")
    return Operation(kind, *slots, attributes), blocks


def _read_tensor_type(reader: MessageReader, message: Raw) -> tuple[str | None, tuple[int, ...]]:
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
    # fluid computes with the batch's -1, so that -16 is an unknown size as well.
    shape = tuple(max(as_int64(dimension), -1) for dimension in reader.integers(dimensions))
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"a variable of the program has more than {MAX_DIMENSIONS} dimensions")
    return dtype, shape


def _read_variable(reader: MessageReader, message: Raw) -> Variable:
    name, persistable, kind = "", False, -1
    dtype, shape, described = None, None, False
    for number, raw in reader.fields(message):
        if number == 1:
            name = as_name(raw)
        elif number == 2:
            for field, value in reader.fields(raw):
                if field == 1:
                    kind = as_int64(value)
                elif field == 3:
                    described = True
                    dtype, shape = _read_tensor_type(reader, value)
        elif number == 3:
            persistable = as_bool(raw)
    if kind != _LOD_TENSOR:
        dtype, shape = None, None
    if persistable and kind in _WITHOUT_VALUE:
        persistable = False
    elif persistable and (dtype is None or shape is None) and (kind != _LOD_TENSOR or described):
        raise FormatError(f"parameter {name!r} is not a tensor (kind {kind})")
    return Variable(name, shape, dtype, persistable)


def _read_block(reader: MessageReader, message: Raw) -> tuple[list[Operation], dict[str, Variable], list[str]]:
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


def _read_operation_versions(reader: MessageReader, message: Raw) -> dict[str, int]:
    versions = {}
    for number, pair in reader.fields(message):
        if number == 1:
            name, version = "", 0
            for field, raw in reader.fields(pair):
                if field == 1:
                    name = as_name(raw)
                elif field == 2:
                    version = reader.number(raw)
            versions[name] = version
    return versions


def read_program_desc(buffer: bytes | memoryview) -> Program:
    """Reads a ProgramDesc.

    Raises:
        FormatError: it is not a ProgramDesc, is damaged, was not exported for inference, has control flow, or is so
            large that reading it would take seconds.
    """
    if len(buffer) > _MAX_SIZE:
        raise FormatError(f"the program has more than {_MAX_SIZE >> 20} MB")
    reader = MessageReader()
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
        raise FormatError("holds no PaddlePaddle program")
    # Blocks after the first are bodies of control flow. Without such operations they do not matter.
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
