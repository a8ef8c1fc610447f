"""Builds the network that flags ask for, and settles the input that its weights need."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

import models
from models.errors import OptionError
from models.inputs import InputConfig
from models.network import Network
from utils.console import log, warn
from utils.errors import FlagError, FormatError, UserError
from utils.flags.inputs import INPUT_FLAGS, check_short_size
from utils.formats.published import is_published
from utils.weights.files import read_weights
from utils.weights.matching import fit_names
from utils.weights.notes import read_input_notes, read_network_notes

# Flags for options of some networks; the constructors take them under the same names.
NETWORK_OPTIONS = ("padding_type", "use_se", "drop_connect_rate", "deploy")
# The same for the trained network only, not for a teacher.
STUDENT_OPTIONS = ("dropout", "block_dropout", "use_last_conv", "class_expand", "strides")


# A network's option -> its flag, if the names differ.
FLAGS_OF_OPTIONS = {"image_size": "image_shape"}


def check_model(name: str, flag: str = "--model") -> None:
    """Raises `FlagError` with similar names if there is no network `name`; `flag` is the flag that named it."""
    try:
        models.check_name(name)
    except ValueError as error:
        raise FlagError(f"{flag}: {error}") from None


@contextlib.contextmanager
def explained_options() -> Iterator[None]:
    """Turns a network's errors about its options or image size into a `FlagError`."""
    try:
        yield
    except OptionError as error:
        flag = FLAGS_OF_OPTIONS.get(error.option, error.option)
        raise FlagError(f"--{flag}: {error.reason}") from None


@contextlib.contextmanager
def explained_sizes(model: str) -> Iterator[None]:
    """Turns errors about images or batches too small for the network `model` into a `FlagError`."""
    try:
        with explained_options():
            yield
    except (RuntimeError, ValueError) as error:
        if re.search("Output size is too small|Kernel size can't be greater than actual input size", str(error)):
            raise FlagError(f"--image_shape: the images are too small for {model}: give a larger size") from None
        if "Expected more than 1 value per channel when training" in str(error):
            raise FlagError(
                f"--batch_size: a batch norm of {model} gets a single value per channel: give at least two images per "
                "process (and per part, with --accumulate_steps), or a larger --image_shape"
            ) from None
        raise


def usual_input(name: str) -> dict[str, Any]:
    """The `INPUT_FLAGS` of a network's published weights."""
    return _flags_of(models.input_config(name))


def _flags_of(config: InputConfig) -> dict[str, Any]:
    return {
        "image_shape": [3, config.image_size, config.image_size],
        "resize_short_size": config.resize_short_size,
        "interpolation": config.interpolation,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "resize_mode": config.resize_mode,
        "resize_backend": config.resize_backend,
        "decode_backend": config.decode_backend,
        "channel_order": config.channel_order,
        "background": None,
        "image_depth_range": None,
    }


def noted_input(path: str, name: str, key: str | None = None) -> dict[str, Any]:
    """The `INPUT_FLAGS` that a weight file needs, if it says more about them than the network's name.

    Args:
        path: a file or folder of weights, of any kind.
        name: the network's name.
        key: the network's key in the file.

    Returns:
        The values that train.py noted; for PaddleClas's weights, the values of PaddleClas's evaluation; or nothing.
    """
    return read_input_notes(path) or paddleclas_input(path, name, key)


def paddleclas_input(path: str, name: str, key: str | None = None) -> dict[str, Any]:
    """PaddleClas's `INPUT_FLAGS` for a network, if they are unusual and the file has PaddleClas's weights."""
    check_model(name)
    theirs = _flags_of(models.input_config(name, "PaddleClas"))
    if theirs == usual_input(name):
        return {}
    with torch.device("meta"):
        model = models.build(name)
    try:
        spoken = fit_names(model, read_weights(path), resize=False, key=key).vocabulary
    except (FormatError, UserError):
        return {}  # loading them reports it
    return theirs if spoken == "PaddleClas" else {}


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Values as they are typed on a command line: {"image_shape": [3, 32, 32]} becomes --image_shape 3 32 32."""
    return [f"--{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in values.items()]


def resolve_input(args: argparse.Namespace, noted: Mapping[str, Any] | None = None) -> None:
    """Fills in the input flags that were not given with the network's published values.

    An image size without --resize_short_size keeps the network's share of the image, usually 224/256 of a side.

    Args:
        args: the flags; changed in place.
        noted: the values that the network's weights were trained with, which override the published ones; see
            `noted_input`.

    Raises:
        FlagError: there is no such network, or the sizes contradict each other.
    """
    check_model(args.model)
    usual = usual_input(args.model)
    own = usual | dict(noted or {})
    if args.crop_size is not None:
        square = [3, args.crop_size, args.crop_size]
        if "image_shape" in args.given and args.image_shape != square:
            raise FlagError("--crop_size: --image_shape gives another size: give only one of them")
        args.image_shape = square
    elif "image_shape" not in args.given:
        args.image_shape = own["image_shape"]
    if args.image_shape[0] != 3:
        height, width, last = args.image_shape
        shape = f"3 {height} {width}" if last == 3 else f"3 {width} {last}"  # 224 224 3 has the channels last
        raise FlagError(
            f"--image_shape: the first number must be 3, not {args.image_shape[0]}, as all images are read as RGB "
            f"(grey ones too): give --image_shape {shape}"
        )
    for name in INPUT_FLAGS:
        if name not in (*args.given, "image_shape", "resize_short_size"):
            setattr(args, name, own[name])
    if "resize_short_size" not in args.given:
        args.resize_short_size = own["resize_short_size"]
        if args.image_shape != own["image_shape"] and args.resize_mode in ("short", "crop"):
            # In proportion to the short sides: for images with the shape's aspect ratio the crop then shows the same
            # share. (For square images it shows more, as `short` never resizes below the crop.)
            share = own["resize_short_size"] / min(own["image_shape"][1:])
            args.resize_short_size = round(min(args.image_shape[1:]) * share)
            shape = " ".join(map(str, args.image_shape))
            log(f"using --resize_short_size {args.resize_short_size} for --image_shape {shape}")
    check_short_size(args.resize_short_size, tuple(args.image_shape[1:]), args.resize_mode)
    taken = {
        name: value
        for name, value in own.items()
        if name not in args.given and getattr(args, name) == value != usual[name]
    }
    if taken:
        source = args.pretrained_model or args.checkpoint
        log(f"using the input that {source} was trained with: {', '.join(as_flags(taken))}")


def _strides(texts: list[str]) -> tuple[tuple[int, int], ...]:
    """Vertical and horizontal strides from texts N or HEIGHTxWIDTH."""
    sizes = ([int(part) for part in text.split("x")] for text in texts)
    return tuple((size[0], size[-1]) for size in sizes)


def _student_options(args: argparse.Namespace, name: str, accepted: Mapping[str, Any]) -> dict[str, Any]:
    """The options that flags set for the trained network `name`, but not for a teacher.

    Args:
        accepted: the parameters of its constructor.

    Raises:
        FlagError: it has no such option.
    """
    options = {}
    if "drop_path" in args.given:
        if "drop_path_rate" not in accepted:
            if "drop_connect_rate" in accepted:
                raise FlagError(f"--drop_path: {name} has --drop_connect_rate instead: give that")
            raise FlagError(f"--drop_path: {name} has no stochastic depth: leave the flag out")
        options["drop_path_rate"] = args.drop_path
    for option in STUDENT_OPTIONS:
        if option in args.given:
            if option not in accepted:
                raise FlagError(f"--{option}: {name} has no such option: leave the flag out")
            options[option] = _strides(args.strides) if option == "strides" else getattr(args, option)
    return options


def settle_network(args: argparse.Namespace, path: str) -> Mapping[str, Any]:
    """Takes --model, --class_dim and --multi_label from the weights' notes unless they were given, and logs them.

    Args:
        args: the flags; changed in place.
        path: the weights.

    Returns:
        The notes.
    """
    noted = read_network_notes(path)
    own = args.values()  # the flags that the script takes
    taken = {name: value for name, value in noted.items() if name not in args.given and value != own.get(name, value)}
    vars(args).update(taken)
    if taken:
        log(f"using the notes in {path}: {', '.join(as_flags(taken))}")
    return noted


def note_unknown_input(args: argparse.Namespace, noted: Mapping[str, Any]) -> None:
    """Logs the input that is assumed for --pretrained_model if it is not noted, given or published."""
    if noted or "image_shape" in args.given or is_published(args.pretrained_model, args.class_dim):
        return
    shown = as_flags({name: getattr(args, name) for name in ("image_shape", "resize_short_size")})
    log(
        f"{args.pretrained_model} does not say what input it was trained with: assuming the input of {args.model}'s "
        f"published weights, {' '.join(shown)} and so on"
    )


def build_model(args: argparse.Namespace, name: str | None = None) -> Network:
    """Builds the network --model (or `name`) with the flags that are options of its constructor.

    Raises:
        FlagError: there is no such network, or it does not take an option or the --image_shape.
    """
    student, name = name is None, str(args.model if name is None else name)
    check_model(name)
    accepted = inspect.signature(getattr(models, name)).parameters
    options = _student_options(args, name, accepted) if student else {}
    if not student and args.teacher_strides:
        if "strides" not in accepted:
            raise FlagError(f"--teacher_strides: {name} has no such option: leave the flag out")
        options["strides"] = _strides(args.teacher_strides)
    for option in NETWORK_OPTIONS:
        if option in accepted:
            if option in args.given:
                options[option] = getattr(args, option)
        elif student and option in args.given:
            warn(f"--{option} has no effect: {name} has no such option")
    if "image_size" in accepted:
        height, width = args.image_shape[1:]
        if height != width:
            raise FlagError(f"--image_shape: {name} takes square images only, not {height} x {width}")
        options["image_size"] = height
    with explained_options():
        model = models.build(name, class_dim=args.class_dim, **options)
    if not args.with_inplace:
        for module in model.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 (a plain attribute that PyTorch's types lack)
    return model
