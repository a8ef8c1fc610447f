"""Writes ExecuTorch programs, for phones and small machines: one image at a time, on XNNPACK.

    NAME/model.pte         the program, in float32
    NAME/model_int8.pte    the same in int8, calibrated with images
    NAME/labels.txt        class names, one a line

In addition to `forward`, a program has methods without arguments, as is usual in ExecuTorch: get_description returns
the JSON text of a `Description`, get_image_mean and get_image_std return three numbers each, for pixels from 0 to 1.

https://docs.pytorch.org/executorch
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from utils.deploy.comparing import quiet, test_images
from utils.deploy.executorch_engine import BLANK, seal
from utils.deploy.exported import load_exported
from utils.deploy.labels import LABELS, labels_text
from utils.deploy.network import Description
from utils.errors import UserError, cut, of_the_machine, one_line
from utils.files import written_together

MODEL, QUANTIZED_MODEL = "model.pte", "model_int8.pte"


def require_executorch() -> None:
    """Raises `UserError` if ExecuTorch is not installed."""
    if importlib.util.find_spec("executorch") is None:
        raise UserError(
            "--inference_format=executorch needs the package executorch: pip install -r requirements-mobile.txt"
        )


def write_executorch(program: ExportedProgram, description: Description, folder: Path) -> Path:
    """Writes a torch.export program, with its weights, to `folder`/model.pte, and its class names.

    Raises:
        UserError: ExecuTorch cannot express it.
    """
    (folder / LABELS).write_text(labels_text(description), encoding="utf-8")
    return _write(program.module(check_guards=False), description, folder / MODEL)


def _write(module: nn.Module, description: Description, file: Path) -> Path:
    about = description.with_params("", 0, BLANK)
    image = test_images(about.image_shape)[:1]
    try:
        with quiet():
            exir = importlib.import_module("executorch.exir")
            xnnpack = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
            program = with_parts_of_xnnpack(torch.export.export(module, (image,)))
            lowered = exir.to_edge_transform_and_lower(
                program, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods=constant_methods(about)
            )
            content = lowered.to_executorch().buffer
    except Exception as error:  # its passes raise anything at an operator they do not know
        if of_the_machine(error) is not None:
            raise
        raise UserError(
            f"--inference_format=executorch: ExecuTorch cannot express {about.network}: {cut(one_line(error), 300)}: "
            "take --inference_format=onnx"
        ) from None
    file.write_bytes(seal(content, about))
    return file


def with_parts_of_xnnpack(program: ExportedProgram) -> ExportedProgram:
    """Writes out what XNNPACK does not take as a whole, but in parts; ExecuTorch's own kernels are slow.

    `F.unfold` becomes slices: ExecuTorch gathers the values one by one, by indices. A linear layer whose bias is
    computed becomes one without bias, and a sum.
    """
    im2col, linear = torch.ops.aten.im2col.default, torch.ops.aten.linear.default
    if any(node.target == im2col for node in program.graph.nodes):
        program = program.run_decompositions({im2col: _unfold})
    for node in program.graph.find_nodes(op="call_function", target=linear):
        x, weight, *bias = node.args
        if bias and bias[0].op == "call_function":
            with program.graph.inserting_before(node):
                product = program.graph.call_function(linear, (x, weight))
                total = program.graph.call_function(torch.ops.aten.add.Tensor, (product, bias[0]))
            product.meta, total.meta = node.meta.copy(), node.meta.copy()
            node.replace_all_uses_with(total)
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _unfold(x: Tensor, kernel_size: list[int], dilation: list[int], padding: list[int], stride: list[int]) -> Tensor:
    """`F.unfold` of (N, C, H, W): (N, C * kernel_size[0] * kernel_size[1], positions)."""
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))

    def slices(axis: int) -> list[slice]:
        """For each row, or column, of a patch: the values that it has in all patches."""
        firsts = range(0, kernel_size[axis] * dilation[axis], dilation[axis])
        return [slice(first, x.shape[axis + 2] - firsts[-1] + first, stride[axis]) for first in firsts]

    patches = [x[:, :, rows, columns] for rows, columns in product(slices(0), slices(1))]
    return torch.stack(patches, 2).flatten(3).flatten(1, 2)


def constant_methods(description: Description) -> dict[str, Any]:
    """The results of a program's methods without arguments, by name."""
    return {
        "get_description": description.to_json(),
        "get_image_mean": torch.tensor(description.image_mean),
        "get_image_std": torch.tensor(description.image_std),
    }


def quantize_executorch(
    program: ExportedProgram, description: Description, folder: Path, batches: Iterable[Tensor], flag: str
) -> Path:
    """Writes the int8 form of a network to `folder`/model_int8.pte: weights have a scale per channel, activations one
    scale each, found by calibration.

    Args:
        program: the network's program, for any number of images.
        description, folder: as for `write_executorch`.
        batches: calibration images, normalized, float32 (N, 3, H, W).
        flag: the flag to name in errors.

    Raises:
        UserError: there are no images, ExecuTorch cannot express the result, or it cannot be written.
    """
    with quiet():
        xnnpack = importlib.import_module("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
        torchao = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
        configuration = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
        quantizer = xnnpack.XNNPACKQuantizer().set_global(configuration)
        observed = torchao.prepare_pt2e(program.module(check_guards=False), quantizer)
    count = 0
    with torch.no_grad():
        for batch in batches:
            observed(batch)
            count += len(batch)
    if not count:
        raise UserError("--calibration_dir: no image could be read")
    with quiet():
        module = torchao.convert_pt2e(observed)
    with written_together(folder, flag) as temporary:
        file = _write(module, replace(description, precision="int8"), temporary / QUANTIZED_MODEL)
        load_exported(str(file))(test_images(description.image_shape))  # checks that the runtime accepts it
    return folder / QUANTIZED_MODEL
