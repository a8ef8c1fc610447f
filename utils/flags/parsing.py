"""Parses a command line into flags: the typed ones and their effective values."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from utils import PIXELS_VARIABLE
from utils.console import log
from utils.errors import FlagError, UserError, report_once
from utils.flags.kinds import AUTO, boolean, data_root, local_path
from utils.flags.line_parser import LineParser
from utils.flags.table import GROUPS, SCRIPTS, Flag, flags_of

# The scripts that take configurations of PaddleClas.
CONFIGURED = ("train", "eval", "infer", "predict", "reader")


class Flags(argparse.Namespace):
    """The flags of one run of a script, with an attribute for every flag.

    Each holds its effective value. A script may set a flag that was not given (as `utils.weights.network.resolve_input`
    does); a flag that it does not take holds its default.

    Attributes:
        script: whose flags they are, a key of `SCRIPTS`.
        given: the names of the flags that were typed, or that a PaddleClas configuration sets.
        typed: those of them on the command line itself.

    These three never change.
    """

    script: str
    given: frozenset[str]
    typed: frozenset[str]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("script", "given", "typed") and name in self:
            raise AttributeError(f"{name} records the command line and cannot be changed")
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
        texts = [values] if flag.length in (None, "?") else self._items(values)
        if texts[:1] == ["="]:
            parser.error(f"--{given}: write --{given}=VALUE, without blanks beside the =")
        if len(texts) == 1 and texts[0].lower() in flag.words:
            setattr(namespace, flag.name, flag.words[texts[0].lower()])
            return
        if isinstance(flag.length, int) and len(texts) != flag.length:
            words = f" or {', '.join(flag.words)}" if flag.words else ""
            such_as = f", such as {as_typed(flag.default)}" if flag.default else ""
            got = f"got {len(texts)}: {' '.join(texts) or 'none'}"
            parser.error(f"--{given} takes {flag.length} values{words}, {got}{such_as}")
        if not texts:
            parser.error(f"--{given} takes at least one value")
        try:
            parsed = [flag.kind(self._settled(text)) for text in texts]
        except (argparse.ArgumentTypeError, ValueError) as error:
            words = f" (or {', '.join(flag.words)})" if flag.words else ""
            parser.error(f"--{given}: {error}{words}")
        for value in parsed:
            if flag.choices and value not in flag.choices:
                parser.error(f"--{given}: {value!r} is not one of {', '.join(map(str, flag.choices))}")
        setattr(namespace, flag.name, parsed[0] if flag.length in (None, "?") else parsed)

    def _items(self, values: Sequence[str]) -> list[str]:
        """The values of a list, written with blanks or commas; of numbers, in brackets as Python has them, too."""
        text = " ".join(values)
        if self.flag.kind is not str and text[:1] + text[-1:] in ("[]", "()"):
            text = text[1:-1]
        return text.replace(",", " ").split()

    def _settled(self, text: str) -> str:
        """A value as it was meant: a choice in other capitals, or a path in the user's home, ~/, for which shells do
        not look behind a =."""
        if text.startswith("~/") and self.flag.kind in (str, data_root, local_path):
            return os.path.expanduser(text)
        alike = [str(choice) for choice in self.flag.choices or () if str(choice).lower() == text.lower()]
        return alike[0] if len(alike) == 1 else text


def as_typed(value: Any) -> str:
    """A default in command-line notation."""
    if isinstance(value, list):
        return " ".join(as_typed(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flags_elsewhere(script: str) -> dict[str, str]:
    """The flags that only other scripts take -> up to three of these scripts, as text."""
    found: dict[str, str] = {}
    for flag in (flag for flags in GROUPS.values() for flag in flags if script not in flag.scripts):
        *first, last = [f"{other}.py" for other in SCRIPTS if other in flag.scripts][:3]
        found[flag.name] = f"{', '.join(first)} and {last}" if first else last
    return found


def build_parser(script: str) -> LineParser:
    """The argument parser of one script, its flags grouped as in `GROUPS`."""
    parser = LineParser(
        SCRIPTS[script],
        elsewhere=_flags_elsewhere(script),
        prog=f"{script}.py",
        formatter_class=argparse.HelpFormatter,
        epilog="Booleans: True/False, 1/0, yes/no, on/off; the flag alone is True. Lists: spaces or commas.",
        argument_default=argparse.SUPPRESS,  # so the namespace has typed flags only
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
                nargs="?" if flag.kind is boolean else flag.length if flag.length in (None, "?") else "+",
                const="True" if flag.kind is boolean else "*" if flag.length == "?" else None,
                metavar="|".join(map(str, flag.choices)) if flag.choices else "VALUE",
                help=f"{flag.help} ({note})".replace("%", "%%"),
            )
            setattr(action, "flag", flag)  # noqa: B010 (it is a `_Store`, which argparse's types have not)
    if script in CONFIGURED:
        section = parser.add_argument_group("PaddleClas's configurations")
        section.add_argument(
            "-c",
            "--config",
            metavar="FILE.yaml",
            help="PaddleClas configuration that supplies settings; flags on the command line override it.",
        )
        section.add_argument(
            "-o",
            "--override",
            metavar="KEY=VALUE",
            action="extend",
            nargs="+",
            help="Override a value of the configuration, such as -o Global.epochs=30; may be repeated.",
        )
    return parser


def _print_networks(parser: argparse.ArgumentParser, typed: dict[str, Any]) -> None:
    """Answers --list_models and --recommend, if given, and ends the process."""
    from utils.flags import networks  # slow: reads the catalogue

    try:
        if networks.is_asked(typed):
            networks.answer(typed)
            parser.exit()
    except FlagError as error:
        parser.error(str(error))
    except UserError as error:
        report_once(str(error), parser.prog)
        parser.exit(1)


_announced: set[str] = set()


def _say(line: str) -> None:
    """Logs a line once, however often this process parses its command line."""
    if line not in _announced:
        _announced.add(line)
        log(line)


def _configured(parser: LineParser, script: str, typed: dict[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The flags of a PaddleClas configuration, overridden by the typed ones."""
    file, overrides = typed.pop("config", None), typed.pop("override", [])
    if file is None:
        if overrides:
            parser.error(f"-o {overrides[0]} overrides a configuration: give its file with -c FILE.yaml")
        return typed
    from utils.flags.paddleclas.translate import translate  # slow: imports YAML

    try:
        found = translate(script, os.path.expanduser(file), overrides)
    except FlagError as error:
        parser.error(str(error))
    if found.refusals:
        more = len(found.refusals) - 1
        parser.error(found.refusals[0] + (f" (and {more} more, the next: {found.refusals[1]})" if more else ""))
    for flag, why in found.needed.items():
        if flag not in typed and not (flag == "pretrained_model" and typed.get("checkpoint")):
            parser.error(why)
    found.flags = {name: value for name, value in found.flags.items() if name not in typed}
    for note in found.notes:
        _say(note)
    if found.idle:
        _say(f"{file}: these keys have no effect here: {', '.join(found.idle)}")
    words = found.words()
    own = [word for flag in typed for word in _typed_words(parser, flag, argv)]
    _say(f"{file} is the same as: {shlex.join(['python', f'{script}.py', *words, *own])}")
    return vars(parser.parse_args(words)) | typed


def _typed_words(parser: LineParser, name: str, argv: Sequence[str]) -> list[str]:
    """The words of the command line that gave a flag."""
    options = next(action.option_strings for action in parser._actions if action.dest == name)
    found: list[str] = []
    inside = False
    for word in argv:
        if word.startswith("-") and not _is_number(word):
            inside = word.partition("=")[0] in options
        if inside:
            found.append(word)
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def parse(script: str, argv: Sequence[str] | None = None) -> Flags:
    """Parses the command line of `script`, and its PaddleClas configuration, if any.

    Args:
        script: a key of `SCRIPTS`.
        argv: the words after the script's name; None: those of this process.

    A command line that cannot be parsed ends the process with one line on stderr and exit code 2; --help, --list_models
    and --recommend print their answer and end it with 0.
    """
    parser = build_parser(script)
    argv = sys.argv[1:] if argv is None else argv
    typed = vars(parser.parse_args(argv))
    given = _configured(parser, script, typed, argv)
    if script == "train":
        _print_networks(parser, given)
    for flags in flags_of(script).values():
        for flag in flags:
            if script in flag.required and not given.get(flag.name):
                parser.error(f"--{flag.name} is required (see --help)")
    if script != "train" and given.get("batch_size") == AUTO:
        parser.error("--batch_size=auto is for training: give a number")
    if "max_image_pixels" in given:
        os.environ[PIXELS_VARIABLE] = str(given["max_image_pixels"])
    defaults = {flag.name: flag.default_for(script) for flags in GROUPS.values() for flag in flags}
    return Flags(script=script, given=frozenset(given), typed=frozenset(typed), **{**defaults, **given})
