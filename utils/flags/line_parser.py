"""A parser of command lines that reports what is wrong in one line."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.errors import report_once
from utils.flags.habits import called_here


class LineParser(argparse.ArgumentParser):
    """Reports a bad command line in one line, exit code 2, and suggests the nearest flag for an unknown one.

    Args:
        description: printed by --help, line by line as it is written.
        **options: of `argparse.ArgumentParser`.
    """

    def __init__(self, description: str | None, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, allow_abbrev=False, **{"formatter_class": form, **options})

    def error(self, message: str) -> NoReturn:
        report_once(message, self.prog)
        sys.exit(2)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0].split("=")[0])
        return namespace

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            hint = " (--data_dir=FOLDER for a data set)" if "--data_dir" in self._option_string_actions else ""
            self.error(f"unexpected argument {word!r}: flags are written --name=value{hint} (see --help)")
        known = [option for action in self._actions for option in action.option_strings]
        if meant := called_here(word, [option.removeprefix("--") for option in known if option.startswith("--")]):
            self.error(f"unknown flag {word}: {meant}")
        near = difflib.get_close_matches(word, known, n=1)
        self.error(f"unknown flag {word}" + (f": did you mean {near[0]}?" if near else " (see --help)"))
