"""Arrays that a process shares with its workers."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from multiprocessing import reduction

import numpy as np


class SharedArray:
    """A numpy array in memory that this process shares with its workers, forked or spawned.

    The memory is an anonymous file: unlike /dev/shm it has no size limit of its own (64 MB in a container).

    Attributes:
        array: the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("reader")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        if size >= 1 << 63:
            raise MemoryError(f"{size:.3g} bytes")
        os.ftruncate(fd, size)
        self._map(fd, shape, dtype)

    def _map(self, fd: int, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)
        self.array = np.frombuffer(mmap.mmap(fd, 0), dtype, math.prod(shape)).reshape(shape)

    def __getstate__(self) -> tuple:
        return reduction.DupFd(self._fd), self.array.shape, self.array.dtype

    def __setstate__(self, state: tuple) -> None:
        fd, shape, dtype = state
        self._map(fd.detach(), shape, dtype)
