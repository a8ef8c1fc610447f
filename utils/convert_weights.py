"""Converts a network's weights between PaddlePaddle's files and PyTorch's, in both directions.

python utils/convert_weights.py --model=ResNet50_vd --input=ResNet50_vd_pretrained.tar --output=ResNet50_vd.safetensors
python utils/convert_weights.py --model=ResNet50_vd --input=output/ResNet50_vd/best_model --output=ResNet50_vd_fluid
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

if not __package__:
    # Run as a script: Python looks for modules beside it, and not in the project's root.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from utils.errors import FlagError, UserError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("convert_weights")  # answers --help and a misspelt flag before PyTorch is imported, which takes a while

import numpy as np
import torch
from torch import nn

from models.layers import published_names
from utils.build import build_model
from utils.checkpoint import dropout_mode, save_weights
from utils.files import written_whole
from utils.logger import log
from utils.paddle_format import variable_header, write_variable
from utils.weights import linear_weights, load_pretrained


TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")


def fluid_variables(model: nn.Module) -> dict[str, np.ndarray]:
    """The tensors of a network as fluid has them: under their published names, linear weights as [in, out].

    Raises:
        UserError: the network was never published in fluid.
    """
    state, transposed = model.state_dict(), linear_weights(model)
    try:
        names = published_names(model)
    except ValueError as error:
        raise UserError(f"--output: no variables of PaddlePaddle's fluid can be written ({error})") from None
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


def main() -> None:
    args = parse("convert_weights")
    output = Path(args.output)
    if output.suffix not in (*TORCH_SUFFIXES, ".tar"):
        if output.suffix in (".gz", ".tgz", ".zip", ".pdparams", ".params", ".onnx"):
            raise FlagError(f"--output: cannot write {output.suffix}: give .pth, .safetensors, .tar or a folder")
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"--output: {output} exists already: give a new folder")
    model = build_model(args)
    published = dropout_mode(model)
    log(str(load_pretrained(model, args.input)))
    if output.suffix not in TORCH_SUFFIXES and dropout_mode(model) != published:
        raise UserError(
            f"--output: {args.model} has dropout of the kind {published} in PaddlePaddle, and these weights are right "
            f"with {dropout_mode(model)} only: write .pth or .safetensors, which carry the kind"
        )

    with written_whole(output, "--output") as temporary:
        if output.suffix in (".pth", ".pt"):
            torch.save(model.state_dict(), temporary)
        elif output.suffix == ".safetensors":
            save_weights(model, temporary, {"model": args.model, "class_dim": args.class_dim})
        elif output.suffix == ".tar":
            write_tar(fluid_variables(model), temporary, output.stem)
        else:
            write_folder(fluid_variables(model), temporary)
    log(f"wrote {output}")


if __name__ == "__main__":
    run_script(main)
