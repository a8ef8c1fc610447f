"""How a mistake of the user's is reported: one line, an exit code, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """A problem that the user can mend: bad input, a missing file, weights that do not fit.

    The message is one line that names the flag or file, the value and the remedy.

    Args:
        message: that line.
        exit_code: 2 for a command line that cannot work, 1 for everything met later.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FlagError(UserError):
    """A flag, or a combination of flags, that cannot work. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


class FormatError(ValueError):
    """A file is damaged, or not of the format it was read as.

    The message is the reason, without the file's name: who opened the file knows it, and makes a `UserError` of both.
    """


def run_script(main: Callable[[], object]) -> NoReturn:
    """Runs a script's `main` and turns a `UserError` into one line on stderr and an exit code."""
    script = os.path.basename(sys.argv[0])
    try:
        main()
    except UserError as error:
        print(f"{script}: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (`| head`) left early; a flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)
