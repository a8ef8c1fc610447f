"""What operating systems do differently: Linux, macOS and Windows, each as well as it can."""

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

# Seconds for which Windows is asked again to rename what somebody has open: a virus scanner or an indexer lets go soon.
RENAME_PATIENCE = 2.0

_seeking = threading.Lock()


def usable_processors() -> int:
    """Processors that this process may run on. (macOS and Windows: those that there are.)"""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> float:
    """Bytes of memory that this process may still take: of the machine or, where it has less, of its container.

    Infinite where the system does not say (macOS, Windows).
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
    """The user's folder for what can be made again: XDG_CACHE_HOME where that is set, else the system's own."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder)
    if WINDOWS:
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def open_at_once(path: str) -> int:
    """A descriptor to read a file by, without waiting for somebody to write into it if it is a pipe.

    Raises:
        OSError: it cannot be opened.
        ValueError: there is a null byte in its name.
    """
    # Windows has no pipes among its files, and needs to be told that it is to leave the ends of lines alone.
    flags = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    return os.open(path, sum(flags, os.O_RDONLY))


def read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """`size` bytes of an unbuffered file from `offset` on, or fewer at its end; threads may read at the same time."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with _seeking:
        file.seek(offset)
        return file.read(size)


def replace(source: str | Path, target: str | Path) -> None:
    """Renames a file or folder; a file that is there already is replaced.

    On Windows nothing can be renamed, or replaced, that somebody has open: there it is tried for `RENAME_PATIENCE`.

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
    """Has the system write a file or folder out, so that a power cut cannot undo a rename that follows.

    Windows writes folders out by itself, and files only by a descriptor that may write.

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
    """Holds a lock on a folder, to say that it is in use, for the block or as long as the process lives.

    Yields:
        Whether nobody else held it. Windows, and some file systems, have no locks on folders: there it is False, too.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens none, or it has just gone
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
    """Has the C library keep freed memory for what comes next (glibc only).

    By default it hands large blocks back to the system, and every result of every layer is made of new pages, which
    costs more than many a layer's arithmetic.

    Args:
        largest: bytes of a block that is kept; of all, it is twice that.
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
    """Processes that are started in the block do not get these signals, from their first moment on.

    Windows has no such thing: there processes have to ignore them by themselves (`ignore_interrupts`).
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
    """Processes that are spawned in the block do not import the script that runs, which takes seconds with PyTorch.

    What they are told to do has to be in a module of its own.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def ignore_interrupts() -> None:
    """What Ctrl-C, which reaches all processes of a console, means is the main process's to decide; for workers."""
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def after_fork(function: Callable[[], None]) -> None:
    """Has a function called in every process that is forked from this one. (Windows forks none.)"""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
