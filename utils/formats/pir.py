"""Reads PIR, the programs of PaddlePaddle 3 (inference.json), without PaddlePaddle.

A JSON file:

    {"base_code": {"magic": "pir", "version": 4, ...}, "program": {"regions": [{"blocks": [{"args", "ops"}]}]}}

- A parameter:     {"#": "p", "A": [.., .., .., name], "O": {"%": id, "TT": type}}
- An operation:    {"#": "1.conv2d", "A": attributes, "I": [{"%": id}, ...], "O": [{"%": id, "TT": type}, ...]}. The
                   number is its dialect, or "onednn_op" in a program that an engine has optimized and saved. Id 0
                   stands for a missing operand.
- An attribute:    {"N": name, "AT": {"#": kind, "D": value}}; an infinite number is "VD" instead of "D"
- A type:          {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, [-1, 3, 224, 224], "NCHW", [], 0]}

Versions differ in the types of a few attributes (a float32 became a float64); all are accepted.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeVar

from utils.errors import FormatError
from utils.formats.paddle_program import (
    DATA_TYPES,
    MAX_DIMENSIONS,
    MAX_OPERATIONS,
    Operation,
    Program,
    Variable,
    check_program,
    checked_name,
)

# The largest program in the zoos has 5 MB, 300,000 lists and objects, and 330,000 commas. Parsing can take 200 times
# the file's size in memory; these bounds keep it to 300 MB and a second.
_MAX_SIZE = 24 << 20
_MAX_CONTAINERS = 1_000_000
_MAX_COMMAS = 2_000_000
_MAX_NESTING = 8

_DIALECTS = {"0": "builtin", "1": "pd_op", "2": "cf", "3": "custom_op", "4": "dist", "onednn_op": "onednn_op"}
_TYPES = {
    "t_bool": "bool",
    "t_i8": "int8",
    "t_ui8": "uint8",
    "t_i16": "int16",
    "t_i32": "int32",
    "t_i64": "int64",
    "t_f16": "float16",
    "t_bf16": "bfloat16",
    "t_f32": "float32",
    "t_f64": "float64",
    "t_c64": "complex64",
    "t_c128": "complex128",
}
_DTYPES = frozenset(DATA_TYPES.values())
_INFINITE = {"NAN": math.nan, "INF": math.inf, "-INF": -math.inf}

# Source positions of operations, and attributes that only training or several machines need.
_IGNORED_ATTRIBUTES = frozenset({"struct_name", "op_callstack", "op_dist_attr", "op_role", "place", "stop_gradient"})

T = TypeVar("T")


def _get(entry: Any, key: str, kind: type[T]) -> T:
    """The value of `key` in a JSON object, which must be of type `kind`."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FormatError(f"the program is damaged: {key!r} should be of type {kind.__name__}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A JSON value, shortened for a message."""
    return ascii(value)[:40] if isinstance(value, str | int | float | None) else type(value).__name__


def _int64(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise FormatError(f"the program is damaged: {_shown(value)} is not a 64-bit integer")
    return value


def _int64s(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise FormatError(f"the program is damaged: {_shown(value)} is not a list of numbers")
    return [_int64(element) for element in value]


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError(f"the program is damaged: {_shown(value)} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError(f"the text {_shown(value)} in it is not valid UTF-8") from None
    return value


# -------------------------------------------------------------------------------------------------- attributes, types


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"the program is damaged: {_shown(value)} is not a number")
    return float(_int64(value)) if isinstance(value, int) else value


def _dtype(value: Any) -> str | None:
    name = _string(value).lower()
    if name.startswith("undefined"):  # "Undefined(ALL_DTYPE)": the input's type
        return None
    if name not in _DTYPES:
        raise FormatError(f"the data type {_shown(value)} is not supported")
    return name


def _bool(value: Any) -> bool:
    if not isinstance(value, int) or value not in (0, 1):
        raise FormatError(f"the program is damaged: {_shown(value)} is neither true nor false")
    return bool(value)


def _scalar(value: Any) -> bool | int | float:
    """A number with its data type: ["float32", 0.5]."""
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError(f"the program is damaged: {_shown(value)} is not a scalar")
    dtype = _dtype(value[0])
    if dtype == "bool":
        return _bool(value[1])
    if dtype in ("float32", "float64"):
        return _float(value[1])
    if dtype in ("int8", "uint8", "int16", "int32", "int64"):
        return _int64(value[1])
    raise FormatError(f"a scalar of data type {dtype} is not supported")


_READERS = {
    "0.a_bool": _bool,
    "0.a_i32": _int64,
    "0.a_i64": _int64,
    "0.a_index": _int64,
    "0.a_f32": _float,
    "0.a_f64": _float,
    "0.a_str": _string,
    "0.a_tensorname": _string,
    "1.a_intarray": _int64s,
    "1.a_dtype": _dtype,
    "1.a_scalar": _scalar,
}


def _read_attribute(attribute: Any, depth: int = 0) -> Any:
    """The value of {"#": kind, "D": value}."""
    kind = _get(attribute, "#", str)
    if kind == "NULL":
        return None
    if kind in ("0.a_f32", "0.a_f64") and "VD" in attribute:
        if (word := _get(attribute, "VD", str)) not in _INFINITE:
            raise FormatError(f"the program is damaged: {_shown(word)} is not a number")
        return _INFINITE[word]
    if kind == "0.a_array":
        if depth == _MAX_NESTING:
            raise FormatError(f"lists in it are nested more than {_MAX_NESTING} deep")
        return [_read_attribute(element, depth + 1) for element in _get(attribute, "D", list)]
    if kind not in _READERS:
        raise FormatError(f"is of the unknown type {_shown(kind)}")
    return _READERS[kind](attribute.get("D"))


def _read_attributes(entries: list[Any]) -> dict[str, Any]:
    attributes = {}
    for entry in entries:
        name = checked_name(_get(entry, "N", str))
        if name in _IGNORED_ATTRIBUTES or "AT" not in entry:
            continue
        try:
            attributes[name] = _read_attribute(entry["AT"])
        except FormatError as error:
            raise FormatError(f"attribute {name!r}: {error}") from None
    return attributes


def _read_type(entry: Any) -> tuple[tuple[int, ...] | None, str | None]:
    """Shape and data type; None for other values than tensors."""
    if _get(entry, "#", str) != "0.t_dtensor":
        return None, None
    content = _get(entry, "D", list)
    if len(content) < 2:
        raise FormatError("the program is damaged: a tensor has no shape")
    shape = tuple(max(size, -1) for size in _int64s(content[1]))
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"a value of the program has more than {MAX_DIMENSIONS} dimensions")
    return shape, _TYPES.get(_get(content[0], "#", str).partition(".")[2])


# --------------------------------------------------------------------------------------------------------- operations


class _Reader:
    """The parts of a program that have been read so far."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {0: ""}  # of values, by id; 0 is a missing operand
        self.variables: dict[str, Variable] = {}
        self.operations: list[Operation] = []
        self.feeds: list[tuple[str, str]] = []  # name of the value, label
        self.fetches: dict[int, tuple[str, str]] = {}  # by column
        self.control_flow: set[str] = set()

    def define(self, result: Any, name: str | None = None) -> str:
        """Adds the value that an operation writes; `name` is given for a parameter."""
        number = _int64(_get(result, "%", int))
        if number <= 0 or number in self.names:
            raise FormatError(f"the program is damaged: value {number} is written twice, or its number is invalid")
        shape, dtype = _read_type(result.get("TT"))
        persistable = name is not None
        if name is None:
            name = f"%{number}"
        elif name.startswith("%") or not name or name in self.variables:
            raise FormatError(f"the program has two parameters {name!r}, or that is not a valid name")
        elif shape is None or dtype is None or -1 in shape:
            raise FormatError(f"parameter {name!r} is not a tensor of a known size")
        self.names[number] = name
        self.variables[name] = Variable(name, shape, dtype, persistable)
        return name

    def operands(self, entry: Any) -> tuple[str, ...]:
        numbers = [_int64(_get(operand, "%", int)) for operand in _get(entry, "I", list)]
        for number in numbers:
            if number not in self.names:
                raise FormatError(f"reads value {number} before anything has written it")
        return tuple(self.names[number] for number in numbers)

    def read(self, entry: Any) -> None:
        """Reads one entry of a block."""
        code = checked_name(_get(entry, "#", str))
        if code == "p":
            settings = _get(entry, "A", list)
            if len(settings) != 4:
                raise FormatError("the program is damaged: a parameter has no name")
            name = checked_name(_string(settings[3]))
            if "OA" in entry and _get(entry, "OA", list)[:1] == [0]:
                # It has no value in the file: it is a recurrent layer's training state, treated as a missing operand.
                del self.variables[self.define(entry.get("O"))]
                self.names[entry["O"]["%"]] = ""
            else:
                self.define(entry.get("O"), name)
            return
        number, _, kind = code.partition(".")
        try:
            self.read_operation(entry, number, kind)
        except FormatError as error:
            raise FormatError(f"operation {kind or code!r}: {error}") from None

    def read_operation(self, entry: Any, dialect: str, kind: str) -> None:
        if dialect not in _DIALECTS or not kind:
            raise FormatError("has an unknown dialect")
        if "regions" in entry or _DIALECTS[dialect] == "cf":
            self.control_flow.add(kind)
            return
        if _DIALECTS[dialect] not in ("builtin", "pd_op", "onednn_op"):
            raise FormatError(f"has the dialect {_DIALECTS[dialect]}, which is not supported")
        attributes = _read_attributes(_get(entry, "A", list))
        results = _get(entry, "O", list)
        if kind in ("data", "feed"):
            label = attributes.get("name")
            if len(results) != 1 or not isinstance(label, str):
                raise FormatError("an input of the program has no name")
            # Buffers that a static program declares are also such inputs, but their values are in the file.
            held = "OA" in entry and _read_attributes(_get(entry, "OA", list)).get("persistable") == [True]
            name = self.define(results[0], checked_name(label) if held else None)
            if not held:
                self.feeds.append((name, checked_name(label)))
            return
        inputs = self.operands(entry)
        outputs = tuple(self.define(result) for result in results)
        if kind == "fetch":
            label, column = attributes.get("name"), attributes.get("col")
            if len(inputs) != 1 or not inputs[0] or not isinstance(label, str) or not isinstance(column, int):
                raise FormatError("an output of the program has no name")
            if column in self.fetches:
                raise FormatError(f"the program has two outputs {column}")
            self.fetches[column] = (inputs[0], checked_name(label))
            return
        self.operations.append(Operation(kind, {"": inputs} if inputs else {}, {"": outputs}, attributes))


def _no_constant(word: str) -> NoReturn:
    raise FormatError(f"the program is damaged: {word} is not a JSON number")


def _parse(buffer: bytes | memoryview) -> Any:
    if len(buffer) > _MAX_SIZE:
        raise FormatError(f"the program has more than {_MAX_SIZE >> 20} MB")
    content = bytes(buffer)
    if content.count(b"{") + content.count(b"[") > _MAX_CONTAINERS or content.count(b",") > _MAX_COMMAS:
        raise FormatError(f"the program has more than {_MAX_CONTAINERS} lists and objects, or {_MAX_COMMAS} commas")
    try:
        return json.loads(content.decode(), parse_constant=_no_constant)
    except FormatError:
        raise
    except UnicodeDecodeError:
        raise FormatError("the program is not UTF-8 text") from None
    except RecursionError:
        raise FormatError("the program is nested too deeply") from None
    except ValueError as error:  # damaged JSON, or a number with thousands of digits
        raise FormatError(f"the program is damaged: {error}") from None


def read_pir(buffer: bytes | memoryview) -> Program:
    """Reads a program in PIR.

    Raises:
        FormatError: it is not PIR, is damaged, was not exported for inference, or has control flow.
    """
    root = _parse(buffer)
    base = _get(root, "base_code", dict)
    if base.get("magic") != "pir":
        raise FormatError(f"holds no PaddlePaddle program (magic {_shown(base.get('magic'))})")
    blocks: list[Any] = []
    for region in _get(_get(root, "program", dict), "regions", list):
        blocks += _get(region, "blocks", list)
    if len(blocks) != 1:
        raise FormatError(f"the program has {len(blocks)} blocks instead of one")
    entries = _get(blocks[0], "ops", list)
    if len(entries) > 2 * MAX_OPERATIONS:
        raise FormatError(f"the program has more than {2 * MAX_OPERATIONS} operations and parameters")
    reader = _Reader()
    for entry in entries:
        reader.read(entry)
        # Later operations may read what control flow writes, so it is reported first.
        if reader.control_flow:
            kinds = ", ".join(sorted(reader.control_flow))
            raise FormatError(f"the program has control flow, which is not supported: {kinds}")
    fetches = [reader.fetches[column] for column in sorted(reader.fetches)]
    program = Program(
        dialect="pir",
        version=_int64(_get(base, "version", int)),
        operations=tuple(reader.operations),
        variables=reader.variables,
        parameters=tuple(sorted(name for name, variable in reader.variables.items() if variable.persistable)),
        feeds=tuple(name for name, _ in reader.feeds),
        fetches=tuple(name for name, _ in fetches),
        feed_labels=tuple(label for _, label in reader.feeds),
        fetch_labels=tuple(label for _, label in fetches),
    )
    check_program(program)
    return program
