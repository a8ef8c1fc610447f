"""The tables of operators, and the mapping of both dialects' arguments to those of one function.

Each PaddlePaddle operator is one function, whose parameters are named as in Paddle 2 and 3. Its annotations give the
kinds of the parameters; a program may pass them as tensors or as attributes:

    Value           a tensor
    list[Value]     several tensors
    int, float, bool, str, torch.dtype    one of these, independent of the images
    Ints            several numbers that do not depend on the number of images
    Sizes           several numbers that may depend on it

`@desc` and `@pir` register a function for ProgramDesc (fluid 1.x to Paddle 2.6), which has named slots of operands, and
for PIR (Paddle 3), whose operands have an order.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from utils.formats.paddle_program import DATA_TYPES, Operation
from utils.programs.paddle_ops.sizes import BatchSize, Size, TranslationError
from utils.programs.paddle_ops.values import Value, known_sizes

Ints = list[int]
Sizes = list[Size]

DTYPES = {
    "bool": torch.bool, "uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32,
    "int64": torch.int64, "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32,
    "float64": torch.float64,
}  # fmt: skip

# Attributes that change a result unless they have this value. Other attributes without a parameter do not matter: they
# give the operator's origin, its library or its behaviour in training.
NEUTRAL: dict[str, Any] = {
    "fuse_relu": False, "fuse_with_relu": False, "fuse_brelu": False, "fuse_activation": "", "fuse_eltwise": False,
    "fuse_residual_connection": False, "fuse_relu_before_depthwise_conv": False, "with_act": False,
    "activation_type": "", "act_type": "", "trainable_statistics": False, "enable_int8": False,
    "mkldnn_data_type": "float32", "onednn_data_type": "", "output_data_type": "", "use_quantizer": False,
    "fused_output_scale": 1.0, "fused_squeeze2_axes": [], "fused_unsqueeze2_axes": [],
    "fused_reshape2_shape": [], "fused_reshape_Out": [], "fused_transpose_Out": [],
}  # fmt: skip

# The start of a quantization_type that leaves weights in steps. Others only name the origin of quantizing operators.
WEIGHTS_IN_STEPS = "post_weight"

MAX_LIST = 2**16

# The slot that stands for all of PIR's operands.
ALL = "*"


class Parameter(NamedTuple):
    """A parameter of an operator's function.

    Attributes:
        kind: its annotation without `| None`.
        optional: whether it may be None.
        required: whether it has no default.
    """

    kind: Any
    optional: bool
    required: bool


class Operator(NamedTuple):
    """How an operation of one dialect calls an operator's function.

    Attributes:
        function: takes a `Builder` and named arguments, and returns a value, a list of values, or a tuple of these.
        operands: (slot, parameter); the first filled slot is used; PIR's slots are positions, or `ALL`.
        attributes: attribute's name -> parameter, if they differ.
        results: slots of the function's results.
        parameters: the function's parameters.
    """

    function: Callable[..., Any]
    operands: tuple[tuple[Any, str], ...]
    attributes: Mapping[str, str]
    results: tuple[str, ...]
    parameters: Mapping[str, Parameter]


DESC: dict[str, Operator] = {}
PIR: dict[str, Operator] = {}

Function = typing.TypeVar("Function", bound=Callable[..., Any])


def desc(
    names: str, operands: str = "X:x", attributes: str = "", results: str = "Out"
) -> Callable[[Function], Function]:
    """Registers a function for operators of ProgramDesc.

    Args:
        names: the operators' names.
        operands: "Slot:parameter ..."; if several slots give a parameter, the first filled one is used.
        attributes: "attribute:parameter ...", for attributes with another name.
        results: slots of the function's results.
    """

    def register(function: Function) -> Function:
        pairs = tuple((slot, name) for slot, name in (pair.split(":") for pair in operands.split()))
        renamed = dict(pair.split(":") for pair in attributes.split())
        entry = Operator(function, pairs, renamed, tuple(results.split()), _parameters(function))
        _check(entry, names)
        DESC.update(dict.fromkeys(names.split(), entry))
        return function

    return register


def pir(names: str, operands: str = "x", attributes: str = "") -> Callable[[Function], Function]:
    """Registers a function for operators of PIR.

    Args:
        names: the operators' names.
        operands: the parameters in the order of the operands; "_" skips one, "parameter*" takes all operands.
        attributes: "attribute:parameter ...", for attributes with another name.
    """

    def register(function: Function) -> Function:
        renamed = dict(pair.split(":") for pair in attributes.split())
        slots = tuple(
            (ALL if name[-1] == "*" else slot, name.rstrip("*")) for slot, name in enumerate(operands.split())
        )
        entry = Operator(function, slots, renamed, (), _parameters(function))
        _check(entry, names)
        PIR.update(dict.fromkeys(names.split(), entry))
        return function

    return register


def _parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    hints = typing.get_type_hints(function)
    found = {}
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        kind = hints[name]
        optional = isinstance(kind, types.UnionType) and types.NoneType in typing.get_args(kind)
        if optional:
            kinds = [item for item in typing.get_args(kind) if item is not types.NoneType]
            kind = kinds[0] if len(kinds) == 1 else typing.Union[tuple(kinds)]  # noqa: UP007 (made of a list)
        found[name] = Parameter(kind, optional, parameter.default is parameter.empty)
    return found


def _check(entry: Operator, names: str) -> None:
    for name in (*(parameter for _, parameter in entry.operands if parameter != "_"), *entry.attributes.values()):
        assert name in entry.parameters, f"{names}: {entry.function.__name__} has no parameter {name}"


# --------------------------------------------------------------------------------------------------- arguments


def arguments(entry: Operator, operation: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that an operation passes to its function.

    Args:
        entry: the entry for the operation's kind.
        operation: the program's operation.
        values: values by name; the names of PIR's lists have lists.

    Raises:
        TranslationError: an argument is missing or invalid.
    """
    found: dict[str, Any] = {}
    for slot, parameter in entry.operands:
        if parameter in found or parameter == "_":
            continue
        if slot is ALL:
            names = operation.inputs.get("", ())
        elif isinstance(slot, int):
            positional = operation.inputs.get("", ())
            names = tuple(name for name in positional[slot : slot + 1] if name)
        else:
            names = operation.inputs.get(slot, ())
        if names:
            found[parameter] = _from_operands([_look_up(values, name) for name in names], parameter, entry)
    for attribute, given in operation.attributes.items():
        parameter = entry.attributes.get(attribute, attribute)
        if parameter in entry.parameters:
            if parameter not in found:
                found[parameter] = _from_attribute(given, parameter, entry)
        elif _changes_result(attribute, given):
            raise TranslationError(f"its attribute {attribute} is {str(given)[:50]!r}, which is not supported")
    for name, parameter in entry.parameters.items():
        if parameter.required and name not in found:
            raise TranslationError(f"it has no {name}")
    return found


def _changes_result(attribute: str, given: Any) -> bool:
    """Whether an attribute without a parameter changes the result."""
    if attribute == "quantization_type":
        return isinstance(given, str) and given.startswith(WEIGHTS_IN_STEPS)
    return attribute in NEUTRAL and given != NEUTRAL[attribute] and bool(given)


def _look_up(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise TranslationError(f"it uses {name[:100]!r}, which is defined in training only")
    return values[name]


def _from_operands(given: list[Any], parameter: str, entry: Operator) -> Any:
    """An argument from the tensors in a slot."""
    kind = entry.parameters[parameter].kind
    flat: list[Value] = []
    for item in given:
        flat.extend(item if isinstance(item, list) else [item])
    if kind == list[Value]:
        return flat
    if kind in (Sizes, Ints):
        sizes = [size for value in flat for size in known_sizes(value, parameter)]
        if kind == Ints and any(isinstance(size, BatchSize) for size in sizes):
            raise TranslationError(f"its {parameter} depends on the number of images")
        return sizes
    if len(flat) != 1:
        raise TranslationError(f"its {parameter} is {len(flat)} tensors, not one")
    (value,) = flat
    if kind is Value:
        return value
    if kind == list[float]:
        if value.constant is None or value.constant.numel() > MAX_LIST:
            raise TranslationError(f"its {parameter} is computed from the images")
        return [float(number) for number in value.constant.flatten().tolist()]
    if kind == Size:
        (size,) = known_sizes(value, parameter) if value.known and value.known[0].numel() == 1 else [None]
        if size is None:
            raise TranslationError(f"its {parameter} is not a number that is known in advance")
        return size
    number = value.number
    if number is None:
        raise TranslationError(f"its {parameter} is computed from the images")
    return _from_attribute(number, parameter, entry)


def _from_attribute(given: Any, parameter: str, entry: Operator) -> Any:
    """An argument from an attribute, which may be anything that a file can hold."""
    kind, optional, _ = entry.parameters[parameter]
    if kind is torch.dtype:
        name = DATA_TYPES.get(given) if type(given) is int else given
        if not isinstance(name, str) and optional:  # such as -1: the input's type
            return None
        if not isinstance(name, str) or name not in DTYPES:
            shown = str(given if name is None else name)[:50]
            raise TranslationError(f"its {parameter} is {shown!r}, which is not a supported type")
        return DTYPES[name]
    if kind in (Ints, Sizes):
        items = given if isinstance(given, list | tuple) else [given]
        if len(items) <= MAX_LIST and all(_is_int(item) for item in items):
            return [int(item) for item in items]
    elif (kind is int or kind == Size) and _is_int(given):
        return int(given)
    elif kind is float and isinstance(given, int | float):
        return float(given)
    elif kind is bool and isinstance(given, bool | int):
        return bool(given)
    elif kind is str and isinstance(given, str):
        return given
    elif kind == list[float]:
        items = list(given) if isinstance(given, list | tuple) else [given]
        if len(items) <= MAX_LIST and all(isinstance(item, int | float) for item in items):
            return items
    elif kind is int and isinstance(given, list | tuple) and len(given) == 1 and _is_int(given[0]):
        return int(given[0])
    raise TranslationError(f"its {parameter} is {str(given)[:50]!r}, which is invalid")


def _is_int(given: Any) -> bool:
    """Whether it is an integer of at most 64 bits."""
    if isinstance(given, float):
        return given.is_integer() and abs(given) < 2**53
    return isinstance(given, int) and -(2**63) <= given < 2**63
