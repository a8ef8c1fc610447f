"""Arrays that a process shares with its workers."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import uuid
import weakref
from multiprocessing import reduction

import numpy as np

from utils import system


class SharedArray:
    """A numpy array in memory that this process shares with its workers, forked or spawned.

    The memory is an anonymous file, which is not limited like /dev/shm (64 MB in a container). On Windows it is named
    memory, which disappears with the last process using it.

    Attributes:
        array: the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        if size >= 1 << 63:
            raise MemoryError(f"{size:.3g} bytes")
        if system.WINDOWS:
            self._map_named(f"reader-{uuid.uuid4()}", shape, dtype)
            return
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("reader")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, size)
        self._map(fd, shape, dtype)

    def _map(self, fd: int, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        self._memory = fd
        weakref.finalize(self, os.close, fd)
        self.array = np.frombuffer(mmap.mmap(fd, 0), dtype, math.prod(shape)).reshape(shape)

    def _map_named(self, name: str, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        """Opens the memory of that name, or creates it."""
        self._memory = name
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        memory = mmap.mmap(-1, size, tagname=name)  # pyright: ignore[reportCallIssue] (exists on Windows)
        self.array = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)

    def __getstate__(self) -> tuple:
        lent = self._memory if isinstance(self._memory, str) else reduction.DupFd(self._memory)
        return lent, self.array.shape, self.array.dtype

    def __setstate__(self, state: tuple) -> None:
        lent, shape, dtype = state
        if isinstance(lent, str):
            self._map_named(lent, shape, dtype)
        else:
            self._map(lent.detach(), shape, dtype)
