"""Finds and reads the PaddlePaddle training state that --checkpoint names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import models
from models.names import published_names
from utils.errors import FormatError, UserError, one_line
from utils.formats.training_states import COUNTER, EMA_RATE, TrainingState, file_of, fluid_state, read_prefix
from utils.training.checkpoint import MANIFEST
from utils.weights import read_weights
from utils.weights.matching import linear_weights

ENDINGS = (".pdparams", ".pdopt", ".pdema", ".pdstates")

# State of fluid's optimizers per parameter.
_KINDS = (
    ("velocity",),
    ("momentum", "mean_square", "mean_grad"),
    ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"),
)


def find_original(
    path: Path, model: str | None = None, class_dim: int = 1000, flag: str = "--checkpoint"
) -> TrainingState | None:
    """The training state of PaddlePaddle at a path: a folder, a combined file, or a prefix.

    Args:
        path: its place; any file of a prefix will do.
        model, class_dim: the network's name and number of classes, which identify the content of a combined file
            without its program.
        flag: the flag that gave the path.

    Returns:
        None if it is something else: our checkpoint, weights alone, or nothing.

    Raises:
        UserError: the state is damaged or incomplete.
    """
    prefix = path.with_suffix("") if path.suffix in ENDINGS else path
    try:
        if any(file_of(prefix, ending).is_file() for ending in ENDINGS):
            return _read_prefix(prefix)
        ours = (path / MANIFEST).exists() or any(path.glob(f"*/{MANIFEST}"))
        if path.is_dir() and not ours:
            return _read_folder(path, model, class_dim)
        return _read_variables(path, model, class_dim) if path.is_file() else None
    except FormatError as error:
        raise UserError(f"{flag}: {path}: {one_line(error)}") from None
    except OSError as error:
        raise UserError(f"{flag}: {path} cannot be read: {error.strerror or error}") from None


def _read_prefix(prefix: Path) -> TrainingState:
    for ending, has in ((".pdparams", "the network"), (".pdopt", "the state of optimizer and schedule")):
        if not file_of(prefix, ending).is_file():
            remedy = f"; to start from the weights alone: train.py --pretrained_model={prefix}.pdparams"
            raise FormatError(
                f"{file_of(prefix, ending).name} is missing, which contains {has}: put it next to the others"
                + (remedy if ending == ".pdopt" else "")
            )
    return read_prefix(prefix)


def _read_folder(path: Path, model: str | None, class_dim: int) -> TrainingState | None:
    prefixes = sorted(file.with_suffix("") for file in path.glob("*.pdopt"))
    if len(prefixes) == 1 and path.name.isdecimal():  # an epoch of fluid.save
        return _read_prefix(prefixes[0])
    if prefixes:
        raise FormatError(
            f"holds {len(prefixes)} PaddlePaddle states: give one of them without its suffix, such as {prefixes[0]}"
        )
    epochs = [folder for folder in path.iterdir() if folder.is_dir() and re.fullmatch(r"\d{1,6}", folder.name)]
    if epochs and not any(file.is_file() for file in path.iterdir()):
        raise FormatError(f"holds epochs: give one of them, such as {max(epochs, key=lambda folder: int(folder.name))}")
    return _read_variables(path, model, class_dim)


def _read_variables(path: Path, model: str | None, class_dim: int) -> TrainingState | None:
    """A folder of variables, or a combined file; None if it is something else or contains only weights."""
    try:
        weights = read_weights(path)
    except UserError:
        return None
    if not weights.paddle:
        return None
    arrays = {name: tensor.numpy() for name, tensor in weights.tensors.items()}
    if weights.unnamed:
        arrays = name_in_order([tensor.numpy() for tensor in weights.unnamed], model, class_dim)
    state = fluid_state(arrays, str(path))
    if not state.memory and state.counter is None:
        return None
    if weights.damaged:
        name, why = next(iter(weights.damaged.items()))
        raise FormatError(f"{len(weights.damaged)} of its files are damaged, such as {name} ({why})")
    return state


def name_in_order(arrays: Sequence[np.ndarray], name: str | None, class_dim: int) -> dict[str, np.ndarray]:
    """Names the variables of a combined file without its program, in which they are sorted by name.

    Args:
        arrays: a network's variables and any optimizer's state.
        name, class_dim: of the network.

    Raises:
        FormatError: the arrays match no such network and optimizer.
    """
    if name is None:
        raise FormatError(f"holds {len(arrays)} variables without names: put its program next to it, as __model__")
    with torch.device("meta"):
        model = models.build(name, class_dim=class_dim)
    state, transposed = model.state_dict(), linear_weights(model)
    try:
        names = published_names(model)
    except ValueError:
        names = {}
    shapes = {
        name: tuple(reversed(state[key].shape)) if key in transposed else tuple(state[key].shape)
        for key, name in names.items()
    }
    parameters = [names[key] for key, _ in model.named_parameters() if key in names]
    for expected in _expected(shapes, parameters):
        if len(expected) == len(arrays):
            named = dict(zip(sorted(expected), arrays, strict=True))
            if all(named[name].shape == shape for name, shape in expected.items()):
                return named
    raise FormatError(
        f"holds {len(arrays)} variables without names, which do not match a training of --model={name} with "
        f"--class_dim={class_dim}: correct these flags, or put the program next to it, as model or __model__"
    )


def _expected(shapes: dict[str, tuple[int, ...]], parameters: Sequence[str]) -> Iterator[dict[str, tuple[int, ...]]]:
    """The variables of a training and their shapes, for each optimizer with and without an average."""
    extras = ((), ("learning_rate",), ("learning_rate_0",), ("tmp_0",))
    for kinds, average, counter, rates in itertools.product(_KINDS, (False, True), (False, True), extras):
        expected = dict(shapes)
        for name, kind in itertools.product(parameters, kinds):
            expected[f"{name}_{kind}_0"] = (1,) if kind.endswith("pow_acc") else shapes[name]
        if average:
            expected |= {f"{name}_ema_0": shape for name, shape in shapes.items()} | {EMA_RATE: (1,)}
        yield expected | dict.fromkeys((COUNTER,) if counter else (), (1,)) | dict.fromkeys(rates, (1,))


def finished_epochs(state: TrainingState) -> tuple[int, str] | None:
    """The number of finished epochs of a state, from its .pdstates or its name, and which of these it was."""
    if state.epoch is not None:
        return state.epoch, ".pdstates"
    path = Path(state.path)
    if number := re.fullmatch(r"epoch_(\d{1,6})", path.name):
        return int(number[1]), "its name"
    for name in (path.name, path.parent.name if not path.is_dir() else ""):
        if re.fullmatch(r"\d{1,6}", name):  # fluid, and PaddleClas 2.0, count epochs from 0
            return int(name) + 1, "the folder's name"
    return None
