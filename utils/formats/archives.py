"""Reads the files of an archive into memory; nothing is written to disk.

Links, devices and names that point outside the archive are refused even so, as are archives that unpack to much more
than weights could. All functions raise `FormatError` for what they cannot or will not read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from utils.errors import FormatError

# Far more than the tensors of any network and its optimizer.
MAX_FILES = 20_000

# Weights are nearly random and compress little; the zeros of a fresh optimizer compress well. A file that unpacks to
# more than both bounds is a zip bomb.
_MAX_GROWTH = 20
_MIN_LIMIT = 256 << 20

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def is_compressed(head: bytes) -> bool:
    """Whether `decompress` knows a file that starts with `head`."""
    return head.startswith(tuple(_OPENERS))


def is_tar(head: bytes) -> bool:
    """Whether a file whose first 512 bytes are `head` is a tar archive, by the checksum in them."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _limit(size: int) -> int:
    """The largest allowed size of a compressed file's content."""
    return max(_MIN_LIMIT, _MAX_GROWTH * size)


def decompress(path: Path) -> bytes:
    """The content of a .gz, .bz2 or .xz file."""
    limit = _limit(path.stat().st_size)
    content = io.BytesIO()
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        opener = next(opener for magic, opener in _OPENERS.items() if head.startswith(magic))
        with opener(path) as stream:
            while chunk := stream.read(1 << 22):
                content.write(chunk)
                if content.tell() > limit:
                    raise FormatError(f"refused: it unpacks to more than {limit >> 20} MB")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"the compressed file is damaged ({error})") from None
    return content.getvalue()


def _check_member(name: str, ordinary: bool) -> None:
    if not ordinary:
        raise FormatError(f"refused: {name!r} in it is a link or a special file")
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
        raise FormatError(f"refused: {name!r} in it points outside the archive")


# What tarfile raises for a damaged archive.
TAR_ERRORS = (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError, EOFError)


def tar_headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar archive in order.

    Raises:
        FormatError: a member has a negative size, at which tarfile would go back and loop for ever.
    """
    read_to = 0
    while (member := archive.next()) is not None:
        if archive.offset <= read_to or member.size < 0:
            raise FormatError(f"the archive is damaged at byte {read_to} (a negative size)")
        read_to = archive.offset
        yield member


def tar_members(buffer: bytes | mmap.mmap) -> dict[str, memoryview]:
    """The files of an uncompressed tar archive by name, as views of it."""
    members = {}
    view = memoryview(buffer)
    try:
        with tarfile.open(fileobj=io.BytesIO(buffer) if isinstance(buffer, bytes) else buffer, mode="r:") as archive:
            for number, member in enumerate(tar_headers(archive), 1):
                if number == MAX_FILES:
                    raise FormatError(f"holds {MAX_FILES} files or more: not an archive of weights")
                _check_member(member.name, member.isfile() or member.isdir())
                end = member.offset_data + member.size
                if member.issparse() or end > len(view):
                    raise FormatError(f"the archive is cut short within {member.name!r}")
                if member.isfile():
                    members[member.name.removeprefix("./")] = view[member.offset_data : end]
            # tarfile stops at a header it cannot read, as if the archive ended there; a real end is zeros.
            if bytes(view[archive.offset : archive.offset + tarfile.BLOCKSIZE]).strip(b"\0"):
                raise FormatError(f"the archive is damaged at byte {archive.offset}")
    except FormatError:
        raise
    except TAR_ERRORS as error:
        raise FormatError(f"the archive is damaged ({error})") from None
    return members


# What zipfile raises for a damaged archive; RuntimeError if it is encrypted or uses an unknown compression.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    OSError,
)


def zip_names(path: Path) -> list[str]:
    """The names of the files of a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except ZIP_ERRORS as error:
        raise FormatError(f"the archive is damaged ({error})") from None


def zip_members(path: Path) -> dict[str, bytes]:
    """The files of a zip archive by name."""
    size = path.stat().st_size
    limit = _limit(size)
    members = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > limit:
                raise FormatError(f"refused: more than {MAX_FILES} files, or they unpack to more than {limit >> 20} MB")
            # zipfile allocates as much memory as it is asked to read.
            if any(entry.compress_size > size for entry in entries):
                raise FormatError("the archive is cut short")
            for entry in entries:
                kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 if the archive was not written on Unix
                _check_member(entry.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                if not entry.is_dir():
                    members[entry.filename] = archive.read(entry)
    except FormatError:
        raise
    except ZIP_ERRORS as error:
        raise FormatError(f"the archive is damaged ({error})") from None
    return members
