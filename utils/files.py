"""Writing files whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError


def write_text(path: Path, text: str, flag: str) -> None:
    """Writes a text file under a temporary name and renames it, so that nobody ever sees half of it.

    Raises:
        UserError: naming `flag`, if it cannot be written.
    """
    with written_whole(path, flag) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_can_write(path: Path, flag: str) -> None:
    """Finds out, before there is any work to lose, whether a file can be written.

    Raises:
        UserError: naming `flag`, if it cannot.
    """
    existed = os.path.exists(path)  # False, too, of a path that cannot be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(path, "ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"{flag}: cannot write {path}: {error.strerror}") from None


@contextmanager
def written_whole(path: Path, flag: str) -> Iterator[Path]:
    """Lends a temporary path for a file or folder, and renames what was written there to `path` at the end.

    Raises:
        UserError: naming `flag`, if it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{flag}: cannot write {path}: {error.strerror or error}") from None
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # it may not even be possible for it to exist
                temporary.unlink()
