"""Export of networks for predict.py: see utils/deploy/exported.py for the files."""

from __future__ import annotations

import os
import warnings
from collections import Counter
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

# What utils/deploy/quantize.py makes of model.onnx.
QUANTIZED = "model_int8.onnx"

# The formats that have an int8 form.
QUANTIZED_FORMATS = ("onnx", "executorch")

# Files that a format may have beside its model file, which make no sense without it.
OF_THE_MODEL = {"onnx": {"model.onnx.data", QUANTIZED, f"{QUANTIZED}.data"}, "executorch": {QUANTIZED_MODEL}}


def save_inference(
    model: Network,
    description: Description,
    folder: Path,
    inference_format: str = "torch",
    form: OnnxForm = USUAL_FORM,
) -> Path:
    """Exports a network and checks that what was written gives the same logits.

    Args:
        model: the network with its weights, float32, on the CPU. It is put into evaluation mode.
        description: of the network; what it says of the file of weights is filled in.
        folder: where to write model and params, model.onnx, model.pte, or what Triton takes; what was there before is
            replaced when the new files have been checked. (An int8 model goes, as it is of the old weights.)
        inference_format: torch, onnx, triton or executorch, as in --inference_format.
        form: of an ONNX model.

    Returns:
        The model file.

    Raises:
        UserError: it cannot be written, what it needs is not installed, or the network cannot be exported exactly.
    """
    check_format(inference_format)
    images = test_images(description.image_shape)
    program = folded_program(model, images)
    with torch.inference_mode():
        expected = model(images)
    return write_export(program, images, expected, description, folder, inference_format, "--save_inference", form)


def folded_program(model: Network, images: Tensor) -> ExportedProgram:
    """The program of a network, which is put into evaluation mode, for any number of images such as `images`."""
    model.eval().requires_grad_(False)
    return export_program(fold_batch_norms(model, images), images)


def check_format(inference_format: str) -> None:
    """Raises `UserError` if what an --inference_format needs is not installed."""
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
    """Writes a program, and puts it in place once it has answered as expected.

    Args:
        program: from images to logits; its weights are taken out of it.
        images, expected: to check with.
        description, folder, inference_format, form: as in `save_inference`.
        flag: for errors.

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
        check_answers(load_exported(str(model_file))(images), expected, description, folder, flag)
        written = set(os.listdir(temporary))
    # They are of the model that has just been replaced.
    for name in OF_THE_MODEL.get(inference_format, set()) - written:
        (folder / name).unlink(missing_ok=True)
    return folder / model_file.name


def check_answers(answers: Tensor, expected: Tensor, description: Description, output: Path, flag: str) -> None:
    """Raises `UserError` if what was written answers otherwise than what it was made of."""
    difference = relative_difference(answers, expected)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{flag}: {description.network} is not written to {output}: its export differs from it by "
            f"{difference:.1e} of the largest logit; are the weights those of this network, and finite?"
        )


# ------------------------------------------------------------------------------------------------------ folding


def fold_batch_norms(model: Network, images: Tensor) -> nn.Module:
    """A copy of `model` in which batch-norms are folded into the convolutions before them; the logits are the same.

    In evaluation a batch-norm is y = a x + b per channel, which a convolution's weights and bias can take over. Which
    convolution is before which batch-norm is seen when the network runs, so networks need no code for it.
    """
    folded = fuse(model)  # what networks fold themselves
    for conv_path, bn_path in _foldable_pairs(folded, images):
        # In float64, so that nothing but the last rounding is lost.
        conv = cast(nn.Conv2d, folded.get_submodule(conv_path)).double()
        bn = cast(nn.BatchNorm2d, folded.get_submodule(bn_path)).double()
        folded.set_submodule(conv_path, fuse_conv_bn_eval(conv, bn).float())
        folded.set_submodule(bn_path, nn.Identity())
    with torch.inference_mode():
        difference = relative_difference(folded(images), model(images))
    if not difference <= TOLERANCE:
        warn(f"batch-norms are not folded: that would change the logits by {difference:.1e} of the largest")
        return model
    return folded


class _Uses(TorchDispatchMode):
    """Notes what computes each tensor, and how often it is used.

    Attributes:
        source: id of a tensor -> the weight of the convolution that computed it.
        count: id of a tensor -> operations that take it.
        norms: (input, weight) of every batch-norm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source: dict[int, Tensor] = {}
        self.count: Counter[int] = Counter()
        self.norms: list[tuple[Tensor, Tensor]] = []
        self._kept: list[Any] = []  # the id of a tensor that is gone could become another's

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
    """Paths of each convolution of `model` and the batch-norm that alone uses its result."""
    # Shapes are enough: on the meta device nothing is computed.
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
    """Leaves out of a program where the network's code lay on this machine, which is nobody's business."""
    program.example_inputs = None
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)


def _take_weights(program: ExportedProgram) -> dict[str, Tensor]:
    """Takes the weights out of a program, and leaves zeros of the same shapes that need no memory."""
    weights = {}
    state, constants = cast(dict[str, Tensor], program.state_dict), cast(dict[str, Tensor], program.constants)
    for tensors in (state, constants):  # there are no other constants in programs of networks
        for name, tensor in tensors.items():
            weights[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
            empty = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
            is_parameter = isinstance(tensor, nn.Parameter)
            tensors[name] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    return weights
