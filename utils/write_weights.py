"""Writes a network's weights in any of the forms that PyTorch, PaddlePaddle and this project read."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.layers import published_names
from utils.checkpoint import save_weights
from utils.errors import FlagError, UserError
from utils.files import written_whole
from utils.paddle_format import variable_header, write_variable
from utils.weights import linear_weights

TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")


def check_output(output: Path) -> None:
    """Refuses an --output that `write_weights` cannot write, before there is any work to lose.

    Raises:
        FlagError: its suffix is of a kind of file that is only read.
        UserError: it is a folder that holds something already.
    """
    if output.suffix not in (*TORCH_SUFFIXES, ".tar"):
        if output.suffix in (".gz", ".tgz", ".zip", ".pdparams", ".params", ".onnx"):
            raise FlagError(f"--output: cannot write {output.suffix}: give .pth, .safetensors, .tar or a folder")
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"--output: {output} exists already: give a new folder")


def write_weights(model: nn.Module, output: Path, name: str, class_dim: int) -> None:
    """Writes `model` to a .pth, .pt or .safetensors file, a fluid .tar, or, for any other name, a fluid folder.

    Args:
        name, class_dim: of the network, noted in a .safetensors file.

    Raises:
        UserError: it cannot be written, or PaddlePaddle has no such network.
    """
    with written_whole(output, "--output") as temporary:
        if output.suffix in (".pth", ".pt"):
            torch.save(model.state_dict(), temporary)
        elif output.suffix == ".safetensors":
            save_weights(model, temporary, {"model": name, "class_dim": class_dim})
        elif output.suffix == ".tar":
            write_tar(fluid_variables(model), temporary, output.stem)
        else:
            write_folder(fluid_variables(model), temporary)


def fluid_variables(model: nn.Module) -> dict[str, np.ndarray]:
    """The tensors of a network as fluid has them: under their published names, linear weights as [in, out].

    Raises:
        UserError: the network was never published in fluid.
    """
    state, transposed = model.state_dict(), linear_weights(model)
    try:
        names = published_names(model)
    except ValueError as error:
        raise UserError(
            f"--output: no variables of PaddlePaddle's fluid can be written ({error}): write .pth or .safetensors"
        ) from None
    return {name: (state[key].t() if key in transposed else state[key]).numpy() for key, name in names.items()}


def write_folder(variables: dict[str, np.ndarray], folder: Path) -> None:
    """Writes a fluid folder: a file per variable, under its name."""
    for name, array in variables.items():
        write_variable(array, folder / name)


def write_tar(variables: dict[str, np.ndarray], path: Path, folder: str) -> None:
    """Writes a .tar of a fluid folder, the form that PaddlePaddle's weights are published in."""
    with tarfile.open(path, "w") as archive:
        for name, array in variables.items():
            content = variable_header(array) + array.tobytes()
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
