"""A disk cache for parts of remote files, of limited size, shared by any number of processes."""

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

# Number of folders; a part's key chooses its folder. Each folder has a share of the space, which its writers enforce,
# so processes need no coordination.
FOLDERS = 1024
# Number of processes that may write at once without exceeding the space.
_WRITERS = 64
_CHECKSUM = 4  # bytes at the end of a file
_BLOCK = 4096  # that a file takes up whole ones of

_looking = threading.Lock()


class RangeCache:
    """Bytes by key, with the least recently used ones evicted.

    A file with any problem counts as missing; checksums reveal truncated and damaged ones.

    Args:
        folder: of the cache; created if missing.
        limit: total bytes on the disk.
        folders: see `FOLDERS`.
    """

    def __init__(self, folder: str, limit: int, folders: int = FOLDERS) -> None:
        self.folder, self.limit, self.folders = folder, limit, folders
        self._room: dict[str, int] = {}  # per folder, bytes that may be written before checking it again

    def get(self, key: str) -> bytes | None:
        """The bytes under a key; None if they are missing or incomplete."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                content = file.read()
            os.utime(path)  # mark as most recently used
        except OSError:
            return None
        data, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
        if checksum != _checksum(data):
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Stores bytes, unless they exceed half of a folder's share of the space; warns of that and of a full disk."""
        path = self._path(key)
        folder = os.path.dirname(path)
        size = -(-(len(data) + _CHECKSUM) // _BLOCK) * _BLOCK
        if size > (most := self.limit // self.folders // 2):
            _warn_of_size(self.limit, most)
            return
        try:
            os.makedirs(folder, exist_ok=True)
            self._make_room(folder, size)
            temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"  # if a killed process leaves it, it ages out
            with open(temporary, "wb") as file:
                file.write(data + _checksum(data))
            system.replace(temporary, path)
        except OSError as error:
            _warn_once(self.folder, reason(error))

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Lets one process on this machine do slow work while the others that need the result wait."""
        from filelock import FileLock  # slow to import, and not needed for local files

        folder = os.path.join(self.folder, "locks")
        lock = FileLock(os.path.join(folder, os.path.basename(self._path(key))[:2]))
        with contextlib.suppress(OSError):  # without locks, each process makes its own
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
        """Deletes a folder's least recently used files until there is room for `size` more bytes."""
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
    warn(f"--cache_dir {folder}: {why}: continuing without the cache")


@functools.cache
def _warn_of_size(limit: int, most: int) -> None:
    warn(
        f"--cache_size={limit / 1e9:g} has no room for pieces of more than {most >> 10} KB, so larger images and lists "
        "are not cached: raise it"
    )
