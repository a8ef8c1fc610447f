"""Reads files, and writes them atomically."""

from __future__ import annotations

import difflib
import itertools
import mmap
import os
import shutil
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from utils import system
from utils.console import warn
from utils.errors import FormatError, UserError, of_writing
from utils.system import replace, sync

# Files up to this size in bytes are read, not mapped: a mapped file stays open, and a process may have only 1,024 open
# files; and truncating a mapped file kills the process without a message (SIGBUS).
LARGE = 1 << 28


def similar_path(path: str) -> str:
    """What to add to the message that there is no such file: one that was probably meant, or nothing.

    It is the path without the quotes and blanks that copying brings along and with / for Windows's \\, or a file of the
    same folder that is called almost so.
    """
    plain = path.strip(" \t'\"\u2018\u2019\u201c\u201d").replace("\\", "/").rstrip("/")
    folder, name = os.path.split(plain)
    if os.path.exists(plain):
        return f"; did you mean {plain}?" if plain != path else ""
    with suppress(OSError, ValueError):
        names = [entry.name for entry in itertools.islice(os.scandir(folder or os.curdir), 10_000)]
        alike = [other for other in names if name.lower() in (other.lower(), os.path.splitext(other.lower())[0])]
        if close := alike or difflib.get_close_matches(name, names, 1, 0.8):
            return f"; did you mean {os.path.join(folder, min(close))}?"
    return ""


def read_file(path: Path, limit: int = LARGE) -> bytes | mmap.mmap:
    """The content of a file. A file longer than `limit` is mapped into memory and read on access.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= max(0, limit):
            return file.read(size)  # no more, as a device never ends
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_text(path: str | Path, limit: int) -> str:
    """The content of a small text file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        limit: most MB to read, as a device never ends.

    Raises:
        OSError: it cannot be read.
        FormatError: it is longer, or is not text.
    """
    with open(path, "rb") as file:
        content = file.read((limit << 20) + 1)
    if len(content) > limit << 20:
        raise FormatError(f"it is larger than {limit} MB")
    return as_text(content)


def as_text(content: bytes) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark; raises `FormatError`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError("not a text file in UTF-8") from None


def write_text(path: Path, text: str, flag: str) -> None:
    """Writes a text file under a temporary name and renames it, so that no reader sees half of it.

    Raises:
        UserError: naming `flag`, if it cannot be written.
    """
    with written_whole(path, flag) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names may not be valid UTF-8


def check_can_write(path: Path, flag: str) -> None:
    """Checks in advance, before any work could be lost, that a file can be written.

    Raises:
        UserError: naming `flag`, if it cannot.
    """
    if is_stream(path):  # opening a pipe would wait for its reader
        if not os.access(path, os.W_OK):
            raise UserError(f"{flag}: cannot write {path}: Permission denied")
        return
    existed = os.path.exists(path)  # also False for an impossible path
    with _explained(path, flag):
        path.parent.mkdir(parents=True, exist_ok=True)
        open(path, "ab").close()
        if not existed:
            Path(os.path.realpath(path)).unlink()  # a dangling link stays
        tempfile.TemporaryFile(dir=path.parent).close()  # it is written beside it first


def check_can_write_into(folder: Path, flag: str) -> None:
    """The same for a folder, which need not exist yet."""
    with _explained(folder, flag), _there(folder):
        tempfile.TemporaryFile(dir=folder).close()


def is_stream(path: Path) -> bool:
    """Whether a path leads to a device, a pipe or a stream of this process, which is written to, never replaced."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    of_process = os.fspath(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return of_process or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def written_whole(path: Path, flag: str) -> Iterator[Path]:
    """Yields a temporary path for a file or folder and renames the result to `path` at the end.

    If `path` is a link, its target is replaced; if it is a device or a pipe, the content is copied to it.

    Raises:
        UserError: naming `flag`, if it cannot be written; nothing is left behind then.
    """
    with _explained(path, flag):
        if is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder, path.name)
                with open(Path(folder, path.name), "rb") as source, open(path, "ab") as target:
                    shutil.copyfileobj(source, target)
            return
        path = Path(os.path.realpath(path))
        with _moved_into(path.parent) as folder:
            yield folder / path.name


@contextmanager
def written_together(folder: Path, flag: str) -> Iterator[Path]:
    """Yields a temporary folder and moves the files written there into `folder` at the end.

    Raises:
        UserError: naming `flag`, if they cannot be written or moved. Only if moving fails, because a folder has the
            name of one of the files, may some of them be in `folder`.
    """
    with _explained(folder, flag), _moved_into(folder) as temporary:
        yield temporary


@contextmanager
def _explained(path: Path, flag: str) -> Iterator[None]:
    """Turns errors of the system or of a library that writes into a `UserError`."""
    try:
        yield
    except Exception as error:
        if (why := of_writing(error)) is None:
            raise
        raise UserError(f"{flag}: cannot write {path}: {why}") from None


# Names of the folders that hold unfinished files; they include the writing machine's name.
_UNFINISHED = ".unfinished."


@contextmanager
def _moved_into(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder inside `folder`, so on the same disk, and moves its content up at the end."""
    own = f"{_UNFINISHED}{socket.gethostname()}."
    with _tidy_when_told_to_end(), _there(folder):
        _clear_away(folder, own)
        with (
            tempfile.TemporaryDirectory(prefix=own, dir=folder, ignore_cleanup_errors=True) as name,
            system.held(Path(name)),
        ):
            temporary = Path(name)
            yield temporary
            for path in temporary.rglob("*"):
                sync(path)
            for path in sorted(temporary.iterdir()):
                replace(path, folder / path.name)
            with suppress(OSError):  # not all file systems support that
                sync(folder)


@contextmanager
def _there(folder: Path) -> Iterator[None]:
    """Makes a folder, and removes it again if it is empty after the block."""
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        if not existed:
            with suppress(OSError):  # it is not empty if the block succeeded
                folder.rmdir()


@contextmanager
def _tidy_when_told_to_end() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP, if they would end the process, end the block first; a second signal ends the process at
    once.
    """
    received: list[int] = []

    def end_block(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(number)
        raise KeyboardInterrupt

    numbers = []
    if threading.current_thread() is threading.main_thread():  # no other may
        known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        numbers = [number for number in known if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end_block)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])


@cache
def _name_left(folder: Path) -> None:
    """Reports a folder of another machine once, as only the user can know whether it is left over."""
    warn(f"{folder} belongs to a process on another machine: delete it unless that process is still writing")


def _clear_away(folder: Path, own: str) -> None:
    """Deletes the unfinished files that killed processes of this machine left in a folder, and names those possibly in
    use.

    Args:
        folder: where to look.
        own: prefix of the names that this machine writes.
    """
    for left in folder.glob(f"{_UNFINISHED}*"):
        if not left.name.startswith(own):
            _name_left(left)
            continue
        with system.held(left) as is_free:
            if is_free:
                shutil.rmtree(left, ignore_errors=True)
