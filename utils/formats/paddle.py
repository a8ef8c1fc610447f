"""PaddlePaddle's weight files, read without PaddlePaddle.

- A variable: one tensor, as fluid's `save` operator writes it. All integers are little-endian:

      uint32  version of the stream, 0
      uint64  number of LoD levels; each level is a uint64 byte count and so many bytes
      uint32  version of the tensor, 0
      int32   length of the description
              description, a protobuf message: field 1 is the data type, field 2 (repeated) the dimensions
              the values, row by row

- A combined file: variables one after the other, without names. They are in the order of their sorted names, which the
  program beside the file knows.
- A .pdparams file: a pickle of a dictionary of numpy arrays.

All readers work on a buffer, return views of it where they can, believe no length they have not checked against what
is there, and raise `FormatError` for anything else than such a file.
"""

from __future__ import annotations

import itertools
import math
import mmap
import pickletools
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from utils.errors import FormatError
from utils.formats.protobuf import read_fields, read_varints

Buffer = bytes | mmap.mmap | memoryview


# ------------------------------------------------------------------------------------------------------ variables

# fluid's VarType.Type
DATA_TYPES = {
    0: np.dtype("bool"),
    1: np.dtype("<i2"),
    2: np.dtype("<i4"),
    3: np.dtype("<i8"),
    4: np.dtype("<f2"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    20: np.dtype("u1"),
    21: np.dtype("i1"),
}
_DATA_TYPE_NUMBERS = {dtype: number for number, dtype in DATA_TYPES.items()}

_MAX_DIMENSIONS = 16
_MAX_DESCRIPTION = 1000  # bytes; 16 dimensions take 180
_MAX_LEVELS = 100  # of LoD; a tensor of parameters has none


def _tensor_description(message: memoryview, data_types: Mapping[int, np.dtype]) -> tuple[np.dtype, tuple[int, ...]]:
    """Data type and shape."""
    number = None
    shape: list[int] = []
    for field, value in read_fields(message):
        if field == 1 and isinstance(value, int):
            number = value
        elif field == 2 and isinstance(value, int):
            shape.append(value)
        elif field == 2 and isinstance(value, memoryview):
            shape += itertools.islice(read_varints(value), _MAX_DIMENSIONS + 1)
    if number is None or number not in data_types:
        raise FormatError(f"its data type {number} is not supported")
    if len(shape) > _MAX_DIMENSIONS:
        raise FormatError(f"it has more than {_MAX_DIMENSIONS} dimensions")
    return data_types[number], tuple(shape)


def read_variable(
    buffer: Buffer, offset: int = 0, data_types: Mapping[int, np.dtype] = DATA_TYPES
) -> tuple[np.ndarray, int]:
    """Reads one variable.

    Args:
        buffer: the file.
        offset: where the variable starts.
        data_types: those that are known, by fluid's number.

    Returns:
        The tensor, a view of the buffer (perhaps not aligned), and the offset behind it.

    Raises:
        FormatError: there is no whole variable.
    """
    view = memoryview(buffer)
    try:
        version, levels = struct.unpack_from("<IQ", view, offset)
        if version != 0:
            raise FormatError(f"not a fluid variable (version {version})")
        if levels > _MAX_LEVELS:
            raise FormatError(f"not a tensor of weights ({levels} LoD levels)")
        offset += 12
        for _ in range(levels):
            (size,) = struct.unpack_from("<Q", view, offset)
            offset += 8 + min(size, len(view))
        version, size = struct.unpack_from("<Ii", view, offset)
    except struct.error:
        raise FormatError("the header is cut short") from None
    if version != 0:
        raise FormatError(f"not a fluid variable (tensor version {version})")
    offset += 8
    if not 0 < size <= len(view) - offset:
        raise FormatError(f"the description should be {size} bytes long, {len(view) - offset} are there")
    if size > _MAX_DESCRIPTION:
        raise FormatError(f"the description is {size} bytes long, which no tensor needs")
    dtype, shape = _tensor_description(view[offset : offset + size], data_types)
    offset += size
    count = math.prod(shape)
    if count * dtype.itemsize > len(view) - offset or max(shape, default=0) > len(view):
        raise FormatError(
            f"shape {list(shape)} takes {count * dtype.itemsize} bytes, {len(view) - offset} are there (cut short?)"
        )
    array = np.frombuffer(view, dtype, count, offset).reshape(shape)
    return array, offset + count * dtype.itemsize


def read_variables(buffer: Buffer) -> list[np.ndarray]:
    """Reads all variables of a file: one, or those of a combined file. Views of the buffer, as in `read_variable`."""
    arrays = []
    offset = 0
    while offset < len(buffer):
        array, offset = read_variable(buffer, offset)
        arrays.append(array)
    return arrays


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def variable_header(array: np.ndarray) -> bytes:
    """What stands before the values of `array` in its variable file."""
    description = b"\x08" + _encode_varint(_DATA_TYPE_NUMBERS[array.dtype])
    for dimension in array.shape:
        description += b"\x10" + _encode_varint(dimension)
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description


def write_variable(array: np.ndarray, path: Path) -> None:
    """Writes a tensor as a variable file, byte for byte as fluid does; makes the folder of the file if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(variable_header(array))
        file.write(np.ascontiguousarray(array))


# ------------------------------------------------------------------------------------------------------- programs

_LOD_TENSOR = 7


def program_variables(buffer: Buffer) -> list[str]:
    """The sorted names of the tensors that a program (`__model__`, `model`, .pdmodel) keeps in its combined file.

    A ProgramDesc has blocks (field 1), which have variables (field 3) with a name (1), a type (2, of which field 1 is
    the kind) and whether they are persistable (3).
    """
    names = set()
    for field, block in read_fields(memoryview(buffer)):
        if field != 1 or isinstance(block, int):
            continue
        for block_field, variable in read_fields(block):
            if block_field != 3 or isinstance(variable, int):
                continue
            name, kind, persistable = "", None, 0
            for variable_field, value in read_fields(variable):
                if variable_field == 1 and not isinstance(value, int):
                    name = str(value, "utf-8", "replace")
                elif variable_field == 2 and not isinstance(value, int):
                    kind = next((v for f, v in read_fields(value) if f == 1), None)
                elif variable_field == 3:
                    persistable = value
            if persistable and kind == _LOD_TENSOR:
                names.add(name)
    return sorted(names)


# -------------------------------------------------------------------------------------------------------- pickles


class _Global(NamedTuple):
    """A function or class that a pickle names. It is never imported, much less called."""

    module: str
    name: str


class _DType:
    """A numpy data type being unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.byte_order = "<"

    def build(self, state: tuple) -> None:
        self.byte_order = state[1]

    def dtype(self) -> np.dtype:
        if not re.fullmatch(r"[fiub][1248]", self.code) or self.byte_order not in ("<", ">", "|", "="):
            raise FormatError(f"arrays of numpy type {self.code!r} are not supported")
        return np.dtype(self.byte_order + self.code)


class _Array:
    """A numpy array being unpickled."""

    array: np.ndarray | None = None

    def build(self, state: tuple) -> None:
        shape, dtype, fortran_order, values = state[-4:]
        if not all(isinstance(size, int) and 0 <= size <= len(values) for size in shape):
            raise FormatError("an array has no valid shape")
        array = np.frombuffer(values, dtype.dtype())
        if math.prod(shape) != array.size:
            raise FormatError(f"an array of shape {list(shape)} has {array.size} values")
        self.array = array.reshape(shape, order="F" if fortran_order else "C")


_LITERALS = frozenset({
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Unpickler:
    """Understands what pickle writes for containers, strings, numbers and numpy arrays, and nothing else.

    It follows the opcodes of protocols 2 to 4 and knows the meaning of the few functions that stand for arrays, so that
    a file has no means to run anything, and every value it makes is no larger than the part of the file it is from.
    """

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        self.buffer = buffer
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encodable = len(buffer)

    def load(self) -> Any:
        if isinstance(self.buffer, mmap.mmap):
            self.buffer.seek(0)
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], self.buffer)):  # a mapped file can be read as one
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise FormatError("the pickle does not end")

    def step(self, opcode: str, argument: Any) -> None:
        """Follows one opcode."""
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(_CONSTANTS.get(opcode, argument))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            self.marks.append(len(stack))
        elif opcode == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif opcode in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[opcode])))
        elif opcode == "EMPTY_LIST":
            stack.append([])
        elif opcode == "APPEND":
            self.extend(self.pop(1))
        elif opcode == "APPENDS":
            self.extend(self.pop_to_mark())
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode == "SETITEM":
            self.update(self.pop(2))
        elif opcode == "SETITEMS":
            self.update(self.pop_to_mark())
        elif opcode == "GLOBAL":
            stack.append(_Global(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            stack.append(_Global(*self.pop(2)))
        elif opcode == "REDUCE":
            function, arguments = self.pop(2)
            stack.append(self.call(function, arguments))
        elif opcode == "BUILD":
            (state,) = self.pop(1)
            if not isinstance(stack[-1], _Array | _DType):
                raise FormatError(f"refused: it sets the state of a {type(stack[-1]).__name__}")
            stack[-1].build(state)
        elif opcode not in ("PROTO", "FRAME"):
            raise FormatError(f"refused: pickle opcode {opcode} has no place in a file of weights")

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise FormatError("the pickle is damaged")
        split = len(self.stack) - count
        values = self.stack[split:]
        del self.stack[split:]
        return values

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise FormatError("the pickle is damaged")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        target, keys = self.stack[-1], values[::2]
        if not isinstance(target, dict) or len(values) % 2 or not all(isinstance(key, str) for key in keys):
            raise FormatError("the pickle is damaged")
        target.update(zip(keys, values[1::2], strict=True))

    def call(self, function: _Global, arguments: tuple[Any, ...]) -> Any:
        """The value that a call would have made, for the few calls that stand for data."""
        module, name = function
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Array()
        if (module, name) == ("numpy", "dtype"):
            return _DType(arguments[0])
        if (module, name) == ("_codecs", "encode") and arguments[1:] == ("latin1",):
            # How protocol 2 writes bytes. One string could be encoded over and over: not more than the file is long.
            self.encodable -= len(arguments[0])
            if self.encodable < 0:
                raise FormatError("refused: it holds more bytes than the file is long")
            return arguments[0].encode("latin1")
        if module in ("builtins", "__builtin__"):
            # How PaddlePaddle 2 writes its tensors: tuple((name, array)), and eval("data", {"data": array}).
            if name == "tuple" and len(arguments) == 1 and isinstance(arguments[0], tuple):
                return arguments[0]
            if name == "eval" and len(arguments) == 2 and arguments[0] == "data" and list(arguments[1]) == ["data"]:
                return arguments[1]["data"]
        if (module, name) == ("collections", "OrderedDict") and not arguments:
            return {}
        raise FormatError(f"refused: it calls {module}.{name}, and loading it could run any code")


def read_plain_pickle(buffer: bytes | mmap.mmap) -> Any:
    """Reads a pickle of containers, strings and numbers; arrays in it are of a class of this module.

    Raises:
        FormatError: it is damaged, or holds anything that is not plain data.
    """
    try:
        return _Unpickler(buffer).load()
    except FormatError:
        raise
    # What a damaged pickle makes of the steps above: values of the wrong type, arguments missing, an empty stack.
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise FormatError(f"the pickle is damaged ({error})") from None


def read_pickle(buffer: bytes | mmap.mmap) -> tuple[dict[str, np.ndarray], int]:
    """Reads a .pdparams file, of fluid.save or of PaddlePaddle 2 and later.

    Returns:
        The arrays by name (of dictionaries in it by their keys, net.fc.weight), and how many entries have none.

    Raises:
        FormatError: it is damaged, or holds anything that is not plain data.
    """
    entries = read_plain_pickle(buffer)
    if not isinstance(entries, dict):
        raise FormatError(f"it holds a {type(entries).__name__}, not a dictionary of arrays")
    arrays, others, left, seen = {}, 0, [("", entries)], {id(entries)}
    while left:
        before, values = left.pop()
        for name, value in values.items():
            value = value[1] if isinstance(value, tuple) and len(value) == 2 else value
            if not isinstance(name, str) or len(before) + len(name) > 2000 or id(value) in seen:
                others += 1
            elif isinstance(value, _Array) and value.array is not None:
                arrays[before + name] = value.array
            elif isinstance(value, dict) and any(isinstance(inner, _Array | tuple | dict) for inner in value.values()):
                seen.add(id(value))
                left.append((f"{before}{name}.", value))
            else:
                others += 1
    return arrays, others
