"""What image codecs print to the standard error of the process.

libjpeg and libpng write there by themselves, past Python, and without the name of the file. It is caught, and given to
whoever called the codec.
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

# How much of it is looked at.
_LONGEST = 4096


class Listening:
    """A context in which file descriptor 2 leads to a file, for all threads.

    Contexts may lie within each other, and overlap in several threads: the first turns the descriptor, which takes
    longer than looking whether anything was printed, and the last turns it back.

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
        """What was printed since it was last asked, in one line; empty if nothing was.

        libpng's warnings are left out: they are of what is beside the pixels, profiles, texts, dates.
        """
        if self._printed is None or not self._printed[0]:
            return ""
        with self._lock:
            text = self._printed[:].rstrip(b"\0").decode(errors="replace")
            self._printed[:] = bytes(_LONGEST)
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)
            with contextlib.suppress(OSError):  # Windows cuts no file that is mapped: it grows until the end
                os.ftruncate(self._file.fileno(), _LONGEST)
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("libpng warning:")]
        return "; ".join(dict.fromkeys(lines))

    def begin_anew(self) -> None:
        """In a forked process, which shares the position in the file, and perhaps a lock that no thread releases."""
        if self._terminal >= 0:
            os.dup2(self._terminal, 2)
        self.__init__()


LISTENING = Listening()
after_fork(LISTENING.begin_anew)


def heard(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Calls a codec, and returns its result and what it printed meanwhile, in one line."""
    if not LISTENING.inside:  # else it costs nothing
        with LISTENING:
            return heard(function, *arguments)
    try:
        result = function(*arguments)
    finally:
        said = LISTENING.taken()
    return result, said
