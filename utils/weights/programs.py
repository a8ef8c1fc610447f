"""Reads weights from models that PaddlePaddle exported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from utils.formats.inference_model import read_inference_model
from utils.weights.content import Weights, tensors_of

# The prefix of PaddleClas's export wrapper, and what copying a network adds to names.
_OWNER = "base_model."
_COPIED = re.compile(r"(_deepcopy_\d+)+$")


def has_program(names: Iterable[str]) -> bool:
    """Whether one of the files is a program of PaddlePaddle 2 or 3.

    A fluid program only names the weights next to it; `utils.weights.files` reads those.
    """
    known = set(names)
    return any(
        name.endswith(".pdmodel")
        or PurePosixPath(name).name == "inference.json"
        or (name.endswith(".json") and f"{name[:-5]}.pdiparams" in known)
        for name in known
    )


def read_exported(path: Path) -> Weights:
    """Reads the parameters of an exported model, named as in the network's state dict if .pdiparams.info has the names.

    Args:
        path: the program, its folder, an archive of that, or the file of parameters next to the program.

    Raises:
        UserError: it is damaged, or not an exported model.
    """
    if path.suffix == ".pdiparams":
        path = path.with_suffix(".json" if path.with_suffix(".json").is_file() else ".pdmodel")
    model = read_inference_model(path)
    tensors = tensors_of(model.parameters)
    names = {name: model.structured_names.get(name, "").removeprefix(_OWNER) for name in tensors}
    kind = "exported model of PaddlePaddle"
    plain = names
    if not all(names.values()) or len(set(names.values())) < len(names):
        plain = {name: _COPIED.sub("", name) for name in tensors}
    if len(set(plain.values())) < len(plain):
        plain = {name: name for name in tensors}
    return Weights(kind, {plain[name]: tensor for name, tensor in tensors.items()}, program=lambda: model.program,
                   program_names={short: name for name, short in plain.items()})  # fmt: skip
