"""Reads PaddlePaddle's weight files without PaddlePaddle.

- A variable: one tensor, as fluid's `save` operator writes it. All integers are little-endian:

      uint32  version of the stream, 0
      uint64  number of LoD levels; each level is a uint64 byte count and that many bytes
      uint32  version of the tensor, 0
      int32   length of the description
              description, a protobuf message: field 1 is the data type, field 2 (repeated) the dimensions
              the values, row by row

- A combined file: variables one after the other, without names, in the order of their sorted names; the program has
  the names.
- A .pdparams file: a pickle of a dictionary of numpy arrays: `utils.formats.pickles`.

All readers work on a buffer, return views of it where they can, check every length against the size of the buffer, and
raise `FormatError` for any other file.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

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

_MAX_VARIABLES = 20_000  # in a combined file: far more than any network has; reading them takes a second
_MAX_DIMENSIONS = 16
_MAX_DESCRIPTION = 1000  # bytes; 16 dimensions take 180
_MAX_LEVELS = 100  # of LoD; parameters have none


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
        data_types: the known types, by fluid's numbers.

    Returns:
        The tensor, a view of the buffer (perhaps not aligned), and the offset after it.

    Raises:
        FormatError: there is no complete variable at the offset.
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
        raise FormatError(f"the description should have {size} bytes, but only {len(view) - offset} follow")
    if size > _MAX_DESCRIPTION:
        raise FormatError(f"the description has {size} bytes, more than any tensor needs")
    dtype, shape = _tensor_description(view[offset : offset + size], data_types)
    offset += size
    count = math.prod(shape)
    if count * dtype.itemsize > len(view) - offset or max(shape, default=0) > len(view):
        raise FormatError(
            f"shape {list(shape)} takes {count * dtype.itemsize} bytes, but {len(view) - offset} follow (cut short?)"
        )
    array = np.frombuffer(view, dtype, count, offset).reshape(shape)
    return array, offset + count * dtype.itemsize


def read_variables(buffer: Buffer) -> list[np.ndarray]:
    """Reads all variables of a file: one, or those of a combined file. Views of the buffer, as in `read_variable`."""
    arrays = []
    offset = 0
    while offset < len(buffer):
        if len(arrays) == _MAX_VARIABLES:
            raise FormatError(f"it has more than {_MAX_VARIABLES} variables, more than any network")
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
    """The bytes before the values of `array` in its variable file."""
    description = b"\x08" + _encode_varint(_DATA_TYPE_NUMBERS[array.dtype])
    for dimension in array.shape:
        description += b"\x10" + _encode_varint(dimension)
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description


def write_variable(array: np.ndarray, path: Path) -> None:
    """Writes a tensor as a variable file, byte for byte as fluid does; creates the file's folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(variable_header(array))
        file.write(np.ascontiguousarray(array))


# ------------------------------------------------------------------------------------------------------- programs

_LOD_TENSOR = 7


def program_variables(buffer: Buffer) -> list[str]:
    """The sorted names of the tensors in the combined file of a program (`__model__`, `model`, .pdmodel).

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
