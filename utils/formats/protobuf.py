"""Reads protocol-buffer messages without their schema: numbered fields, one after the other.

PaddlePaddle's programs and tensors, Caffe's networks and ONNX models are such messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from utils.errors import FormatError

Message = TypeVar("Message", bytes, memoryview)


def read_varint(buffer: bytes | memoryview, offset: int) -> tuple[int, int]:
    """Reads a varint, an integer in groups of seven bits; returns it and the offset after it."""
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


def read_varints(packed: bytes | memoryview) -> Iterator[int]:
    """The numbers of a packed list."""
    offset = 0
    while offset < len(packed):
        value, offset = read_varint(packed, offset)
        yield value


def read_fields(message: Message) -> Iterator[tuple[int, int | Message]]:
    """The fields of a message: number, and an integer or the bytes of a string, message, float or packed list.

    Bytes have the type of `message`: pass a memoryview to avoid copies of large fields; bytes are faster for many
    small fields.

    Raises:
        FormatError: it is not a message, or is cut short.
    """
    offset, end = 0, len(message)
    while offset < end:
        # Nearly all numbers fit into one byte.
        tag = message[offset]
        offset += 1
        if tag > 0x7F:
            tag, offset = read_varint(message, offset - 1)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise FormatError("its description has a field without a number")
        if wire_type in (0, 2):
            if offset < end and message[offset] <= 0x7F:
                size = message[offset]
                offset += 1
            else:
                size, offset = read_varint(message, offset)
            if wire_type == 0:
                yield number, size
                continue
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise FormatError(f"its description has a field of unknown type {wire_type}")
        if size > end - offset:
            raise FormatError("its description is cut short")
        yield number, message[offset : offset + size]
        offset += size
