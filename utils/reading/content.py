"""Handles image content in the alpha channel or in more than 8 bits.

By default, alpha is dropped and the upper 8 of 16 bits are kept. Then a black drawing on transparency becomes a black
image, and 12-bit data in 16 bits keep one level in sixteen.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

import cv2
import numpy as np

from utils.reading import heif
from utils.reading.codec_messages import heard
from utils.reading.resize import Colour

# An image whose colours span at most this many levels has a single colour.
_ONE_COLOUR = 8
_PNG = b"\x89PNG\r\n\x1a\n"
# EXIF orientation -> quarter turns counter-clockwise, and whether to mirror left to right first.
_TURNS = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True)}
_TURNS |= {5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}


@dataclass(frozen=True)
class Content:
    """Content of a file beyond 8-bit colours.

    Attributes:
        hidden: it has a single colour, and its content is in the alpha channel.
        deep: it has 16 bits.
        low, high: the range of values used, if deep.
    """

    hidden: bool = False
    deep: bool = False
    low: int = 0
    high: int = 0


def examine(data: bytes) -> Content | None:
    """The content of a file beyond 8-bit colours; None if there is none, or the file cannot be decoded."""
    if not _may_have_more(data):
        return None
    pixels = _unchanged(data)
    if pixels is None:
        return None
    colours, opacity = _parts(pixels)
    low, high = int(colours.min()), int(colours.max())
    deep = pixels.dtype == np.uint16
    unit = 257 if deep else 1
    hidden = False
    if opacity is not None and _span(opacity) > _ONE_COLOUR * unit:
        hidden = max(map(_span, cv2.split(colours))) <= _ONE_COLOUR * unit
    return Content(hidden, deep, low, high) if hidden or deep else None


def _span(plane: np.ndarray) -> int:
    return int(plane.max()) - int(plane.min())


def _may_have_more(data: bytes) -> bool:
    """Whether a file may have alpha or more than 8 bits, judging by its beginning."""
    if data[:2] in (b"\xff\xd8", b"BM") or heif.is_heic(data):
        return False
    if data[:8] == _PNG:
        return data[24:25] == b"\x10" or data[25:26] in (b"\4", b"\6") or b"tRNS" in data[: data.find(b"IDAT") + 1]
    return not (data[:4] == b"RIFF" and data[12:16] == b"VP8 ")


def _unchanged(data: bytes) -> np.ndarray | None:
    """The pixels as stored, in OpenCV's channel order, without EXIF rotation; None unless they have 8 or 16 bits."""
    try:
        pixels = heard(cv2.imdecode, np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[0]
    except cv2.error:
        return None
    return pixels if pixels is not None and pixels.dtype in (np.uint8, np.uint16) else None


def _parts(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Splits pixels from OpenCV into colours (h, w, 3), RGB, and alpha (h, w), if any."""
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), None
    if pixels.shape[2] == 4:
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), pixels[..., 3]
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), None


def revealed(
    data: bytes, background: Colour | None, depth_range: tuple[int, int] | None, upright: bool
) -> np.ndarray | None:
    """The pixels of a file with alpha or more than 8 bits, by --background and --image_depth_range.

    Args:
        data: the file's bytes.
        background: the RGB colour to put behind it; None: drop the alpha channel.
        depth_range: the two 16-bit values that become 0 and 255; None: keep the upper 8 bits.
        upright: apply the EXIF orientation.

    Returns:
        uint8 (height, width, 3), RGB; None if the file has neither, or cannot be decoded.
    """
    if not _may_have_more(data) or (pixels := _unchanged(data)) is None:
        return None
    colours, opacity = _parts(pixels)
    deep = pixels.dtype == np.uint16
    if not (deep and depth_range) and (background is None or opacity is None):
        return None
    if deep:
        colours = _table(depth_range)[colours] if depth_range else (colours >> 8).astype(np.uint8)
        opacity = None if opacity is None else (opacity >> 8).astype(np.uint8)
    if background is not None and opacity is not None:
        # libtiff, which OpenCV uses for 8 bits, returns colours premultiplied by alpha.
        multiplied = not deep and data[:4] in (b"II*\0", b"MM\0*")
        colours = on_background(colours, opacity, background, multiplied)
    return _turned(colours, data) if upright else colours


@functools.lru_cache(maxsize=4)
def _table(depth_range: tuple[int, int]) -> np.ndarray:
    """The 8-bit level, uint8 (65536,), of each 16-bit value."""
    low, high = depth_range
    return np.clip((np.arange(65536) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)


def on_background(colours: np.ndarray, opacity: np.ndarray, background: Colour, multiplied: bool = False) -> np.ndarray:
    """Composites colours, uint8 (h, w, 3), with alpha uint8 (h, w), over a colour; `multiplied` if premultiplied."""
    share = opacity[..., None].astype(np.uint32)
    own = colours * np.uint32(255) if multiplied else colours * share
    return np.minimum((own + np.array(background, np.uint32) * (255 - share) + 127) // 255, 255).astype(np.uint8)


def _turned(pixels: np.ndarray, data: bytes) -> np.ndarray:
    """Applies the EXIF orientation, which OpenCV does only when it decodes to three channels."""
    from PIL import Image

    if heif.is_avif(data) and heif.is_turned(data):
        return heif.turned(pixels, data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            quarters, mirrored = _TURNS.get(image.getexif().get(0x0112, 1), (0, False))
    except Exception:  # whatever its codec raises for odd metadata
        return pixels
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters))
