"""Reading files where they are, and writing them whole."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError
from utils.system import replace, sync

# Smaller files are read, not mapped: a mapped one stays open, and a process may have 1,024 open files.
_SMALL = 1 << 20


def read_file(path: Path) -> bytes | mmap.mmap:
    """The content of a file; of a large one it is mapped into memory, and read where it is looked at.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _SMALL:
            return file.read(size)  # no more: a device never ends
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def write_text(path: Path, text: str, flag: str) -> None:
    """Writes a text file under a temporary name and renames it, so that nobody ever sees half of it.

    Raises:
        UserError: naming `flag`, if it cannot be written.
    """
    with written_whole(path, flag) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files in no encoding


def check_can_write(path: Path, flag: str) -> None:
    """Finds out, before there is any work to lose, whether a file can be written.

    Raises:
        UserError: naming `flag`, if it cannot.
    """
    existed = os.path.exists(path)  # False, too, of a path that cannot be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(path, "ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"{flag}: cannot write {path}: {error.strerror}") from None


@contextmanager
def written_whole(path: Path, flag: str) -> Iterator[Path]:
    """Lends a temporary path for a file or folder, and renames what was written there to `path` at the end.

    Raises:
        UserError: naming `flag`, if it cannot be written; nothing is left behind then.
    """
    with _explained(path, flag), _moved_into(path.parent) as folder:
        yield folder / path.name


@contextmanager
def written_together(folder: Path, flag: str) -> Iterator[Path]:
    """Lends a temporary folder, and moves the files that were written there into `folder` at the end.

    Raises:
        UserError: naming `flag`, if they cannot be written, or put in place; only in the second case, which a folder of
            the name of one of the files can cause, may some be in `folder`.
    """
    with _explained(folder, flag), _moved_into(folder) as temporary:
        yield temporary


@contextmanager
def _explained(path: Path, flag: str) -> Iterator[None]:
    """Turns what the system says into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{flag}: cannot write {path}: {error.strerror or error}") from None


@contextmanager
def _moved_into(folder: Path) -> Iterator[Path]:
    """Lends a folder of its own within `folder`, on the same disk, and moves everything from there up at the end."""
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=folder, ignore_cleanup_errors=True) as name:
            temporary = Path(name)
            yield temporary
            for path in temporary.rglob("*"):
                sync(path)
            for path in sorted(temporary.iterdir()):
                replace(path, folder / path.name)
            with suppress(OSError):  # not all file systems do that
                sync(folder)
    finally:
        if not existed:
            with suppress(OSError):  # it is not empty if all went well
                folder.rmdir()
