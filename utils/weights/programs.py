"""Weights out of models that PaddlePaddle exported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from utils.formats.inference_model import read_inference_model
from utils.weights.content import Weights, tensors_of

# Programs of PaddlePaddle 2 and 3. (A fluid program only names what is beside it: `utils.weights.files` does that.)
_PROGRAMS = re.compile(r"(.*/)?([^/]+\.pdmodel|inference\.json)")

# What PaddleClas puts the network into for its export, and what a copy of a network adds to names.
_OWNER = "base_model."
_COPIED = re.compile(r"(_deepcopy_\d+)+$")


def has_program(names: Iterable[str]) -> bool:
    """Whether one of the files is a program of PaddlePaddle 2 or 3."""
    return any(_PROGRAMS.fullmatch(name) for name in names)


def read_exported(path: Path) -> Weights:
    """The parameters of an exported model, by the names of the network's state dict if .pdiparams.info tells them.

    Args:
        path: the program, its folder, an archive of it, or the file of parameters beside it.

    Raises:
        UserError: it is damaged, or no such model.
    """
    if path.suffix == ".pdiparams":
        path = path.with_suffix(".json" if path.with_suffix(".json").is_file() else ".pdmodel")
    model = read_inference_model(path)
    tensors = tensors_of(model.parameters)
    names = {name: model.structured_names.get(name, "").removeprefix(_OWNER) for name in tensors}
    kind = "exported model of PaddlePaddle"
    if all(names.values()) and len(set(names.values())) == len(names):
        return Weights(kind, {names[name]: tensor for name, tensor in tensors.items()})
    plain = {name: _COPIED.sub("", name) for name in tensors}
    if len(set(plain.values())) < len(plain):
        plain = {name: name for name in tensors}
    return Weights(kind, {plain[name]: tensor for name, tensor in tensors.items()}, program=model.program,
                   program_names={short: name for name, short in plain.items()})  # fmt: skip
