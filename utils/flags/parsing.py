"""From a command line to flags: what was typed, and what holds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.flags.line_parser import LineParser
from utils.flags.table import GROUPS, SCRIPTS, Flag, flags_of


class Flags(argparse.Namespace):
    """The flags of one start of a script: an attribute for every flag there is.

    Each holds the value that counts. A script may settle one that was not given (`utils.weights.network.resolve_input`
    does), and one that it does not take holds its default.

    Attributes:
        script: whose flags they are, a key of `SCRIPTS`.
        given: the names of the flags that were typed. Neither changes.
    """

    script: str
    given: frozenset[str]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("script", "given") and name in self:
            raise AttributeError(f"{name} says what was typed, and is not changed")
        super().__setattr__(name, value)

    def values(self) -> dict[str, Any]:
        """The value of every flag that the script takes, by name, in the order of declaration."""
        return {flag.name: getattr(self, flag.name) for flags in flags_of(self.script).values() for flag in flags}


class _Store(argparse.Action):
    """Stores a value, or a list of values written with spaces or commas."""

    flag: Flag

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        flag = self.flag
        given = option_string.lstrip("-") if option_string else flag.name
        texts = [values] if flag.length in (None, "?") else [t for v in values for t in v.replace(",", " ").split()]
        if isinstance(flag.length, int) and len(texts) != flag.length:
            parser.error(f"--{given} takes {flag.length} values, got {len(texts)}: {' '.join(texts) or 'none'}")
        if not texts:
            parser.error(f"--{given} takes at least one value")
        try:
            parsed = [flag.kind(text) for text in texts]
        except (argparse.ArgumentTypeError, ValueError) as error:
            parser.error(f"--{given}: {error}")
        for value in parsed:
            if flag.choices and value not in flag.choices:
                parser.error(f"--{given}: {value!r} is not one of {', '.join(map(str, flag.choices))}")
        setattr(namespace, flag.name, parsed[0] if flag.length in (None, "?") else parsed)


def as_typed(value: Any) -> str:
    """A default as it is written on a command line."""
    if isinstance(value, list):
        return " ".join(as_typed(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def build_parser(script: str) -> LineParser:
    """The argument parser of one script, its flags grouped as in `GROUPS`."""
    parser = LineParser(
        SCRIPTS[script],
        prog=f"{script}.py",
        formatter_class=argparse.HelpFormatter,
        epilog="Booleans: True/False, 1/0, yes/no, on/off. Lists: spaces or commas.",
        argument_default=argparse.SUPPRESS,  # what is parsed is what was typed
    )
    for group, flags in flags_of(script).items():
        section = parser.add_argument_group(group)
        for flag in flags:
            default = flag.default_for(script)
            note = "required" if script in flag.required else f"default: {as_typed(default)}"
            action = section.add_argument(
                f"--{flag.name}",
                *(f"--{alias}" for alias in flag.aliases),
                dest=flag.name,
                action=_Store,
                nargs=flag.length if flag.length in (None, "?") else "+",
                const="*" if flag.length == "?" else None,
                metavar="|".join(map(str, flag.choices)) if flag.choices else "VALUE",
                help=f"{flag.help} ({note})".replace("%", "%%"),
            )
            setattr(action, "flag", flag)  # noqa: B010 (it is a `_Store`, which argparse's types have not)
    return parser


def _print_models(parser: argparse.ArgumentParser, pattern: str) -> NoReturn:
    """Answers --list_models, and ends the process."""
    from models.catalogue import short_list  # read only when asked for

    lines = short_list(pattern)
    if not lines:
        parser.error(f"--list_models: no network's name matches {pattern!r}; without a pattern all are listed")
    print("\n".join(lines))
    parser.exit()


def parse(script: str, argv: Sequence[str] | None = None) -> Flags:
    """Parses the command line of `script`.

    Args:
        script: a key of `SCRIPTS`.
        argv: the words after the script's name; None: those of this process.

    A command line that cannot be parsed ends the process with one line on stderr and exit code 2; --help and
    --list_models print what was asked for and end it with 0.
    """
    parser = build_parser(script)
    typed = vars(parser.parse_args(argv))
    if pattern := typed.get("list_models"):
        _print_models(parser, pattern)
    for flags in flags_of(script).values():
        for flag in flags:
            if script in flag.required and not typed.get(flag.name):
                parser.error(f"--{flag.name} is required (see --help)")
    defaults = {flag.name: flag.default_for(script) for flags in GROUPS.values() for flag in flags}
    return Flags(script=script, given=frozenset(typed), **{**defaults, **typed})
