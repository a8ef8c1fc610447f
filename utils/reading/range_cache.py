"""Parts of remote files, kept on the disk of this machine: at most so many bytes, for any number of processes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from utils import system
from utils.console import warn
from utils.errors import reason

# A part is kept in one of so many folders, by its key. Each has its share of the room, and is looked through by
# whoever writes into it: nothing has to be agreed on between processes.
FOLDERS = 1024
# As many processes may write at the same time without exceeding the room.
_WRITERS = 64
_CHECKSUM = 4  # bytes at the end of a file
_BLOCK = 4096  # that a file takes up whole ones of

_looking = threading.Lock()


class RangeCache:
    """Bytes by key: those used longest ago make room for new ones.

    Whatever goes wrong with a file, it counts as not there: one that was cut short or damaged has another checksum.

    Args:
        folder: where they are kept; made if it is not there.
        limit: bytes on the disk, of all together.
        folders: see `FOLDERS`.
    """

    def __init__(self, folder: str, limit: int, folders: int = FOLDERS) -> None:
        self.folder, self.limit, self.folders = folder, limit, folders
        self._room: dict[str, int] = {}  # of each folder, what may be written before it is looked through again

    def get(self, key: str) -> bytes | None:
        """What is kept under a key; None if there is nothing, or nothing whole."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                content = file.read()
            os.utime(path)  # used last
        except OSError:
            return None
        data, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
        if checksum != _checksum(data):
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keeps bytes, unless they are more than a folder's share of the room; a full disk is a warning."""
        path = self._path(key)
        folder = os.path.dirname(path)
        size = -(-(len(data) + _CHECKSUM) // _BLOCK) * _BLOCK
        if size > self.limit // self.folders // 2:
            return
        try:
            os.makedirs(folder, exist_ok=True)
            self._make_room(folder, size)
            temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"  # left by a killed process, it grows old
            with open(temporary, "wb") as file:
                file.write(data + _checksum(data))
            system.replace(temporary, path)
        except OSError as error:
            _warn_once(self.folder, reason(error))

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Has what takes long be made by one process of this machine, while others that need it wait."""
        from filelock import FileLock  # takes a while to import, and files on a disk need none

        folder = os.path.join(self.folder, "locks")
        lock = FileLock(os.path.join(folder, os.path.basename(self._path(key))[:2]))
        with contextlib.suppress(OSError):  # where there are no locks, each process makes its own
            os.makedirs(folder, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _path(self, key: str) -> str:
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        return os.path.join(self.folder, f"{int(digest[:8], 16) % self.folders:03x}", digest[8:40])

    def _make_room(self, folder: str, size: int) -> None:
        """Deletes the files of a folder that were used longest ago, until there is room for `size` bytes more."""
        with _looking:
            if self._room.get(folder, 0) >= size:
                self._room[folder] -= size
                return
        limit = self.limit // self.folders
        found = []
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # another process has deleted it
                status = entry.stat()
                found.append((status.st_mtime_ns, -(-status.st_size // _BLOCK) * _BLOCK, entry.path))
        found.sort()
        used = sum(size_ for _, size_, _ in found)
        if used + size > limit:
            for _, size_, path in found:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                used -= size_
                if used + size <= limit - limit // 8:
                    break
        with _looking:
            self._room[folder] = max(0, limit - used - size) // _WRITERS

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_room": {}}


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM, "little")


@functools.cache
def _warn_once(folder: str, why: str) -> None:
    warn(f"--cache_dir {folder}: {why}: what is fetched is not kept")
