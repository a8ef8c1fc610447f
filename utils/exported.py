"""Exported networks: what infer.py --save_inference=True writes, read and run without models/.

    NAME/model     a torch.export program without weights, and a description of the network beside it in the archive
    NAME/params    its weights, safetensors

`torch.export.load` takes such a model file as well (its weights are then zeros, to be replaced in `state_dict`). Here
it is not used, since it may run what a file tells it to: only the program's graph is read, as data, and only PyTorch's
own operators are called.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, fx, nn

from utils.errors import UserError

DESCRIPTION = "description.json"
FORMAT = 1

# Numbers that the programs' schema has for PyTorch's enumerations (torch/_export/serde/schema.py, major version 8).
SCHEMA_MAJOR = 8
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
STRIDED_LAYOUT = 7

PYTHON_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in (
        "getitem",
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    )
}


@dataclass(frozen=True)
class Description:
    """What an exported network is, and how its images are prepared.

    Attributes:
        network: its name, as in --model.
        class_names: one per class.
        image_shape: channels, height, width.
        resize_short_size, interpolation: as the flags; see `reader.EvalTransform`.
        image_mean, image_std: per channel, RGB, for pixels scaled to 0..1; see `reader.normalize`.
        params_sha256: of the file of weights that belongs to the model file.
        params_bytes: its size.
        format: version of this description.
    """

    network: str
    class_names: list[str]
    image_shape: list[int]
    resize_short_size: int
    interpolation: int
    image_mean: list[float]
    image_std: list[float]
    params_sha256: str = ""
    params_bytes: int = 0
    format: int = FORMAT

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_shape[1], self.image_shape[2]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, path: str) -> Description:
        """Reads a description; `path` is the file that holds it, for errors.

        Raises:
            UserError: not a description, or one of another version.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise UserError(
                    f"{path} has format {values['format']}, and this program reads {FORMAT}: export the network again"
                )
            description = cls(**{field.name: values[field.name] for field in fields(cls)})
            numbers = [*description.image_shape, description.resize_short_size, description.params_bytes]
            if len(description.image_shape) != 3 or not all(type(number) is int for number in numbers):
                raise ValueError("not sizes")
            if not all(isinstance(value, float) for value in description.image_mean + description.image_std):
                raise ValueError("not a mean and a deviation")
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged: its description cannot be read; export the network again") from None
        return description


def sha256(path: str) -> str:
    """Checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------- model file


def read_program(path: str) -> tuple[dict[str, Any], Description]:
    """Reads a model file that infer.py --save_inference=True wrote.

    Returns:
        The program as torch.export writes it (JSON), and the network's description.

    Raises:
        UserError: no such file, another kind of file, a damaged one, or one of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # All members are in one folder, whose name PyTorch takes from the file's.
            members = {name.partition("/")[2]: name for name in archive.namelist()}
            if f"extra/{DESCRIPTION}" not in members:
                raise UserError(f"{path} was not written by infer.py --save_inference=True: it has no description")
            description = Description.from_json(archive.read(members[f"extra/{DESCRIPTION}"]), path)
            program = json.loads(archive.read(members["models/model.json"]))
            major = program["schema_version"]["major"]
    except OSError as error:
        raise UserError(f"--model_file {path}: {(error.strerror or str(error)).lower()}") from None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError):
        raise UserError(
            f"--model_file {path} is not an exported network, or is damaged: infer.py --save_inference=True writes it"
        ) from None
    if major != SCHEMA_MAJOR:
        raise UserError(
            f"--model_file {path} was written by PyTorch {program.get('torch_version')} in version {major} of its "
            f"format, and this program reads {SCHEMA_MAJOR}: export the network again"
        )
    return program, description


def _function(target: str) -> Callable[..., Any]:
    """The function that a node calls: one of PyTorch's own operators, or arithmetic on sizes.

    Raises:
        ValueError: anything else.
    """
    if target in PYTHON_FUNCTIONS:
        return PYTHON_FUNCTIONS[target]
    parts = target.split(".")
    # from_file is the one operator of the namespace that reaches outside its arguments.
    if len(parts) == 5 and parts[:3] == ["torch", "ops", "aten"] and parts[3] != "from_file":
        packet = getattr(torch.ops.aten, parts[3], None)
        if parts[4] in getattr(packet, "overloads", list)():
            return getattr(packet, parts[4])
    raise ValueError(f"it calls {target}, which is not an operator of PyTorch {torch.__version__}")


def _argument(argument: dict[str, Any], values: dict[str, fx.Node], device: torch.device) -> Any:
    """An argument of a node, from the schema's tagged union."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_float" | "as_bool" | "as_string" | "as_ints" | "as_floats" | "as_bools":
            return value
        case "as_tensor":
            return values[value["name"]]
        case "as_tensors":
            return [values[item["name"]] for item in value]
        case "as_name":
            return values[value]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool" | "as_optional_tensor":
            return _argument(value, values, device)
        case "as_sym_ints" | "as_optional_tensors":
            return [_argument(item, values, device) for item in value]
        case "as_scalar_type":
            return DTYPES[value]
        case "as_memory_format":
            return MEMORY_FORMATS[value]
        case "as_layout" if value == STRIDED_LAYOUT:
            return torch.strided
        case "as_device":
            return device
    raise ValueError(f"it has an argument of kind {kind}")


def _result_names(outputs: list[dict[str, Any]]) -> list[str] | str | None:
    """Names of what a node returns: one name for a single value, a list for several, None for nothing."""
    if not outputs:
        return None
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        return [item["name"] for item in outputs[0]["as_tensors"]]
    names = []
    for output in outputs:
        ((kind, value),) = output.items()
        names.append(value["as_name"] if kind.startswith("as_sym") else value["name"])
    return names if len(names) > 1 else names[0]


def weight_slots(program: dict[str, Any]) -> dict[str, tuple[str, torch.dtype, tuple[int, ...]]]:
    """The weights that a program takes: placeholder -> (name among the weights, dtype, shape)."""
    shapes = program["graph_module"]["graph"]["tensor_values"]
    slots = {}
    for spec in program["graph_module"]["signature"]["input_specs"]:
        ((kind, value),) = spec.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            placeholder = value["arg"]["name"]
            meta = shapes[placeholder]
            shape = tuple(size["as_int"] for size in meta["sizes"])
            slots[placeholder] = value[f"{kind}_name"], DTYPES[meta["dtype"]], shape
        elif kind != "user_input":
            raise ValueError(f"it has an input of kind {kind}")
    return slots


def build_graph(program: dict[str, Any], weights: dict[str, Tensor], device: torch.device) -> fx.GraphModule:
    """Builds a program's graph as a module that maps images to logits.

    Args:
        program: as `read_program` returns it.
        weights: by name, on `device`.

    Raises:
        ValueError: the program does what an exported network does not.
    """
    described = program["graph_module"]["graph"]
    root = nn.Module()
    graph = fx.Graph()
    values: dict[str, fx.Node] = {}
    slots = weight_slots(program)
    for given in described["inputs"]:
        name = given["as_tensor"]["name"]
        if name in slots:
            attribute = f"weight{len(values)}"
            root.register_buffer(attribute, weights[slots[name][0]])
            values[name] = graph.get_attr(attribute)
        else:
            values[name] = graph.placeholder("images")
    for node in described["nodes"]:
        function = _function(node["target"])
        args, kwargs = [], {}
        for given in node["inputs"]:
            value = _argument(given["arg"], values, device)
            if given["kind"] == 2:
                kwargs[given["name"]] = value
            else:
                args.append(value)
        result = graph.call_function(function, tuple(args), kwargs)
        names = _result_names(node["outputs"])
        if isinstance(names, str):
            values[names] = result
        elif names is not None:
            values.update({name: graph.call_function(operator.getitem, (result, i)) for i, name in enumerate(names)})
    (output,) = described["outputs"]
    graph.output(values[output["as_tensor"]["name"]])
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph)


# -------------------------------------------------------------------------------------------------- params file


def read_params(path: str, description: Description, model_path: str) -> dict[str, Tensor]:
    """Reads the weights that belong to a model file.

    Raises:
        UserError: no such file, a damaged one, or another model's.
    """
    try:
        size = os.path.getsize(path)
        intact = size == description.params_bytes and sha256(path) == description.params_sha256
        if intact:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        with safe_open(path, "pt") as file:
            network = (file.metadata() or {}).get("network", "unknown")
    except OSError as error:
        raise UserError(f"--params_file {path}: {(error.strerror or str(error)).lower()}") from None
    except SafetensorError:
        raise UserError(
            f"--params_file {path} is not the file of weights that was written with {model_path}: it has {size} bytes "
            f"of {description.params_bytes}, or is damaged"
        ) from None
    raise UserError(
        f"--params_file {path} (network {network}) does not belong to --model_file {model_path} (network "
        f"{description.network}): give the two files that were written together"
    )


# ------------------------------------------------------------------------------------------------------- engine


class ExportedNetwork:
    """A network that was read back and is ready to run: normalized images to logits.

    Attributes:
        description: what it is, and how its images are prepared.
        device: where it runs; images are expected there.
        dtype: of the images it takes and of its arithmetic.
        memory_format: of the images it likes best.
    """

    def __init__(self, module: nn.Module, description: Description, device: torch.device, dtype: torch.dtype) -> None:
        self.description = description
        self.device = device
        self.dtype = dtype
        self.memory_format = torch.channels_last
        self._module = module

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalized, of `dtype` and on `device`, to logits, float32 (N, classes)."""
        return self._module(images).float()


def load_exported(
    model_file: str,
    params_file: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ExportedNetwork:
    """Loads what infer.py --save_inference=True wrote.

    Args:
        model_file: NAME/model.
        params_file: NAME/params; None: the file of that name beside the model file.
        device: where to run it.
        dtype: float32, bfloat16 or float16.

    Raises:
        UserError: files that are missing, damaged, of another version, or do not belong together.
    """
    device = torch.device(device)
    if params_file is None:
        params_file = os.path.join(os.path.dirname(model_file), "params")
    program, description = read_program(model_file)
    weights = read_params(params_file, description, model_file)
    try:
        for name, slot_dtype, shape in weight_slots(program).values():
            if name not in weights or weights[name].shape != shape or weights[name].dtype != slot_dtype:
                raise ValueError(f"its weight {name} is not {shape} in {params_file}")
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                tensor = tensor.to(dtype)
            layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
            weights[name] = tensor.to(device, memory_format=layout)
        module = build_graph(program, weights, device)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"--model_file {model_file} is damaged, or not an exported network: {error}") from None
    return ExportedNetwork(module, description, device, dtype)
