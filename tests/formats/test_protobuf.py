"""Protocol-buffer messages: examples from the format's documentation, and invalid messages."""

from __future__ import annotations

import struct

import pytest

from utils.errors import FormatError
from utils.formats.protobuf import read_fields, read_varint, read_varints

# https://protobuf.dev/programming-guides/encoding: a = 150 in field 1, b = "testing" in field 2, f = [3, 270, 86942]
# packed in field 6.
NUMBER = bytes.fromhex("08 96 01")
STRING = bytes.fromhex("12 07 74 65 73 74 69 6e 67")
PACKED = bytes.fromhex("32 06 03 8e 02 9e a7 05")


def fields(message: bytes) -> list[tuple[int, int | bytes]]:
    return [
        (number, value if isinstance(value, int) else bytes(value))
        for number, value in read_fields(memoryview(message))
    ]


@pytest.mark.parametrize(
    ("encoded", "value"),
    [("00", 0), ("7f", 127), ("80 01", 128), ("ac 02", 300), ("ff ff ff ff ff ff ff ff 7f", 2**63 - 1)],
)
def test_numbers(encoded, value):
    data = bytes.fromhex(encoded)
    assert read_varint(memoryview(b"\xff" + data + b"\xff"), 1) == (value, 1 + len(data))


def test_documented_messages():
    assert fields(NUMBER + STRING) == [(1, 150), (2, b"testing")]
    ((number, value),) = read_fields(memoryview(PACKED))
    assert number == 6 and list(read_varints(value)) == [3, 270, 86942]


def test_fixed_widths():
    message = b"\x19" + struct.pack("<d", 0.5) + b"\x25" + struct.pack("<f", -2.0)
    assert fields(message) == [(3, struct.pack("<d", 0.5)), (4, struct.pack("<f", -2.0))]


@pytest.mark.parametrize("message", [NUMBER, STRING, PACKED, b"\x19" + bytes(8), b"\x25" + bytes(4)])
def test_a_message_cut_short(message):
    for length in range(1, len(message)):
        with pytest.raises(FormatError):
            fields(message[:length])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x00\x00", "a field without a number"),
        (b"\x0b\x0c", "of unknown type 3"),
        (b"\x08" + b"\xff" * 11, "does not end"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "cut short"),
    ],
)
def test_what_is_no_message(message, reason):
    with pytest.raises(FormatError, match=reason):
        fields(message)
