"""Builds PyTorch modules from the graphs of torch.export programs.

Whatever a file asks for, only operators of the kinds that image classifiers use are called.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from utils.deploy.program_arguments import SIZE_BITS, bits_of_result, check_arguments, check_keyword, is_literal
from utils.errors import UserError, cut
from utils.formats.torch_program import DTYPES, Program, ProgramError, program_slots

# Numbers of PyTorch's enumerations in the programs' schema, as in `DTYPES` (torch/_export/serde/schema.py).
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
STRIDED_LAYOUT = 7
KEYWORD_ARGUMENT = 2

# Arithmetic on sizes.
PYTHON_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg")
}

# The operators (torch.ops.aten) that a program may call: those that the zoo's networks use, and similar ones. All of
# them check the bounds of their arguments. Many others do not, or give access to raw memory (as_strided, empty,
# from_file, resize_, set_, ...): through them a file could read and write anywhere.
_OVERLOADS = {
    "Tensor": "add add_ sub sub_ mul mul_ div div_ slice split index eq ne lt le gt ge remainder",
    "Scalar": "add add_ sub rsub mul mul_ div div_ eq ne lt le gt ge",
    "Tensor_Scalar": "pow",
    "Tensor_Tensor": "pow",
    "Tensor_mode": "div",
    "input": "conv_transpose2d",
    "self": "where",
    "stable": "sort",
    "default": """
        neg abs exp log sqrt rsqrt reciprocal square erf sin cos clamp clamp_ clamp_min clamp_max maximum
        minimum conv2d linear matmul mm bmm addmm scaled_dot_product_attention batch_norm layer_norm
        group_norm instance_norm dropout max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d
        adaptive_avg_pool2d relu relu_ relu6 relu6_ hardtanh hardtanh_ leaky_relu leaky_relu_ prelu elu elu_
        gelu silu silu_ mish mish_ sigmoid sigmoid_ hardsigmoid hardsigmoid_ hardswish hardswish_ tanh tanh_
        softplus mean sum amax amin argmax linalg_vector_norm reshape reshape_as view view_as permute t
        unsqueeze squeeze expand expand_as repeat tile contiguous clone alias detach narrow chunk
        split_with_sizes index_select cat stack pad constant_pad_nd roll flip channel_shuffle pixel_shuffle
        pixel_unshuffle im2col adaptive_max_pool2d floor ceil round trunc sign log1p log_sigmoid softshrink hardshrink
        threshold logit logical_and logical_or logical_not logical_xor isnan isinf isfinite argmin topk cumsum tril triu
        logsumexp fmax fmin arange linspace zeros ones full zeros_like ones_like full_like type_as
    """,
    "padding": "conv2d",
    "vec": "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d",
    "int": "softmax log_softmax unflatten transpose movedim select unbind sym_size",
    "dim": "mean squeeze all any",
    "dim_int": "prod",
    "dim_IntList": "sum",
    "using_ints": "flatten",
    "intlist": "movedim",
    "dims": "squeeze",
    "sizes": "split",
    "start": "arange",
    "start_step": "arange",
    "dtype": "to",
    "dtype_layout": "to",
    "device": "to",
}
OPERATORS = frozenset(f"{name}.{overload}" for overload, names in _OVERLOADS.items() for name in names.split())


def build_graph(program: Program, weights: Mapping[str, Tensor], device: torch.device) -> fx.GraphModule:
    """Builds a module that maps images to logits from a program.

    Each node's `meta["shape"]` is the shape of its result, with None for sizes that depend on the batch size.

    Args:
        program: as `read_program` returns it.
        weights: by the names of the program's slots, on `device`.
        device: where the module will run; it replaces the device of the export.

    Raises:
        ProgramError: the weights do not fit, or the program does something that an exported network does not.
    """
    try:
        return _Builder(program, weights, device).module()
    # fx compiles the code that it writes: SyntaxError.
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, SyntaxError) as error:
        raise ProgramError(f"a program that cannot be run here ({cut(str(error), 300)})") from None


class _Builder:
    """Translates the JSON graph to an fx graph, node by node."""

    def __init__(self, program: Program, weights: Mapping[str, Tensor], device: torch.device) -> None:
        self.described = program["graph_module"]["graph"]
        self.slots = program_slots(program)
        self.weights = weights
        self.device = device
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[str, fx.Node] = {}

    def module(self) -> fx.GraphModule:
        for given in self.described["inputs"]:
            self.add_input(given["as_tensor"]["name"])
        for node in self.described["nodes"]:
            if node["outputs"]:  # nodes without outputs are assertions of the exporter
                self.add_call(node)
        (output,) = self.described["outputs"]
        self.graph.output(self.values[output["as_tensor"]["name"]])
        for node in self.graph.find_nodes(op="get_attr"):
            if not node.users:
                self.graph.erase_node(node)
                delattr(self.root, node.target)
        return fx.GraphModule(self.root, self.graph)

    def define(self, name: str, node: fx.Node) -> None:
        """Stores a node under its result's name in the program."""
        self.values[name] = node
        if name in self.described["tensor_values"]:
            sizes = self.described["tensor_values"][name]["sizes"]
            node.meta["shape"] = tuple(size.get("as_int") for size in sizes)

    def add_input(self, name: str) -> None:
        if name not in self.slots:
            if self.graph.find_nodes(op="placeholder"):
                raise ValueError("it has other inputs than images")
            self.define(name, self.graph.placeholder("images"))
            return
        slot = self.slots[name]
        weight = self.weights.get(slot.name)
        if weight is None or weight.shape != slot.shape:
            raise ValueError(f"its weight {slot.name} must have the shape {slot.shape}")
        # fx writes attribute names into Python code, so the file's names are not used.
        attribute = f"weight_{len(self.values)}"
        self.root.register_buffer(attribute, weight)
        self.define(name, self.graph.get_attr(attribute))

    def add_call(self, node: dict[str, Any]) -> None:
        args, kwargs = [], {}
        for given in node["inputs"]:
            value = self.argument(given["arg"])
            if given.get("kind") == KEYWORD_ARGUMENT:
                check_keyword(given["name"])
                kwargs[given["name"]] = value
            else:
                args.append(value)
        target = node["target"]
        function = _function(target)
        if target in PYTHON_FUNCTIONS:
            bits = bits_of_result(target.removeprefix("_operator."), (*args, *kwargs.values()))
        else:
            bits = SIZE_BITS if target == "torch.ops.aten.sym_size.int" else None
            check_arguments(operator_of(target)._schema, args, kwargs)
        result = self.graph.call_function(function, tuple(args), kwargs)
        if bits is not None:
            result.meta["bits"] = bits
        outputs = node["outputs"]
        if len(outputs) == 1 and "as_tensors" in outputs[0]:
            names = [tensor["name"] for tensor in outputs[0]["as_tensors"]]
        else:
            names = [_output_name(output) for output in outputs]
            if len(names) == 1:
                self.define(names[0], result)
                return
        for index, name in enumerate(names):
            self.define(name, self.graph.call_function(operator.getitem, (result, index)))

    def argument(self, argument: dict[str, Any]) -> Any:
        """Reads an argument from the schema's tagged union."""
        ((kind, value),) = argument.items()
        match kind:
            case "as_none":
                return None
            case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_floats" | "as_bools":
                if not is_literal(kind, value):
                    raise ValueError(f"an argument is not a valid {kind.removeprefix('as_')}")
                return value
            case "as_float":
                return float(value)  # infinity is stored as a text
            case "as_tensor":
                return self.values[value["name"]]
            case "as_tensors":
                return [self.values[item["name"]] for item in value]
            case "as_name":
                return self.values[value]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool" | "as_optional_tensor":
                return self.argument(value)
            case "as_sym_ints" | "as_optional_tensors":
                return [self.argument(item) for item in value]
            case "as_scalar_type":
                return DTYPES[value]
            case "as_memory_format":
                return MEMORY_FORMATS[value]
            case "as_layout" if value == STRIDED_LAYOUT:
                return torch.strided
            case "as_device":
                return self.device
        raise ValueError(f"an argument is of kind {kind}")


def _output_name(output: dict[str, Any]) -> str:
    ((kind, value),) = output.items()
    return value["as_name"] if kind.startswith("as_sym_") else value["name"]


def _function(target: str) -> Callable[..., Any]:
    """The function that a node calls.

    Raises:
        ValueError: the target is neither in `OPERATORS` nor arithmetic on sizes.
    """
    if not isinstance(target, str):
        raise ValueError("the target of a call is not a name")
    if target in PYTHON_FUNCTIONS:
        return PYTHON_FUNCTIONS[target]
    name = target.removeprefix("torch.ops.aten.")
    if name == target or name not in OPERATORS:
        raise ValueError(f"it calls {target[:100]!r}, which no network in models/ uses")
    if name == "view.default":
        # A view of images in channels_last order may need a copy.
        return torch.ops.aten.reshape.default
    if name == "scaled_dot_product_attention.default":
        return attention
    return operator_of(target)


def operator_of(target: str) -> torch._ops.OpOverload:
    """The operator of a name in `OPERATORS`."""
    packet, _, overload = target.removeprefix("torch.ops.aten.").partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` for equally many keys and values.

    On CPUs PyTorch does not check their numbers, and reads beyond the end of the keys.

    Raises:
        UserError: the numbers of keys and values differ.
    """
    if key.shape[-2] != value.shape[-2]:
        raise UserError(
            f"--model_file is not a network of models/: its attention has {key.shape[-2]} keys but {value.shape[-2]} "
            "values"
        )
    return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
