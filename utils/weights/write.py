"""Writes a network's weights in any form that PyTorch, PaddlePaddle or this project reads."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models.layers import UPSCALE_IN_TRAIN, Dropout
from models.names import paddleclas_names, published_names
from models.network import Network
from utils.errors import FlagError, UserError
from utils.files import check_can_write, check_can_write_into, written_whole
from utils.formats.paddle import variable_header, write_variable
from utils.formats.pickles import write_pickle
from utils.weights.matching import COUNTER, linear_weights
from utils.weights.notes import side_file, write_side_notes

TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")
PDPARAMS = ".pdparams"

# Whose names a .pdparams file uses for its tensors.
FLUID, PADDLECLAS = "fluid", "PaddleClas"

# Endings that no folder of variables gets: they belong to files that are only read, here or elsewhere.
_READ_ONLY_SUFFIXES = frozenset(
    (
        *(".gz", ".bz2", ".xz", ".tgz", ".tbz", ".tbz2", ".txz", ".zip", ".7z", ".zst"),
        *(".pdopt", ".pdmodel", ".pdiparams", ".params", ".caffemodel", ".prototxt"),
        *(".ckpt", ".bin", ".pkl", ".pickle", ".onnx", ".npy", ".npz", ".h5", ".hdf5", ".msgpack", ".json"),
    )
)


def suffix(output: Path) -> str:
    """The lower-case ending of a file's name, which decides its form."""
    return output.suffix.lower()


def check_output(output: Path) -> None:
    """Refuses an --output that `write_weights` cannot write, before any work starts.

    Raises:
        FlagError: its ending belongs to a kind of file that is only read.
        UserError: it is a folder that is not empty, or a file where a folder should go.
    """
    if suffix(output) in _READ_ONLY_SUFFIXES:
        raise FlagError(f"--output: cannot write {output.suffix}: give .pth, .safetensors, .pdparams, .tar or a folder")
    if suffix(output) in (*TORCH_SUFFIXES, PDPARAMS, ".tar"):
        if output.is_dir():
            raise UserError(f"--output: {output} is a folder: give a file name")
        check_can_write(output, "--output")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: {output} exists already: give a new folder")
    else:
        check_can_write_into(output, "--output")


def write_weights(
    model: Network,
    output: Path,
    name: str,
    class_dim: int,
    more_notes: Mapping[str, Any] | None = None,
    names: str | None = None,
) -> None:
    """Writes `model` to a .pth, .pt, .safetensors or .pdparams file, a fluid .tar, or else a fluid folder.

    Args:
        name, class_dim, more_notes: the network's notes. A .safetensors file always holds them; other forms get them
            in a separate file if `more_notes` is not empty; see `utils.weights.notes`.
        names: whose names a .pdparams file uses, fluid or PaddleClas; None: see `usual_names`.

    Raises:
        UserError: the file cannot be written, or PaddlePaddle has no such network.
    """
    with written_whole(output, "--output") as temporary:
        if suffix(output) in (".pth", ".pt"):
            with open(temporary, "wb") as file:
                torch.save(model.state_dict(), file)
        elif suffix(output) == ".safetensors":
            save_weights(model, temporary, {"model": name, "class_dim": class_dim, **(more_notes or {})})
        elif suffix(output) == PDPARAMS:
            of_fluid = (names or usual_names(model)) == FLUID
            with open(temporary, "wb") as file:
                write_pickle(fluid_variables(model) if of_fluid else paddleclas_arrays(model), file)
        elif suffix(output) == ".tar":
            write_tar(fluid_variables(model), temporary, output.stem)
        else:
            write_folder(fluid_variables(model), temporary)
    if more_notes and suffix(output) != ".safetensors":
        write_side_notes(output, {"model": name, "class_dim": class_dim, **more_notes})
    else:
        side_file(output).unlink(missing_ok=True)  # notes of an earlier file


def usual_names(model: Network) -> str:
    """Whose names a network's .pdparams uses: PaddleClas's, except for networks that only fluid has in this form."""
    return FLUID if model.published_by == FLUID else PADDLECLAS


def paddleclas_arrays(model: Network) -> dict[str, np.ndarray]:
    """The tensors of a network as PaddleClas stores them: under its layers' names, linear weights as [in, out]."""
    state, transposed = model.state_dict(), linear_weights(model)
    return {
        name: (state[key].t() if key in transposed else state[key]).numpy()
        for key, name in paddleclas_names(model).items()
        if not key.endswith(COUNTER)
    }


def fluid_variables(model: Network) -> dict[str, np.ndarray]:
    """The tensors of a network as fluid stores them: under their published names, linear weights as [in, out].

    Raises:
        UserError: the network was never published in fluid.
    """
    state, transposed = model.state_dict(), linear_weights(model)
    try:
        names = published_names(model)
    except ValueError as error:
        raise UserError(
            f"--output: cannot write PaddlePaddle's fluid variables ({error}): give .pth or .safetensors"
        ) from None
    return {name: (state[key].t() if key in transposed else state[key]).numpy() for key, name in names.items()}


def write_folder(variables: dict[str, np.ndarray], folder: Path) -> None:
    """Writes a fluid folder: a file per variable, named like it."""
    for name, array in variables.items():
        write_variable(array, folder / name)


def write_tar(variables: dict[str, np.ndarray], path: Path, folder: str) -> None:
    """Writes a .tar of a fluid folder, the form of PaddlePaddle's published weights."""
    with tarfile.open(path, "w") as archive:
        for name, array in variables.items():
            content = variable_header(array) + array.tobytes()
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def dropout_mode(model: Network) -> str:
    """The dropout convention that the weights of `model` need."""
    return next((module.mode for module in model.modules() if isinstance(module, Dropout)), UPSCALE_IN_TRAIN)


def save_weights(model: Network, path: Path, notes: dict[str, Any]) -> None:
    """Writes a network's state dict as a .safetensors file, with its dropout convention.

    Args:
        notes: metadata to add, such as the network's name and class count; values other than text become JSON.
    """
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    metadata = {"format": "pt", "dropout": dropout_mode(model), **notes}
    path.touch()
    permissions = path.stat().st_mode  # the usual permissions; safetensors makes files that only their user can read
    save_file(tensors, str(path), {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
    path.chmod(permissions)
