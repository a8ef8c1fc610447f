"""The C library's memory allocator, as tensors on a CPU want it."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """Has the C library keep freed memory for the next tensor (glibc only).

    By default it hands large blocks back to the system, and every result of every layer is made of new pages, which
    costs more than many a layer's arithmetic.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            library.mallopt(mmap_threshold, 1 << 30)
            library.mallopt(trim_threshold, (1 << 31) - 1)
