"""The output of a run: lines for people and scripts, and a progress bar."""

from __future__ import annotations

import os
import sys
from typing import Any

from utils.errors import UserError, say_on_stderr


def is_main_process() -> bool:
    """Whether this process prints and writes files (rank 0; the only process without a launcher)."""
    return int(os.environ.get("RANK", 0)) == 0


def log(line: str) -> None:
    """Prints a line, from the main process only, above any progress bar."""
    if is_main_process():
        bar = sys.modules.get("tqdm")
        if bar is not None and sys.stderr.isatty():
            bar.tqdm.write(line)
        else:
            print(line, flush=True)


def note(line: str) -> None:
    """Prints a line on stderr, apart from the script's results, from the main process only."""
    if is_main_process():
        say_on_stderr(line)


def warn(line: str) -> None:
    """Prints a warning on stderr, from the main process only."""
    if is_main_process():
        say_on_stderr(f"warning: {line}")


def progress(total: int, description: str, initial: int = 0) -> Any:
    """A tqdm bar on a terminal; without one (a pipe, a file, another process) a bar that shows nothing."""
    from tqdm import tqdm

    shown = is_main_process() and sys.stderr.isatty()
    return tqdm(total=total, desc=description, initial=initial, disable=not shown, leave=False, dynamic_ncols=True)


def report_unreadable(unreadable: dict[str, str]) -> None:
    """Reports how many files could not be read, with reasons for the first few.

    Args:
        unreadable: path -> reason, of all processes.
    """
    if unreadable:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(unreadable.items())[:5])
        more = ", ..." if len(unreadable) > 5 else ""
        were = "file was" if len(unreadable) == 1 else "files were"
        warn(f"{len(unreadable)} unreadable image {were} left out: {shown}{more}")


def check_readable(unreadable: dict[str, str], read: int) -> None:
    """Raises `UserError` if there were images and none of them could be read.

    Args:
        unreadable: path -> reason, of all processes.
        read: number of images that could be read, in all processes.
    """
    if unreadable and not read:
        path, reason = next(iter(unreadable.items()))
        if len(unreadable) == 1:
            raise UserError(f"the image cannot be read: {path}: {reason}")
        raise UserError(f"none of the {len(unreadable)} images can be read; the first: {path}: {reason}")
