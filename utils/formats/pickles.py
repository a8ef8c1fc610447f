"""Reads pickles of PaddlePaddle as plain data, and writes them without NumPy's own pickling.

.pdparams, .pdopt, .pdema and .pdstates are pickles of dictionaries, lists, strings, numbers and numpy arrays. Loading a
pickle can run any code. These readers therefore interpret its opcodes themselves, accept the few calls that stand for
data, and raise `FormatError` for anything else.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
import struct
from typing import IO, Any, NamedTuple, cast

import numpy as np

from utils.errors import FormatError, cut

# PaddlePaddle's files have about 40 opcodes per array, and up to 4,000 arrays, or 10,000 with an optimizer's; reading
# them takes less than a second.
_MAX_OPCODES = 500_000
_MAX_DIMENSIONS = 16
_LONGEST_NAME = 200  # of the name of a module, function or type


class _Global(NamedTuple):
    """A function or class that a pickle names. It is never imported or called."""

    module: str
    name: str


def _name(value: Any) -> str:
    """Checks that a name in a pickle is a short text: anything else could be too large to compare or print."""
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise FormatError(f"the pickle is damaged (a {type(value).__name__} instead of a name)")
    return value


class _DType:
    """A numpy data type being unpickled."""

    def __init__(self, code: Any) -> None:
        self.code = _name(code)
        self.byte_order = "<"

    def build(self, state: tuple) -> None:
        self.byte_order = _name(state[1])

    def dtype(self) -> np.dtype:
        if not re.fullmatch(r"[fiub][1248]", self.code) or self.byte_order not in ("<", ">", "|", "="):
            raise FormatError(f"arrays of numpy type {self.code!r} are not supported")
        return np.dtype(self.byte_order + self.code)


class Array:
    """A numpy array being unpickled."""

    array: np.ndarray | None = None

    def build(self, state: tuple) -> None:
        shape, dtype, fortran_order, values = state[-4:]
        if not isinstance(values, bytes):
            raise FormatError(f"the pickle is damaged (an array made of a {type(values).__name__})")
        if len(shape) > _MAX_DIMENSIONS:
            raise FormatError(f"an array has more than {_MAX_DIMENSIONS} dimensions")
        if not all(isinstance(size, int) and 0 <= size <= len(values) for size in shape):
            raise FormatError("an array has no valid shape")
        array = np.frombuffer(values, dtype.dtype())
        if math.prod(shape) != array.size:
            raise FormatError(f"an array of shape {list(shape)} has {array.size} values")
        array = array.reshape(shape, order="F" if fortran_order else "C")
        self.array = array.astype(array.dtype.newbyteorder("="), copy=False)  # counts each array once


_LITERALS = frozenset({
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Unpickler:
    """Interprets what pickle writes for containers, strings, numbers and numpy arrays, and nothing else.

    It follows the opcodes of protocols 2 to 4 and knows the few functions that stand for arrays. So a file cannot run
    anything, and the values that it makes are no larger than the file.
    """

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        self.buffer = buffer
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        # A pickle could encode one text, or turn it into an array, many times; the total is limited to the file's size.
        self.encodable = self.fillable = len(buffer)

    def load(self) -> Any:
        if isinstance(self.buffer, mmap.mmap):
            self.buffer.seek(0)
        # A memory-mapped file can be read like a stream.
        for number, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], self.buffer))):
            if opcode.name == "STOP":
                return self.stack.pop()
            if number == _MAX_OPCODES:
                raise FormatError(f"refused: it has more than {_MAX_OPCODES} opcodes, more than any weight file needs")
            self.step(opcode.name, argument)
        raise FormatError("the pickle does not end")

    def step(self, opcode: str, argument: Any) -> None:
        """Executes one opcode."""
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
            stack.append(_Global(*map(_name, argument.split(" ", 1))))
        elif opcode == "STACK_GLOBAL":
            stack.append(_Global(*map(_name, self.pop(2))))
        elif opcode == "REDUCE":
            function, arguments = self.pop(2)
            if not isinstance(function, _Global) or not isinstance(arguments, tuple):
                raise FormatError("the pickle is damaged (it calls something that is not a function)")
            stack.append(self.call(function, arguments))
        elif opcode == "BUILD":
            self.build(stack[-2], stack.pop())
        elif opcode not in ("PROTO", "FRAME"):
            raise FormatError(f"refused: pickle opcode {opcode} does not belong in a weight file")

    def build(self, target: Any, state: Any) -> None:
        if not isinstance(target, Array | _DType) or not isinstance(state, tuple):
            raise FormatError(f"refused: it sets the state of a {type(target).__name__}")
        target.build(state)
        if isinstance(target, Array) and target.array is not None:
            self.fillable -= target.array.nbytes
            if self.fillable < 0:
                raise FormatError("refused: its arrays hold more bytes than the file is long")

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
        """The value that a call would return, for the few calls that stand for data."""
        module, name = function
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return Array()
        if (module, name) == ("numpy", "dtype"):
            return _DType(arguments[0])
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return np.frombuffer(arguments[1], arguments[0].dtype(), 1)[0].item()
        if (module, name) == ("_codecs", "encode") and len(arguments) == 2 and _name(arguments[1]) == "latin1":
            # Protocol 2 writes bytes like this.
            self.encodable -= len(arguments[0])
            if self.encodable < 0:
                raise FormatError("refused: it holds more bytes than the file is long")
            return arguments[0].encode("latin1")
        if module in ("builtins", "__builtin__"):
            # PaddlePaddle 2 writes tensors as tuple((name, array)), and as eval("data", {"data": array}).
            if name == "tuple" and len(arguments) == 1 and isinstance(arguments[0], tuple):
                return arguments[0]
            if (
                name == "eval"
                and len(arguments) == 2
                and _name(arguments[0]) == "data"
                and arguments[1].keys() == {"data"}
            ):
                return arguments[1]["data"]
        if (module, name) == ("collections", "OrderedDict") and not arguments:
            return {}
        raise FormatError(f"refused: it calls {module}.{name}, and loading it could run any code")


def read_plain_pickle(buffer: bytes | mmap.mmap) -> Any:
    """Reads a pickle of containers, strings and numbers; arrays become instances of `_Array`.

    Raises:
        FormatError: it is damaged, or holds anything that is not plain data.
    """
    try:
        return _Unpickler(buffer).load()
    except FormatError:
        raise
    # The errors of a damaged pickle: values of the wrong type, missing arguments, an empty stack.
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise FormatError(f"the pickle is damaged ({cut(str(error), 200)})") from None


def read_pickle(buffer: bytes | mmap.mmap) -> tuple[dict[str, np.ndarray], int]:
    """Reads a .pdparams file, of fluid.save or of PaddlePaddle 2 and later.

    Returns:
        The arrays by name (for nested dictionaries by their keys, as net.fc.weight), and the number of other entries.

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
            elif isinstance(value, Array) and value.array is not None:
                arrays[before + name] = value.array
            elif isinstance(value, dict) and any(isinstance(inner, Array | tuple | dict) for inner in value.values()):
                seen.add(id(value))
                left.append((f"{before}{name}.", value))
            else:
                others += 1
    return arrays, others


_MAX_DEPTH = 6  # of nested containers: a .pdopt has a list, a dictionary, a dictionary, a tuple and an array


def read_nested(buffer: bytes | mmap.mmap) -> Any:
    """Reads a PaddlePaddle file of plain data: arrays become NumPy arrays, tensors (name, array) become their arrays.

    Raises:
        FormatError: it is damaged, or holds anything that is not plain data.
    """
    done: dict[int, Any] = {}

    def plain(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Array):
            if value.array is None:
                raise FormatError("the pickle is damaged (an array without values)")
            return value.array
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Array):
            return plain(value[1])
        if not isinstance(value, dict | list | tuple):
            return value if isinstance(value, str | int | float | bytes | None) else str(value)
        if depth > _MAX_DEPTH:
            raise FormatError("refused: a container in it contains itself")
        if id(value) not in done:  # a container with several references is converted once
            parts = value.values() if isinstance(value, dict) else value
            found = [plain(part, depth + 1) for part in parts]
            done[id(value)] = dict(zip(value, found, strict=True)) if isinstance(value, dict) else found
        return done[id(value)]

    return plain(read_plain_pickle(buffer))


# -------------------------------------------------------------------------------------------------------- writing


def write_pickle(value: Any, file: IO[bytes]) -> None:
    """Writes dictionaries, lists, strings, numbers and arrays as a pickle that every PaddlePaddle and NumPy can read.

    `pickle` itself would store the function names of the NumPy installed here; versions before 1.26, which PaddlePaddle
    1.8 uses, do not know those of NumPy 2.
    """
    file.write(b"\x80\x04")
    _write(value, file)
    file.write(b".")


def _write(value: Any, file: IO[bytes]) -> None:
    if isinstance(value, dict):
        file.write(b"}(")
        for key, item in value.items():
            _write(key, file)
            _write(item, file)
        file.write(b"u")
    elif isinstance(value, list):
        file.write(b"](")
        for item in value:
            _write(item, file)
        file.write(b"e")
    elif isinstance(value, str):
        text = value.encode()
        file.write(b"X" + struct.pack("<I", len(text)) + text)
    elif isinstance(value, bool):
        file.write(b"\x88" if value else b"\x89")
    elif isinstance(value, int):
        content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        file.write(b"\x8a" + bytes([len(content)]) + content)
    elif isinstance(value, float):
        file.write(b"G" + struct.pack(">d", value))
    else:
        _write_array(value, file)


def _write_array(array: np.ndarray, file: IO[bytes]) -> None:
    """Writes it as NumPy does: _reconstruct(ndarray, (0,), b"b") with the state (1, shape, type, False, values)."""
    values = np.ascontiguousarray(array)
    file.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR(K\1(")
    for size in array.shape:
        _write(size, file)
    file.write(b"tcnumpy\ndtype\n(")
    _write(values.dtype.str[1:], file)
    file.write(b"\x89\x88tR(K\3")
    _write(values.dtype.str[0], file)
    file.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89\x8e" + struct.pack("<Q", values.nbytes))
    file.write(values.tobytes())
    file.write(b"tb")
