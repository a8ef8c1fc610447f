"""Writes ONNX models: as one file if possible, with the operators of the requested opset."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram

from utils.deploy.comparing import quiet
from utils.deploy.network import DESCRIPTION, Description, sha256
from utils.deploy.onnx_engines import graph_checksum
from utils.errors import FlagError, UserError

if TYPE_CHECKING:
    import onnx

# A protocol buffer is limited to 2 GiB: this many bytes of weights leave room for the rest of the model.
LARGEST_INSIDE = (1 << 31) - (1 << 26)

# The oldest opset that PyTorch writes; `_rewrite` turns its operators into those of older opsets.
OLDEST_WRITTEN = 18


@dataclass(frozen=True)
class OnnxForm:
    """How to write an ONNX model.

    Attributes:
        opset: version of its operators; None: PyTorch's choice.
        external_data: whether to write the weights to a separate file, as ONNX requires from 2 GiB on.
    """

    opset: int | None = None
    external_data: bool = False


USUAL_FORM = OnnxForm()

# The oldest opset for int8 weights with a scale per channel.
OLDEST_QUANTIZED = 13


def onnx_form(args: argparse.Namespace) -> OnnxForm:
    """How the flags ask for an ONNX model to be written.

    Raises:
        FlagError: the opset is too old for int8.
    """
    if args.calibration_dir and args.onnx_opset is not None and args.onnx_opset < OLDEST_QUANTIZED:
        raise FlagError(f"--onnx_opset {args.onnx_opset}: int8 (--calibration_dir) needs {OLDEST_QUANTIZED} or higher")
    return OnnxForm(args.onnx_opset, args.onnx_external_data)


def require(*packages: str) -> None:
    """Raises `UserError` if an optional package is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"ONNX models need {package}: pip install -r requirements-onnx.txt")


def write_onnx(program: ExportedProgram, description: Description, folder: Path, form: OnnxForm) -> Path:
    """Writes a program as `folder`/model.onnx, with its weights in it or in `folder`/model.onnx.data.

    Raises:
        FlagError: the opset lacks an operator that the network needs.
    """
    import onnx

    model_file = folder / "model.onnx"
    tensors = (
        *cast(dict[str, Tensor], program.state_dict).values(),
        *cast(dict[str, Tensor], program.constants).values(),
    )
    external = form.external_data or sum(tensor.nbytes for tensor in tensors) > LARGEST_INSIDE
    with quiet():
        torch.onnx.export(
            program,
            (),
            str(model_file),
            input_names=["images"],
            output_names=["logits"],
            opset_version=form.opset and max(form.opset, OLDEST_WRITTEN),
            external_data=external,
            verbose=False,
        )
    if form.opset is not None:
        model = onnx.load(model_file, load_external_data=False)
        _set_opset(model, form.opset, model_file.parent, description.network)
        onnx.save(model, model_file)
    describe_onnx(model_file, description, external)
    return model_file


def describe_onnx(model_file: Path, description: Description, external: bool) -> None:
    """Stores a description in an ONNX model, and removes the paths of this machine.

    Args:
        external: the weights are in MODEL_FILE.data, and the description has that file's name and checksum. Otherwise
            they are in the graph, and it has the graph's checksum.
    """
    import onnx

    model = onnx.load(model_file, load_external_data=False)
    for node in model.graph.node:
        # The paths of the network's source files on this machine.
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    data = model_file.with_name(f"{model_file.name}.data")
    if external:
        data.touch()  # missing if all weights are tiny
        described = description.with_params(data.name, data.stat().st_size, sha256(str(data)))
    else:
        onnx.save(model, model_file)
        described = description.with_params("", *graph_checksum(model_file.read_bytes()))
    onnx.helper.set_model_props(model, {DESCRIPTION: described.to_json()})
    onnx.save(model, model_file)
    if external:
        data.chmod(model_file.stat().st_mode)  # some writers make files that only their user can read


# ------------------------------------------------------------------------------------------------------ older opsets


def _set_opset(model: onnx.ModelProto, opset: int, folder: Path, network: str) -> None:
    """Rewrites a model's nodes with the operators of an older opset.

    Most newer operators only accept more types. Some have inputs that used to be attributes: constants become
    attributes again.

    Args:
        model: changed in place; its weights may be in a file in `folder`.

    Raises:
        FlagError: the older opset lacks an operator, or that operator cannot do the same.
    """
    from onnx import defs, helper

    found = next(entry for entry in model.opset_import if not entry.domain)
    if found.version < opset:
        raise FlagError(
            f"--onnx_opset {opset}: this version of PyTorch writes {found.version} at most: give that or less"
        )
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        try:
            old = defs.get_schema(node.op_type, opset, node.domain)
            new = defs.get_schema(node.op_type, found.version, node.domain)
            _rewrite(node, old, new, constants, folder)
        except (defs.SchemaError, _Newer):
            raise FlagError(
                f"--onnx_opset {opset}: {network} needs {node.op_type} of a newer opset: give a larger number, up to "
                f"{found.version}"
            ) from None
    found.version = opset
    model.ir_version = min(model.ir_version, helper.find_min_ir_version_for(model.opset_import, True))
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


class _Newer(Exception):
    """The older version of an operator cannot do the same."""


def _rewrite(node: onnx.NodeProto, old: Any, new: Any, constants: dict[str, onnx.TensorProto], folder: Path) -> None:
    """Rewrites a node for an older version of its operator; raises `_Newer` if that cannot do the same."""
    from onnx import helper, numpy_helper

    for attribute in [attribute for attribute in node.attribute if attribute.name not in old.attributes]:
        usual = new.attributes[attribute.name].default_value
        if helper.get_attribute_value(attribute) != helper.get_attribute_value(usual):
            raise _Newer
        node.attribute.remove(attribute)
    while len(node.input) > old.max_input:
        name = new.inputs[len(node.input) - 1].name
        constant = node.input.pop()
        if not constant:
            continue
        if name not in old.attributes or constant not in constants:
            raise _Newer
        values = numpy_helper.to_array(constants[constant], str(folder)).tolist()
        node.attribute.append(helper.make_attribute(name, values))
