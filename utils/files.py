"""Writing small files whole."""

from __future__ import annotations

import os
from pathlib import Path

from utils.errors import UserError


def write_text(path: Path, text: str, flag: str) -> None:
    """Writes a text file under a temporary name and renames it, so that nobody ever sees half of it.

    Raises:
        UserError: naming `flag`, if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{flag}: cannot write {path}: {error.strerror}") from None
