"""What files are that nothing here reads, as far as their beginnings tell."""

from __future__ import annotations

# Where a mark is in a file, the mark, and what has it.
_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes"),
    (0, b"GGUF", "GGUF, of llama.cpp"),
    (0, b"ftrt", "an engine of TensorRT"),
    (4, b"TFL3", "a model of TensorFlow Lite"),
    (4, b"ET12", "a program of ExecuTorch"),
    (0, b"\x89PNG", "an image"),
    (0, b"\xff\xd8\xff", "an image"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\3\4", "an archive: unpack it"),
    (0, b"\x1f\x8b", "an archive: unpack it"),
    (0, b"7z\xbc\xaf", "an archive: unpack it"),
    (0, b"Rar!", "an archive: unpack it"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
    *(
        (4, b"ftyp" + brand, "a video")
        for brand in (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"M4V", b"qt", b"3gp")
    ),
)


def foreign_kind(start: bytes) -> str | None:
    """What a file is by its first bytes, such as "a video"; None: nothing that is known here."""
    return next((said for place, mark, said in _MARKS if start.startswith(mark, place)), None)
