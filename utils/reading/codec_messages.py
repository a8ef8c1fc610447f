"""Captures what image codecs print to the process's standard error.

libjpeg and libpng write there directly, bypassing Python, and without the file's name. The text is captured and
returned to the caller of the codec.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from utils.system import after_fork

# Bytes of it to keep.
_LONGEST = 4096


class Listening:
    """A context that redirects file descriptor 2 to a file, for all threads.

    Contexts may be nested, and overlap in several threads: the first redirects the descriptor, which takes longer than
    checking for output, and the last restores it.

    Attributes:
        inside: how many contexts are open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = 0
        self._terminal = -1
        self._file: Any = None
        self._printed: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self.inside:
                self._turn()
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.inside -= 1
            if not self.inside and self._terminal >= 0:
                os.dup2(self._terminal, 2)
                os.close(self._terminal)
                self._terminal = -1

    def _turn(self) -> None:
        try:
            self._terminal = os.dup(2)
        except OSError:  # it is closed, and nothing can be printed
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it stays open)
            self._file.truncate(_LONGEST)
            self._printed = mmap.mmap(self._file.fileno(), _LONGEST)
        os.dup2(self._file.fileno(), 2)

    def taken(self) -> str:
        """The output since the last call, in one line; empty if there was none.

        Leaves out libpng's warnings, which concern metadata: profiles, texts, dates.
        """
        if self._printed is None or not self._printed[0]:
            return ""
        with self._lock:
            text = self._printed[:].rstrip(b"\0").decode(errors="replace")
            self._printed[:] = bytes(_LONGEST)
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)
            with contextlib.suppress(OSError):  # Windows cannot truncate a mapped file: it grows until the end
                os.ftruncate(self._file.fileno(), _LONGEST)
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("libpng warning:")]
        return "; ".join(dict.fromkeys(lines))

    def begin_anew(self) -> None:
        """Resets it in a forked process, which shares the file position, and perhaps a lock that no thread releases."""
        if self._terminal >= 0:
            os.dup2(self._terminal, 2)
        self.__init__()


LISTENING = Listening()
after_fork(LISTENING.begin_anew)


def heard(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Calls a codec, and returns its result and what it printed, in one line."""
    if not LISTENING.inside:  # else it costs nothing
        with LISTENING:
            return heard(function, *arguments)
    try:
        result = function(*arguments)
    finally:
        said = LISTENING.taken()
    return result, said
