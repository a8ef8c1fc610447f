"""A command-line parser that reports errors in one line."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from utils.errors import report_once
from utils.flags.habits import called_here

# Dashes that text programs and web pages make of two hyphens.
LONG_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"

# What a word without a flag is likely to be, of the first of these flags that a script has.
SEVERAL = {
    "--image_path": "--image_path='photos/*.jpg', in quotes, for several images",
    "--data_dir": "--data_dir=FOLDER for a dataset",
}


class LineParser(argparse.ArgumentParser):
    """Reports a bad command line in one line with exit code 2, and translates unknown flags of other programs.

    Args:
        description: printed by --help with its line breaks.
        elsewhere: flags of other scripts, without dashes -> those scripts, as text.
        **options: for `argparse.ArgumentParser`.
    """

    def __init__(self, description: str | None, elsewhere: Mapping[str, str] | None = None, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, allow_abbrev=False, **{"formatter_class": form, **options})
        self.elsewhere = elsewhere or {}

    def error(self, message: str) -> NoReturn:
        report_once(message, self.prog)
        sys.exit(2)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        if any(re.match(r"-[A-Za-z][\w-]+(=|$)", word) and self._is_unknown(word) for word in args):
            self._refuse([word for word in args if self._is_unknown(word)])
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown)
        return namespace

    def _is_unknown(self, word: str) -> bool:
        """Whether a word is a flag, but none of these: argparse takes -class_dim for -c with the file lass_dim."""
        name, options = word.partition("=")[0], self._option_string_actions
        if not re.match("--?[A-Za-z]", word) or name in options:
            return False
        return word[:2] not in options or self._meant(name) is not None

    def _refuse(self, words: list[str]) -> NoReturn:
        """Ends the process with a line that names all unknown flags in `words` and our equivalents."""
        flags: dict[str, str] = {}
        arguments: list[str] = []
        for word in words:
            name, equals, _ = word.partition("=")
            if word[:1] in LONG_DASHES:
                flags[name] = f"a flag begins with two hyphens: --{name.lstrip(LONG_DASHES + '-')}"
            elif not word.startswith("-") and not (equals and self._meant(name)):
                if not flags:  # else perhaps the value of an unknown flag
                    arguments.append(word)
            elif meant := self._meant(name):
                flags[name] = meant
            elif re.match(r"-+[A-Za-z]", word):
                flags[name] = self._resembling(name.lstrip("-"))
        told = "; ".join(f"{name}{'' if said.startswith('(') else ':'} {said}" for name, said in flags.items())
        if flags and not arguments:
            self.error(f"unknown flag{'s' if len(flags) > 1 else ''} {told}")
        hint = next((f" ({said})" for flag, said in SEVERAL.items() if flag in self._option_string_actions), "")
        self.error(
            f"unexpected argument {(arguments or words)[0]!r}: write flags as --name=value{hint} (see --help)"
            + (f"; {told}" if flags else "")
        )

    def _resembling(self, name: str) -> str:
        """What to say of an unknown flag, without dashes, that means nothing elsewhere: which scripts take it, or which
        flags here begin so or are spelt nearly so.
        """
        if name in self.elsewhere:
            return f"a flag of {self.elsewhere[name]}"
        known = [word.lstrip("-") for action in self._actions for word in action.option_strings]
        near = [word for word in known if word.startswith(name)] if len(name) > 2 else []
        near = near[:3] or difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        return f"did you mean {' or '.join(f'--{word}' for word in near)}?" if near else "(see --help)"

    def _meant(self, word: str) -> str | None:
        """Our equivalent of an unknown flag; None if there is none."""
        options = {
            option.removeprefix("--"): action
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--")
        }
        switches = [name for name, action in options.items() if getattr(action, "const", None) == "True"]
        return called_here(word.partition("=")[0], options, switches)
