"""Limits on image size: eight workers decode at a time, and must survive any file in a folder."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from utils import MAX_IMAGE_PIXELS, PIXELS_VARIABLE

# An image of 2 ** 27 pixels takes up to 0.8 GB while it is decoded. Phone cameras make 108 million pixels.
_given = os.environ.get(PIXELS_VARIABLE, "")
MAX_PIXELS = int(_given) if _given.isdecimal() and int(_given) else MAX_IMAGE_PIXELS
MAX_BYTES = max(1 << 29, 4 * MAX_PIXELS)  # an uncompressed one
# Pixels of a progressive JPEG, summed over its scans. Cameras and programs make 10 scans.
_MAX_SCANNED = 20 * MAX_PIXELS

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0xC2


def too_long(length: int) -> str | None:
    """Why a file of this many bytes is refused; None if it is not."""
    if length <= MAX_BYTES:
        return None
    return f"has {length >> 20} MB, more than the {MAX_BYTES >> 20} MB that an image may have"


def too_large(size: str) -> str:
    """Why an image of this size is refused."""
    return f"has {size} pixels, more than the limit of {MAX_PIXELS}: make it smaller, or raise --max_image_pixels"


def too_much(data: bytes) -> str | None:
    """Why a JPEG is refused: its scans cover too many pixels in total. None if they do not."""
    for marker, start, _ in segments(data):
        if marker in _FRAMES and start + 5 <= len(data):
            height, width = struct.unpack_from(">HH", data, start + 1)
            if height * width > MAX_PIXELS:
                return too_large(f"{width} x {height}")
            if marker == _PROGRESSIVE and height * width * (scans := data.count(b"\xff\xda")) > _MAX_SCANNED:
                return f"has {width} x {height} pixels in {scans} scans, which would take minutes to decode"
            return None
    return None


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start of its contents, end) of each segment up to the first start of scan (ITU-T T.81, annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        yield marker, at + 4, end
        if marker == 0xDA:
            return
        at = end
