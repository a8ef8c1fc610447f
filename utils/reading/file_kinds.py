"""Identifies image formats by content, and compares them with the suffix."""

from __future__ import annotations

import os

from utils.reading import heif

# Names of the formats, and their suffixes in lower case.
KINDS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PNM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "Sun raster": (".ras",),
}
NAMES = tuple(KINDS)
UNKNOWN = len(NAMES)
_OF_SUFFIX = {suffix: name for name, suffixes in KINDS.items() for suffix in suffixes}
_BEGINNINGS = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
)


def kind_of(data: bytes) -> int:
    """The index in `NAMES` of a file's format; `UNKNOWN` if its beginning does not show it."""
    for beginning, name in _BEGINNINGS:
        if data.startswith(beginning):
            return NAMES.index(name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return NAMES.index("WebP")
    if data[4:8] == b"ftyp":
        return NAMES.index("AVIF") if heif.is_avif(data) else NAMES.index("HEIF") if heif.is_heic(data) else UNKNOWN
    return NAMES.index("PNM") if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace() else UNKNOWN


def contradicts(path: str, kind: int) -> bool:
    """Whether a file's suffix contradicts its content, `kind`; unknown ones never do."""
    said = _OF_SUFFIX.get(os.path.splitext(path)[1].lower())
    return said is not None and kind != UNKNOWN and said != NAMES[kind]
