"""Decodes images: accepted formats, refused files, and partial decoding of JPEG files for training crops.

Everything becomes uint8, (height, width, 3), RGB, as in OpenCV:

- JPEG (baseline, progressive), PNG, WebP, AVIF, BMP, TIFF, PNM, JPEG 2000, GIF (first frame), and HEIC with the package
  pillow-heif.
- EXIF orientation is applied, as in the original, as are AVIF's and HEIC's equivalents.
- Grey and palette images are expanded, CMYK is converted, of 16 bits the upper 8 are kept.
- Alpha is dropped: a transparent pixel shows its stored colour. --background puts a colour behind it, and
  --image_depth_range chooses which 16-bit values become 0 and 255.
- A truncated file is unreadable. A JPEG that lacks only its end marker is decoded, as is one with damaged data that the
  decoder can skip; the decoder's messages are kept, see `take_remarks`.

Some networks were trained on Pillow's pixels (--decode_backend=pil): the same, except that EXIF orientation is ignored
and CMYK is converted differently. For upright photographs the pixels equal OpenCV's.
"""

from __future__ import annotations

import functools
import io
import mmap
import os
import re
import stat
import struct
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from utils.console import warn
from utils.errors import UserError, reason
from utils.formats.foreign import foreign_kind
from utils.reading import heif
from utils.reading.codec_messages import heard
from utils.reading.content import on_background, revealed
from utils.reading.limits import MAX_PIXELS, segments, too_large, too_long, too_much
from utils.reading.resize import Colour
from utils.system import open_at_once

# Our own error reports what is wrong with a file; silence the libraries.
set_level = getattr(cv2, "setLogLevel", None)
if set_level is not None:  # OpenCV 4
    set_level(0)
else:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class UnreadableImage(UserError):
    """A file that cannot be decoded. `path` is the file, `reason` says what is wrong with it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def read_file(path: str) -> bytes:
    """The bytes of a file; raises `UnreadableImage`."""
    try:
        with open(open_at_once(path), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(path, "not a file but a folder, pipe or device")
            if why := too_long(status.st_size):
                raise UnreadableImage(path, why)
            return file.read()
    except OSError as error:
        raise UnreadableImage(path, reason(error)) from None
    except ValueError as error:  # the name contains a null byte
        raise UnreadableImage(path, str(error)) from None


def decode(
    data: bytes,
    path: str,
    backend: str = "cv2",
    background: Colour | None = None,
    depth_range: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decodes an image file held in memory.

    Args:
        data: the file's bytes.
        path: its name, for the error.
        backend: cv2 or pil, as in --decode_backend.
        background: the colour behind transparent images, as in --background; None: drop the alpha channel.
        depth_range: the 16-bit values that become 0 and 255, as in --image_depth_range; None: keep the upper 8 bits.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        UnreadableImage: the bytes are not a complete image.
    """
    if not data:
        raise UnreadableImage(path, "the file is empty")
    if data[:2] == _START_OF_IMAGE and (why := too_much(data)):
        raise UnreadableImage(path, why)
    if data[:2] == _START_OF_IMAGE and _end_of_jpeg(data) < 0:
        data = _with_end_marker(data, path)
    in_heif = data[4:8] == b"ftyp"
    if in_heif and heif.is_heic(data):
        return _decode_heic(data, path, background)
    if background is not None or depth_range is not None:
        pixels = revealed(data, background, depth_range, upright=backend == "cv2")
        if pixels is not None:
            return pixels
    if backend == "pil":
        return _decode_with_pillow(data, path)
    if in_heif and heif.is_avif(data):
        return _decode_avif(data, path)
    return _imdecode(data, path, cv2.IMREAD_COLOR_RGB)


# Decoders' messages about damaged but decodable files: (path, text) of the latest ones.
_remarks: deque[tuple[str, str]] = deque(maxlen=1000)


def take_remarks() -> list[tuple[str, str]]:
    """Decoders' messages since the last call about damaged but decodable files: (path, text)."""
    if not _remarks:
        return []
    taken = list(_remarks)
    _remarks.clear()
    return taken


def _with_end_marker(data: bytes, path: str) -> bytes:
    """Adds a missing end marker to a JPEG; raises `UnreadableImage` if more is missing."""
    whole = data + _END_OF_IMAGE
    try:
        # Decoding at an eighth of the size reads all compressed data, and libjpeg reports where it had to invent some.
        pixels, said = heard(cv2.imdecode, np.frombuffer(whole, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error:
        pixels, said = None, ""
    if pixels is None or said:
        raise UnreadableImage(path, "the JPEG is truncated")
    _remarks.append((path, "only its end marker is missing"))
    return whole


def _decode_avif(data: bytes, path: str) -> np.ndarray:
    # Asked for RGB, OpenCV returns BGR for files with alpha, and it ignores their orientation.
    if heif.is_turned(data):
        bgr = heif.turned(_imdecode(data, path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), data)
    else:
        bgr = _imdecode(data, path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _decode_heic(data: bytes, path: str, background: Colour | None) -> np.ndarray:
    try:
        pixels = heif.decode_heic(data)
    except ValueError as error:
        raise UnreadableImage(path, str(error)) from None
    colours = np.ascontiguousarray(pixels[..., :3])
    return colours if background is None or pixels.shape[2] == 3 else on_background(colours, pixels[..., 3], background)


def _decode_with_pillow(data: bytes, path: str) -> np.ndarray:
    from PIL import Image  # slow to import, and most networks do not need it

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS

    def convert() -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(path, too_large(f"{image.width} x {image.height}"))
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.array(image.convert("RGB"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and large images, which OpenCV accepts too
        try:
            return heard(convert)[0]
        except UnreadableImage:
            raise
        except Image.DecompressionBombError:  # raised from twice as many on
            raise UnreadableImage(path, too_large("too many")) from None
        except Image.UnidentifiedImageError:
            raise UnreadableImage(path, _what_it_is(data)) from None
        except Exception as error:  # codecs raise anything for damaged files
            why = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImage(path, f"cannot be decoded: {why[:200]}") from None


def _what_it_is(data: bytes | bytearray) -> str:
    """Identifies a file that is not an image, by its beginning."""
    start = bytes(data[:200]).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the image: run git lfs pull"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image"
    if (kind := foreign_kind(bytes(data[:16]))) and kind != "an image":
        return f"not an image, but {kind}"
    return "not an image, or a damaged one" if start.strip(b"\0") else "nothing but zeros, not an image"


def _imdecode(data: bytes | bytearray, path: str, flags: int) -> np.ndarray:
    try:
        rgb, said = heard(cv2.imdecode, np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in error.err:
            raise UnreadableImage(path, too_large("too many")) from None
        raise UnreadableImage(path, f"cannot be decoded: {error.err}") from None
    if rgb is None:
        raise UnreadableImage(path, _what_it_is(data) + (f" ({said})" if said else ""))
    if said:
        _remarks.append((path, said))
    return rgb


# ---------------------------------------------------------------------------------------- a region of a JPEG file

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
# Progressive, arithmetic or lossless frames; a restart interval. (An MPF segment: more images follow.)
_OTHER_KINDS = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDD}
# The orientation entry of an EXIF directory in either byte order: tag 0x0112, type SHORT, one value, the value.
_ORIENTATION = re.compile(
    rb"\x01\x12\x00\x03\x00\x00\x00\x01\x00(.)|\x12\x01\x03\x00\x01\x00\x00\x00(.)\x00", re.DOTALL
)


@dataclass(frozen=True)
class Jpeg:
    """A JPEG file that can be decoded from the top down to any row: sequential Huffman coding in a single scan without
    restart markers, grey or three 8-bit components, upright, alone in its file. Nearly every photograph qualifies.

    Attributes:
        data: the file.
        path: its name, for errors.
        height, width: in pixels.
        height_at: offset of the two-byte height in the frame header.
        end: offset of the end-of-image marker.
        row_height: pixel rows per row of coding units (MCUs).
    """

    data: bytes
    path: str
    height: int
    width: int
    height_at: int
    end: int
    row_height: int


def _end_of_jpeg(data: bytes) -> int:
    """The offset of the last end-of-image marker after the start of the first scan; -1 if the file is truncated.

    An EXIF thumbnail may end before that scan. Compressed data cannot contain the marker.
    """
    scan = next((end for marker, _, end in segments(data) if marker == 0xDA), None)
    # If there are bytes between the segments, no scan is found here; decoders skip them and decide themselves.
    return data.rfind(_END_OF_IMAGE, scan or 2)


def parse_jpeg(data: bytes, path: str) -> Jpeg | None:
    """Reads a JPEG's headers; None if it is truncated or not as `Jpeg` describes."""
    if data[:2] != _START_OF_IMAGE:
        return None
    frame = None
    for marker, start, end in segments(data):
        if marker in (0xC0, 0xC1):  # sequential, Huffman
            frame = start
        elif marker in _OTHER_KINDS or (marker == 0xE2 and data.startswith(b"MPF\0", start)):
            return None
        elif marker == 0xE1:  # EXIF
            orientation = _ORIENTATION.search(data, start, min(end, len(data)))
            if orientation and (orientation[1] or orientation[2]) != b"\x01":
                return None
        elif marker == 0xDA:
            if frame is None or max(end, frame + 15) > len(data):
                return None
            precision, height, width, components = struct.unpack_from(">BHHB", data, frame)
            if precision != 8 or not height or not width or components not in (1, 3) or data[start] != components:
                return None
            if height * width > MAX_PIXELS:
                return None
            row_height = 8 * max(data[frame + 7 + 3 * component] & 15 for component in range(components))
            end_of_image = data.rfind(_END_OF_IMAGE, end)
            if end_of_image < 0:
                return None
            return Jpeg(data, path, height, width, frame + 1, end_of_image, row_height)
    return None


def decode_region(jpeg: Jpeg, box: tuple[int, int, int, int], decoder: str = "auto") -> np.ndarray:
    """Decodes a part of a JPEG; the pixels equal those of a full decode.

    nvImageCodec, if installed, decodes only the rows of the box; OpenCV decodes from the top to the end of the box.

    Args:
        jpeg: the file.
        box: top, left, height, width.
        decoder: "cv2", "nvimgcodec", or "auto" for the faster one available.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        UnreadableImage: the bytes cannot be decoded.
    """
    if decoder != "cv2":
        region = _decode_with_nvimgcodec(jpeg, box)
        if region is not None:
            return region
    top, left, height, width = box
    return decode_rows(jpeg, top + height)[top : top + height, left : left + width]


# The grey flags contain the bits for a reduced size; IMREAD_REDUCED_COLOR_2 would add "BGR", which excludes "RGB".
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def decode_rows(jpeg: Jpeg, bottom: int, reduction: int = 1) -> np.ndarray:
    """Decodes a JPEG from the top to at least row `bottom`, and ignores the rest.

    OpenCV gets the file with a lower height in its frame header.

    Args:
        jpeg: the file.
        bottom: in rows of the full size.
        reduction: 1, 2, 4 or 8: decode at this fraction of the size. The inverse DCT is scaled, so every pixel is the
            average of those it replaces.

    Returns:
        uint8 (at least bottom / reduction, width / reduction rounded up, 3), RGB.

    Raises:
        UnreadableImage: the bytes cannot be decoded.
    """
    # One more row of coding units than needed: chroma is interpolated across their border.
    rows = (-(-bottom // jpeg.row_height) + 1) * jpeg.row_height
    data = jpeg.data
    if rows < jpeg.height:
        # Without the end marker the decoder runs out of data instead of warning about skipped bytes; the zeros serve
        # its read-ahead.
        data = bytearray(data[: jpeg.end]) + bytes(16)
        data[jpeg.height_at : jpeg.height_at + 2] = rows.to_bytes(2, "big")
    return _imdecode(data, jpeg.path, _REDUCED[reduction] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


# Whether a failing nvImageCodec was reported: shared with forked workers, to report it once.
_warned = mmap.mmap(-1, 1)


@functools.lru_cache(maxsize=1)
def _nvimgcodec(process: int) -> tuple[Any, Any, Any] | None:
    """nvImageCodec's module, decoder and parameters for the CPU; None if it is not installed or does not start.

    The decoder has a thread, which a forked process lacks, so `process` makes the cache per process.
    """
    try:
        from nvidia import nvimgcodec  # pyright: ignore[reportMissingImports] (optional)

        decoder = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],
        )
        return nvimgcodec, decoder, nvimgcodec.DecodeParams(apply_exif_orientation=False)
    except ImportError:
        return None
    except Exception as error:  # any error of an installed package: OpenCV decodes the same pixels
        if not _warned[0]:
            _warned[0] = 1
            warn(f"nvImageCodec does not start, so OpenCV decodes everything ({' '.join(str(error).split())})")
        return None


def _decode_with_nvimgcodec(jpeg: Jpeg, box: tuple[int, int, int, int]) -> np.ndarray | None:
    """The box of a JPEG; None if the package is not installed or does not accept the file."""
    available = _nvimgcodec(os.getpid())
    if available is None:
        return None
    nvimgcodec, decoder, params = available
    top, left, height, width = box
    region = nvimgcodec.Region(top, left, top + height, left + width)
    try:
        image = decoder.decode(nvimgcodec.CodeStream(jpeg.data).get_sub_code_stream(region=region), params=params)
    except RuntimeError:
        return None
    return None if image is None else np.asarray(image)
