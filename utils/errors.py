"""How a mistake of the user's is reported: one line, an exit code, no traceback."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

# Seconds that a process leaves to another one for its line.
PATIENCE = 10.0


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


def report(message: str, script: str | None = None) -> None:
    """Prints the line of an error on stderr.

    Args:
        message: of a `UserError`.
        script: name to put before it; None: that of the script that runs.
    """
    print(f"{script or os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr, flush=True)


def report_once(message: str, script: str | None = None) -> None:
    """The same, for an error in the command line or the machine, that every process of a launcher meets here.

    The first one on this machine prints it. The others wait for the launcher to end them once that one has failed: if
    one of them failed before, the launcher would end the first before it has said why.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        report(message, script)
    else:
        time.sleep(PATIENCE)


def run_script(main: Callable[[], object]) -> NoReturn:
    """Runs a script's `main` and turns a `UserError` into one line on stderr and an exit code."""
    try:
        main()
    except UserError as error:
        report_once(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (`| head`) left early; a flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)
