"""Protocol-buffer messages, read without a description of them: numbered fields, one after the other.

PaddlePaddle's programs and tensors, Caffe's networks and ONNX models are such messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from utils.errors import FormatError


def read_varint(buffer: memoryview, offset: int) -> tuple[int, int]:
    """A whole number, written in groups of seven bits, and the offset behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(buffer):
            break
        byte = buffer[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise FormatError("a number in its description does not end")


def read_varints(packed: memoryview) -> Iterator[int]:
    """The numbers of a packed list."""
    offset = 0
    while offset < len(packed):
        value, offset = read_varint(packed, offset)
        yield value


def read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number, and an integer or the bytes of a string, message, float or packed list.

    Raises:
        FormatError: it is no message, or is cut short.
    """
    offset = 0
    while offset < len(message):
        tag, offset = read_varint(message, offset)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise FormatError("its description has a field without a number")
        value: int | memoryview
        if wire_type == 0:
            value, offset = read_varint(message, offset)
        else:
            if wire_type == 2:
                size, offset = read_varint(message, offset)
            elif wire_type in (1, 5):
                size = 8 if wire_type == 1 else 4
            else:
                raise FormatError(f"its description has a field of unknown type {wire_type}")
            if size > len(message) - offset:
                raise FormatError("its description is cut short")
            value, offset = message[offset : offset + size], offset + size
        yield number, value
