"""Differences between operating systems: Linux, macOS and Windows."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

WINDOWS = os.name == "nt"

# Seconds to retry renaming a file that is open on Windows: a virus scanner or an indexer closes it soon.
RENAME_PATIENCE = 2.0

_seeking = threading.Lock()


def usable_processors() -> int:
    """Number of processors that this process may run on. (macOS and Windows: all processors.)"""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> float:
    """Bytes of memory that this process may still use: the machine's or, if that is less, its container's.

    Infinite if the system does not report it (macOS, Windows).
    """
    found = [float("inf")]
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="ascii") as file:
        found.append(float(next(line for line in file if line.startswith("MemAvailable:")).split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            numbers = [int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")) for name in (limit, used)]
            found.append(max(0.0, float(numbers[0] - numbers[1])))
    return min(found)


def cache_folder() -> Path:
    """The user's cache folder: XDG_CACHE_HOME if it is set, else the system's default."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder)
    if WINDOWS:
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def open_at_once(path: str) -> int:
    """A descriptor for reading a file; does not wait for a writer if the file is a pipe.

    Raises:
        OSError: it cannot be opened.
        ValueError: its name contains a null byte.
    """
    # Windows has no pipes in its file system, and must be told not to translate line ends.
    flags = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    return os.open(path, sum(flags, os.O_RDONLY))


def read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """`size` bytes of an unbuffered file from `offset` on, or fewer at its end; several threads may read at once."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with _seeking:
        file.seek(offset)
        return file.read(size)


def replace(source: str | Path, target: str | Path) -> None:
    """Renames a file or folder; replaces an existing file.

    Windows cannot rename or replace an open file; there it retries for `RENAME_PATIENCE`.

    Raises:
        OSError: it cannot be.
    """
    deadline = time.monotonic() + RENAME_PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def sync(path: str | Path) -> None:
    """Flushes a file or folder to disk, so that a power cut cannot undo a later rename.

    Windows flushes folders by itself, and files only through a writable descriptor.

    Raises:
        OSError: it cannot.
    """
    if WINDOWS and os.path.isdir(path):
        return
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[bool]:
    """Holds a lock on a folder, to mark it as in use, for the block or until the process ends.

    Yields:
        Whether nobody else held it; also False on Windows and on file systems without locks on folders.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders, or it was just deleted
        yield False
        return
    try:
        yield _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, ImportError):
        return False
    return True


def keep_freed_memory(largest: int = 1 << 30) -> None:
    """Makes the C library keep freed memory for reuse (glibc only).

    By default it returns large blocks to the system, so every layer's output needs new pages, which costs more than the
    arithmetic of many layers.

    Args:
        largest: largest block to keep, in bytes; in total, twice that is kept.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            library.mallopt(mmap_threshold, largest)
            library.mallopt(trim_threshold, min(2 * largest, (1 << 31) - 1))


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Keeps Python from searching for reference cycles meanwhile.

    Whoever makes 100,000 objects and keeps them makes it search again and again, and in vain: a quarter of the time
    that loading a program takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def signals_kept_from_children(*numbers: int) -> Iterator[None]:
    """Processes started in the block do not receive these signals, from their first moment on.

    Windows has no such mask; there, processes must ignore the signals themselves (`ignore_interrupts`).
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Processes spawned in the block do not import the running script, which takes seconds with PyTorch.

    The functions that they run must be in a separate module.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def ignore_interrupts() -> None:
    """For workers: ignores Ctrl-C, which reaches all processes of a console but is for the main process to handle."""
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def after_fork(function: Callable[[], None]) -> None:
    """Calls a function in every process forked from this one. (Windows does not fork.)"""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
