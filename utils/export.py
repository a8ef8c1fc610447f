"""Export of networks for predict.py: see utils/exported.py for the files."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from utils.exported import DESCRIPTION, Description, sha256
from utils.files import written_whole


def export_program(model: nn.Module, image_shape: list[int]) -> ExportedProgram:
    """Exports a network in evaluation mode, for any number of images per batch.

    Args:
        model: float32, on the CPU.
        image_shape: channels, height, width.
    """
    model.eval().requires_grad_(False)
    # Two images: a batch of one would be taken for a constant.
    images = torch.zeros(2, *image_shape)
    return torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch")},))


def _take_weights(program: ExportedProgram) -> dict[str, Tensor]:
    """Takes the weights out of a program, and leaves zeros of the same shapes that need no memory."""
    weights = {}
    for tensors in (program.state_dict, program.constants):
        for name, tensor in tensors.items():
            weights[name] = tensor.detach().contiguous().clone()
            empty = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
            is_parameter = isinstance(tensor, nn.Parameter)
            tensors[name] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    return weights


def save_inference(model: nn.Module, description: Description, folder: Path) -> None:
    """Writes `folder`/model and `folder`/params.

    Args:
        model: the network with its weights.
        description: of the network; what it says of the params file is filled in.

    Raises:
        UserError: the folder cannot be written to.
    """
    program = export_program(model, description.image_shape)
    weights = _take_weights(program)
    program.example_inputs = None
    for node in program.graph.nodes:
        # Where the network's code lay on this machine is nobody's business.
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    with written_whole(folder / "params", "--save_inference") as params:
        params.write_bytes(save(weights, {"format": "pt", "network": description.network}))
        description = dataclasses.replace(
            description, params_sha256=sha256(str(params)), params_bytes=params.stat().st_size
        )
    with written_whole(folder / "model", "--save_inference") as model_file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")
        with open(model_file, "wb") as file:
            torch.export.save(program, file, extra_files={DESCRIPTION: description.to_json()})
