"""HEIF images: AVIF, whose orientation OpenCV ignores, and HEIC, which another package decodes."""

from __future__ import annotations

import io
import re

import numpy as np

from utils.reading.folders import HEIF_PACKAGE
from utils.reading.limits import MAX_PIXELS, too_large

# The properties for rotation and mirroring (ISO/IEC 23008-12, 6.5.10 and 6.5.12): a box of nine bytes, the last of
# which holds counter-clockwise quarter turns or an axis.
_ROTATION = re.compile(rb"\0\0\0\x09irot(.)", re.DOTALL)
_MIRROR = re.compile(rb"\0\0\0\x09imir(.)", re.DOTALL)
# They are in the file's metadata, before its pixels.
_DESCRIPTION = 1 << 16


class TooLarge(ValueError):
    """An image has more pixels than allowed."""


def brands(data: bytes) -> set[bytes]:
    """The compatible brands of a HEIF container; empty for any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 512)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def is_avif(data: bytes) -> bool:
    """Whether a file is AVIF."""
    return not brands(data).isdisjoint((b"avif", b"avis"))


def is_heic(data: bytes) -> bool:
    """Whether a file is HEIC or another kind that only HEIF decoders read."""
    return not is_avif(data) and not brands(data).isdisjoint((b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1"))


def is_turned(data: bytes) -> bool:
    """Whether an AVIF file asks for rotation or mirroring."""
    head = data[:_DESCRIPTION]
    return bool(_ROTATION.search(head) or _MIRROR.search(head))


def turned(pixels: np.ndarray, data: bytes) -> np.ndarray:
    """Rotates, then mirrors an image as its AVIF file asks."""
    head = data[:_DESCRIPTION]
    if rotation := _ROTATION.search(head):
        pixels = np.rot90(pixels, rotation[1][0] & 3)
    if mirror := _MIRROR.search(head):
        pixels = pixels[:, ::-1] if mirror[1][0] & 1 else pixels[::-1]
    return np.ascontiguousarray(pixels)


def decode_heic(data: bytes) -> np.ndarray:
    """Decodes HEIC, upright.

    Returns:
        uint8 (height, width, 3), RGB, or with 4 channels, the last of which is alpha.

    Raises:
        ValueError: the file is damaged or too large, or the decoding package is not installed; the message says which.
    """
    try:
        import pillow_heif
    except ImportError:
        raise ValueError(f"HEIC needs the package {HEIF_PACKAGE}: pip install {HEIF_PACKAGE}") from None
    try:
        file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
        if file.size[0] * file.size[1] > MAX_PIXELS:
            raise TooLarge(too_large(f"{file.size[0]} x {file.size[1]}"))
        picture = file.to_pillow()
        return np.array(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
    except TooLarge:
        raise
    except Exception as error:  # codecs raise anything for damaged files
        raise ValueError(f"cannot be decoded: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
