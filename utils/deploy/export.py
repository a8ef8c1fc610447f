"""Exports networks for predict.py; utils/deploy/exported.py describes the files."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.fusion import fuse
from models.network import Network, shapes_only
from utils.console import warn
from utils.deploy.comparing import TOLERANCE, export_program, relative_difference, test_images
from utils.deploy.executorch_export import QUANTIZED_MODEL, require_executorch, write_executorch
from utils.deploy.exported import load_exported
from utils.deploy.network import DESCRIPTION, Description, sha256
from utils.deploy.onnx_export import USUAL_FORM, OnnxForm, require, write_onnx
from utils.deploy.triton import write_model
from utils.errors import UserError
from utils.files import written_together

# Name of the int8 form of model.onnx that utils/deploy/quantize.py writes.
QUANTIZED = "model_int8.onnx"

# The formats that have an int8 form.
QUANTIZED_FORMATS = ("onnx", "executorch")

# Files that belong to a format's model file, and are deleted when that is replaced.
OF_THE_MODEL = {"onnx": {"model.onnx.data", QUANTIZED, f"{QUANTIZED}.data"}, "executorch": {QUANTIZED_MODEL}}


def save_inference(
    model: Network,
    description: Description,
    folder: Path,
    inference_format: str = "torch",
    form: OnnxForm = USUAL_FORM,
) -> Path:
    """Exports a network and checks that the written files give the same logits.

    Args:
        model: the network with its weights, float32, on the CPU. It is put into evaluation mode.
        description: describes the network; its fields about the weight file are filled in.
        folder: where to write model and params, model.onnx, model.pte, or a Triton model. Files of an earlier export
            are replaced once the new ones have been checked. (An int8 model is deleted, as it has the old weights.)
        inference_format: torch, onnx, triton or executorch, as in --inference_format.
        form: how to write an ONNX model.

    Returns:
        The model file.

    Raises:
        UserError: the files cannot be written, a package is missing, or the export does not give the same logits.
    """
    check_format(inference_format)
    images = test_images(description.image_shape)
    program = folded_program(model, images)
    with torch.inference_mode():
        expected = model(images)
    return write_export(program, images, expected, description, folder, inference_format, "--save_inference", form)


def folded_program(model: Network, images: Tensor) -> ExportedProgram:
    """Exports a network, put into evaluation mode, for any batch size and images of the size of `images`."""
    model.eval().requires_grad_(False)
    return export_program(fold_batch_norms(model, images), images)


def check_format(inference_format: str) -> None:
    """Raises `UserError` if a package that this --inference_format needs is missing."""
    if inference_format == "executorch":
        require_executorch()
    elif inference_format != "torch":
        require("onnx", "onnxscript", "onnxruntime")


def write_export(
    program: ExportedProgram,
    images: Tensor,
    expected: Tensor,
    description: Description,
    folder: Path,
    inference_format: str,
    flag: str,
    form: OnnxForm = USUAL_FORM,
) -> Path:
    """Writes a program, and moves the files into place once they give the expected logits.

    Args:
        program: maps images to logits; its weights are removed from it.
        images, expected: test images and their logits.
        description, folder, inference_format, form: as in `save_inference`.
        flag: the flag to name in errors.

    Returns:
        The model file.
    """
    if inference_format == "triton":
        model_file = write_export(program, images, expected, description, folder / "1", "onnx", flag, form)
        write_model(folder, description, flag)
        return model_file
    onnx = partial(write_onnx, form=form)
    write = {"torch": _write_program, "onnx": onnx, "executorch": write_executorch}[inference_format]
    with written_together(folder, flag) as temporary:
        model_file = write(program, description, temporary)
        remedy = f"nothing was written to {folder}: take another --inference_format"
        answers = replace(load_exported(str(model_file)), remedy=remedy)(images)
        check_answers(answers, expected, description, folder, flag)
        written = set(os.listdir(temporary))
    # They belong to the model that has just been replaced.
    for name in OF_THE_MODEL.get(inference_format, set()) - written:
        (folder / name).unlink(missing_ok=True)
    return folder / model_file.name


def check_answers(answers: Tensor, expected: Tensor, description: Description, output: Path, flag: str) -> None:
    """Raises `UserError` if an export's logits differ from the expected ones."""
    difference = relative_difference(answers, expected)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{flag}: {description.network} was not written to {output}: the export's logits differ from the network's "
            f"by {difference:.1e} of the largest; check that the weights belong to this network and are finite"
        )


# ------------------------------------------------------------------------------------------------------ folding


def fold_batch_norms(model: Network, images: Tensor) -> nn.Module:
    """Copies `model` with each batch norm folded into the convolution before it; the logits stay the same.

    In evaluation a batch norm computes y = a x + b per channel, which the convolution's weights and bias can absorb.
    A trace of one run shows which batch norm follows which convolution, so networks need no code for it.
    """
    folded = fuse(model)  # the branches that networks fold themselves
    for conv_path, bn_path in _foldable_pairs(folded, images):
        # In float64, so that only the last step rounds.
        conv = cast(nn.Conv2d, folded.get_submodule(conv_path)).double()
        bn = cast(nn.BatchNorm2d, folded.get_submodule(bn_path)).double()
        folded.set_submodule(conv_path, fuse_conv_bn_eval(conv, bn).float())
        folded.set_submodule(bn_path, nn.Identity())
    with torch.inference_mode():
        difference = relative_difference(folded(images), model(images))
    if not difference <= TOLERANCE:
        warn(
            f"exporting without folding batch norms: folding would change the logits by {difference:.1e} of the largest"
        )
        return model
    return folded


class _Uses(TorchDispatchMode):
    """Records which operation computes each tensor, and how often it is used.

    Attributes:
        source: id of a tensor -> the weight of the convolution that computed it.
        count: id of a tensor -> number of operations that take it.
        norms: (input, weight) of every batch norm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source: dict[int, Tensor] = {}
        self.count: Counter[int] = Counter()
        self.norms: list[tuple[Tensor, Tensor]] = []
        self._kept: list[Any] = []  # keeps tensors alive: a freed tensor's id can be reused

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        self._kept.append(result)
        self.count.update(id(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor))
        if operator is torch.ops.aten.convolution.default:
            self.source[id(result)] = args[1]
        elif operator.overloadpacket in (torch.ops.aten.native_batch_norm, torch.ops.aten.cudnn_batch_norm):
            self.norms.append((args[0], args[1]))
        return result


def _foldable_pairs(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Paths (convolution, batch norm) in `model` where only the batch norm uses the convolution's result."""
    # Shapes are enough: the meta device computes nothing.
    ghost = shapes_only(model)
    with torch.no_grad(), _Uses() as uses:
        ghost(images.to("meta"))
    paths = {
        id(module.weight): path
        for path, module in ghost.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    }
    pairs = []
    for conv_output, bn_weight in uses.norms:
        conv_weight = uses.source.get(id(conv_output))
        layers = id(conv_weight), id(bn_weight)
        # A layer that is used twice cannot be folded into two others.
        if all(uses.count[key] == 1 for key in (id(conv_output), *layers)) and all(key in paths for key in layers):
            pairs.append((paths[layers[0]], paths[layers[1]]))
    return pairs


# -------------------------------------------------------------------------------------------------------- files


def _write_program(program: ExportedProgram, description: Description, folder: Path) -> Path:
    """Writes a program to `folder`/model and its weights to `folder`/params."""
    weights = _take_weights(program)
    forget_source(program)
    params, model_file = folder / "params", folder / "model"
    params.write_bytes(save(weights, {"format": "pt", "network": description.network}))
    about = description.with_params(params.name, params.stat().st_size, sha256(str(params)))
    texts = {DESCRIPTION: about.to_json()}
    with open(model_file, "wb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, file, extra_files=texts)
    return model_file


def forget_source(program: ExportedProgram) -> None:
    """Removes from a program the paths of the network's source files on this machine."""
    program.example_inputs = None
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)


def _take_weights(program: ExportedProgram) -> dict[str, Tensor]:
    """Takes the weights out of a program, and leaves zeros of the same shapes, which need no memory."""
    weights = {}
    state, constants = cast(dict[str, Tensor], program.state_dict), cast(dict[str, Tensor], program.constants)
    for tensors in (state, constants):  # networks' programs have no other constants
        for name, tensor in tensors.items():
            weights[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
            empty = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
            is_parameter = isinstance(tensor, nn.Parameter)
            tensors[name] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    return weights
