"""Finds out how a program or a network uses its parameters: in which roles, after which others, by which paths.

Both become a graph of parameters, so that `utils.weights.by_use` can match them. Operations that only change a tensor's
layout do not count, nor do any names.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from models.network import Network, main_output
from utils.formats.paddle_program import Operation, Program

# Operations that only change a tensor's layout: a parameter stays a parameter.
_LAYOUTS = frozenset({
    "reshape", "reshape2", "transpose", "transpose2", "unsqueeze", "unsqueeze2", "squeeze", "squeeze2", "expand",
    "cast", "expand_v2", "assign", "flatten_contiguous_range", "flatten", "share_data", "scale", "tile", "gather",
    "index_select", "index_sample",
})  # fmt: skip
_ATEN_LAYOUTS = frozenset({
    "t", "view", "_unsafe_view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "expand", "clone",
    "_to_copy", "alias", "detach", "repeat", "flatten", "index", "index_select",
})  # fmt: skip
# Operations whose results are sizes.
_SIZES = frozenset({"shape", "shape64", "size", "numel"})
# Activations in both: they may be composed differently, but are in the same places.
_ACTIVATIONS = frozenset({
    "relu", "relu6", "sigmoid", "hard_swish", "hardswish", "hard_sigmoid", "hardsigmoid", "swish", "silu", "gelu",
    "softmax", "tanh", "leaky_relu", "mish", "elu", "hardtanh", "clip", "clamp", "_softmax", "_safe_softmax",
})  # fmt: skip
_PIECES = frozenset({"split", "split_with_sizes", "unsafe_split", "chunk", "unbind", "split_with_num"})
# A normalization's operands: by slot in a ProgramDesc, by position in PIR and in PyTorch.
_SLOTS = {"Scale": "scale", "Bias": "offset", "Mean": "mean", "Variance": "variance"}
_PIR_NORMS = {
    "batch_norm": ("mean", "variance", "scale", "offset"),
    "batch_norm_": ("mean", "variance", "scale", "offset"),
    "sync_batch_norm_": ("mean", "variance", "scale", "offset"),
    "layer_norm": ("scale", "offset"),
    "group_norm": ("scale", "offset"),
    "instance_norm": ("scale", "offset"),
}
_ATEN_NORMS = {
    "native_batch_norm": ("scale", "offset", "mean", "variance"),
    "_native_batch_norm_legit_no_training": ("scale", "offset", "mean", "variance"),
    "_batch_norm_no_update": ("scale", "offset", "mean", "variance"),
    "cudnn_batch_norm": ("scale", "offset", "mean", "variance"),
    "native_layer_norm": ("", "scale", "offset"),
    "native_group_norm": ("scale", "offset"),
}
# Longest path between two parameters.
_MAX_WAY = 32

# The output's name among the parameters: it is "used" after the last of them.
ANSWER = ""

Way = tuple[str, ...]


@dataclass(frozen=True)
class _Value:
    """A tensor: a parameter, or a value computed from the parameters before it, each with the path from its result.

    Attributes:
        parameter: the parameter's name, if it is one (perhaps in another layout).
        shape: its shape.
        gathered: for a parameter from which rows were picked, the operation that picks them.
        before: the parameters before it, with their paths.
        layer: if it is the direct result of a convolution or linear layer, the layer's last parameter.
        masked: whether a constant was added to the parameter; later changes of layout then do not count.
    """

    parameter: str | None = None
    shape: tuple[int, ...] = ()
    gathered: Callable[[Tensor], Tensor] | None = None
    before: frozenset[tuple[str, Way]] = frozenset()
    layer: str | None = None
    masked: bool = False

    def step(self, *steps: str) -> _Value:
        """The value after an operation without parameters."""
        before = frozenset((name, (*way, *steps)[:_MAX_WAY]) for name, way in self.before)
        return _Value(before=before, layer=None if steps else self.layer)

    def moved(self, place: int) -> _Value:
        """The value at a position in a concatenation."""
        return _Value(
            before=frozenset(
                (name, (*way[:-1], f"place {int(way[-1][6:]) + place}"))
                if way and way[-1].startswith("place ")
                else (name, (*way, f"place {place}")[:_MAX_WAY])
                for name, way in self.before
            )
        )


@dataclass
class Uses:
    """The parameters that are used, in the order of their use.

    Attributes:
        folded: the layers into which a batch norm right after them is folded, so that it counts as a bias: "all",
            "dense" for all but depthwise convolutions, or "" for none.
        kinds: names -> role and shape.
        before: names -> the parameters that each is applied after, and the paths between.
        gathered: names -> how their rows are picked, if they are.
        depthwise: the weights of depthwise convolutions.
        norms: with `folded`, the offsets of such batch norms -> their other tensors, and the layer's own bias.
        classes: the last layer's number of classes; 0: unknown.
    """

    folded: str = ""
    kinds: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    before: dict[str, set[tuple[str, Way]]] = field(default_factory=lambda: defaultdict(set))
    gathered: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    depthwise: set[str] = field(default_factory=set)
    norms: dict[str, dict[str, str]] = field(default_factory=dict)
    classes: int = 0

    def use(self, value: _Value, role: str, before: Iterable[tuple[str, Way]]) -> None:
        """Records that a parameter is applied to the results of `before`."""
        assert value.parameter is not None
        # A linear layer's weight is [in, out] in programs, and [out, in] or a 1 x 1 convolution here; biases may have
        # dimensions of 1.
        sizes = tuple(size for size in value.shape if size != 1)
        is_linear = len(value.shape) == 2 or value.shape[2:] == (1, 1)
        sizes = tuple(sorted(sizes)) if is_linear and len(sizes) == 2 else sizes
        role = role or ("weight" if len(sizes) > 1 else "bias")
        self.kinds.setdefault(value.parameter, (role, sizes))
        if len(value.shape) == 4 and value.shape[1] == 1 < value.shape[0]:
            self.depthwise.add(value.parameter)
        self.before[value.parameter].update((name, way) for name, way in before if name != value.parameter)
        if value.gathered is not None:
            self.gathered[value.parameter] = value.gathered

    def end(self, value: _Value, classes: int) -> None:
        """Records what the output is computed from. A final softmax does not count."""
        self.classes = classes
        self.kinds[ANSWER] = ("answer", ())
        self.before[ANSWER] = {(name, way[:-1] if way[-1:] == ("activation",) else way) for name, way in value.before}

    def apply(self, kind: str, values: Iterable[tuple[_Value, str]]) -> _Value:
        """The result of an operation on values, each with its role."""
        given = list(values)
        data = [value for value, _ in given if value.parameter is None]
        before = frozenset[tuple[str, Way]]().union(*(value.before for value in data))
        roles = {role: value for value, role in given if value.parameter and role}
        if "mean" in roles:  # a batch norm applies all of its parameters at once
            layer = data[0].layer if len(data) == 1 else None
            if layer is not None and self._is_folded(layer):
                return self._fold(layer, roles)
            for role, value in roles.items():
                self.use(value, role, before)
            return _Value(before=frozenset((value.parameter or "", ()) for value in roles.values()))
        # Other operations apply them one after another: the bias after the weight, the offset after the scale.
        order = {"scale": 0, "offset": 1}
        alone = [(value, role) for value, role in given if value.parameter]
        alone.sort(key=lambda entry: order.get(entry[1], -len(entry[0].shape)))
        for value, _ in alone:
            self.use(value, "", before)
            before = frozenset([(value.parameter or "", ())])
        result = _Value(before=before)
        if not alone:
            return result.step("activation") if kind in _ACTIVATIONS else result
        # A layer's bias may be a separate operation.
        is_layer = len(alone[0][0].shape) in (2, 4) and not roles
        if is_layer or (len(data) == 1 and data[0].layer and len(alone) == 1 and not roles and "add" in kind):
            result = replace(result, layer=alone[-1][0].parameter)
        return result

    def _is_folded(self, layer: str) -> bool:
        """Whether a batch norm is folded into the layer before it, whose last parameter is `layer`."""
        first = layer
        if self.kinds[layer][0] == "bias":
            first = next((name for name, _ in self.before[layer]), layer)
        return self.folded == "all" or (self.folded == "dense" and first not in self.depthwise)

    def _fold(self, layer: str, roles: Mapping[str, _Value]) -> _Value:
        """Records a batch norm as the bias of a layer."""
        offset = roles["offset"]
        others = {role: value.parameter or "" for role, value in roles.items() if role != "offset"}
        before: Iterable[tuple[str, Way]] = [(layer, ())]
        if self.kinds[layer][0] == "bias":
            others["bias"] = layer
            del self.kinds[layer]
            before = self.before.pop(layer)
        self.norms[offset.parameter or ""] = others
        self.use(offset, "", before)
        return _Value(before=frozenset([(offset.parameter or "", ())]))


# ---------------------------------------------------------------------------------------------------- of a program


def uses_of_program(program: Program) -> Uses:
    """How a program uses its parameters."""
    variables = program.variables
    uses = Uses()
    values = {
        name: _Value(parameter=name, shape=variables[name].shape or ())
        for name in program.parameters
        if variables[name].dtype in ("float16", "bfloat16", "float32", "float64")
    }
    for operation in _spelled_out(program.operations):
        known = [(values[name], role) for name, role in _inputs(operation, program) if name in values]
        if operation.kind in _SIZES or not known:
            result = _Value()
        elif operation.kind in _LAYOUTS and known[0][0].parameter:
            result = known[0][0]
        elif operation.kind in ("concat", "combine"):
            names = [name for name, _ in _inputs(operation, program) if name in values]
            result = _joined(
                uses, known, [(variables[name].shape or ()) if name in variables else () for name in names]
            )
        else:
            result = uses.apply(operation.kind.rstrip("_"), known)
        outputs = [name for names in operation.outputs.values() for name in names if name not in program.parameters]
        for place, name in enumerate(outputs):  # (a batch norm returns its statistics, which are parameters)
            is_piece = operation.kind in _PIECES and len(outputs) > 1
            values[name] = result.step(f"piece {place}") if is_piece and not result.parameter else result
    answers = [(name, variables[name].shape or ()) for name in program.fetches if name in variables]
    for name, shape in [(name, shape) for name, shape in answers if len(shape) == 2][:1]:
        uses.end(values.get(name, _Value()), shape[-1])
    return uses


def _spelled_out(operations: Iterable[Operation]) -> Iterator[Operation]:
    """The operations, with sums and activations that an engine fused into others as separate operations again."""
    for operation in operations:
        outputs = tuple(name for names in operation.outputs.values() for name in names)[:1]
        inputs = {slot: names for slot, names in operation.inputs.items() if slot != "ResidualData"}
        yield replace(operation, inputs=inputs)
        if "ResidualData" in operation.inputs:
            yield Operation("add", {"X": outputs, "Y": operation.inputs["ResidualData"]}, {"Out": outputs}, {})
        if operation.attributes.get("fuse_activation") or operation.attributes.get("activation_type"):
            yield Operation("relu", {"X": outputs}, {"Out": outputs}, {})


def _joined(uses: Uses, known: list[tuple[_Value, str]], shapes: Iterable[Iterable[int]]) -> _Value:
    """The result of a concatenation, in which positions count. (Nested concatenations count as one.)"""
    place, placed = 0, []
    for (value, role), shape in zip(known, shapes, strict=True):
        placed.append((value if value.parameter or len(known) == 1 else value.moved(place), role))
        place += math.prod(size for size in (*shape,)[1:] if size > 0)
    return uses.apply("concat", placed)


def _inputs(operation: Operation, program: Program) -> Iterable[tuple[str, str]]:
    """The names of an operation's operands, with their roles in a normalization."""
    if program.dialect == "pir":
        names = operation.inputs.get("", ())
        roles = ("", *_PIR_NORMS.get(operation.kind, ()))
        return [(name, roles[place] if place < len(roles) else "") for place, name in enumerate(names)]
    is_norm = operation.kind.endswith("_norm")
    return [
        (name, _SLOTS.get(slot, "") if is_norm else "") for slot, names in operation.inputs.items() for name in names
    ]


# ---------------------------------------------------------------------------------------------------- of a network


class _Recorder(TorchDispatchMode):
    """Records how a network uses its parameters while it runs."""

    def __init__(self, tensors: Mapping[str, Tensor], folded: str, gathered: bool) -> None:
        super().__init__()
        self.uses = Uses(folded)
        self.values = {id(t): _Value(parameter=name, shape=tuple(t.shape)) for name, t in tensors.items()}
        self.gathered = gathered
        self._kept: list[Any] = []  # keeps tensors alive: a freed tensor's id can be reused

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        self._kept.append((args, kwargs, result))
        kind = operator.overloadpacket.__name__.rstrip("_")
        roles = ("", *_ATEN_NORMS.get(kind, ()))
        given = []
        for place, argument in enumerate((*args, *kwargs.values())):
            role = roles[place] if place < len(roles) else ""
            for tensor in tree_leaves(argument):
                if isinstance(tensor, Tensor) and (value := self.values.get(id(tensor))) is not None:
                    given.append((value, role))
        if kind == "add" and len(given) == 1 and given[0][0].parameter:
            # A mask added to a parameter, rather than to the value that the parameter is added to.
            self.values[id(result)] = replace(given[0][0], masked=True)
            return result
        if kind in _ATEN_LAYOUTS and given and given[0][0].parameter:
            value = self._laid_out(given[0][0], operator, args, kwargs, result)
            self.values[id(result)] = value
            return result
        if kind.startswith("_scaled_dot_product") and len(given) > 2:
            # Query, key, value; a bias of the scores may follow.
            scores = self.uses.apply("scores", [*given[:2], *given[3:]]).step("activation")
            given = [(scores, ""), given[2]]
        if kind == "cat" and len(given) == len(args[0]):
            value = _joined(self.uses, given, [tensor.shape for tensor in args[0]])
        else:
            value = self.uses.apply(kind, given)
        pieces = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        for place, tensor in enumerate(pieces):
            if (self.values.get(id(tensor)) or value).parameter is None:
                self.values[id(tensor)] = value.step(f"piece {place}") if kind in _PIECES else value
        return result

    def _laid_out(self, value: _Value, operator: Any, args: Any, kwargs: Any, result: Tensor) -> _Value:
        """A parameter in another layout. Picking its rows counts if several patterns are possible."""
        picks = operator.overloadpacket.__name__ in ("index", "index_select")
        if not self.gathered or value.masked or not (picks or value.gathered):
            return value
        earlier, own = value.gathered or _same, args[0]

        def gathered(tensor: Tensor) -> Tensor:
            given = earlier(tensor)
            return operator(*tree_map(lambda each: given if each is own else each, args), **kwargs)

        return replace(value, shape=tuple(result.shape), gathered=gathered)


def _same(tensor: Tensor) -> Tensor:
    return tensor


@torch.no_grad()
def uses_of_network(
    model: Network, image_shape: tuple[int, ...], *, folded: str = "", computed: bool = True, gathered: bool = False
) -> Uses:
    """How a network uses its parameters, by state-dict key.

    Args:
        model: the network. Unless `gathered` is true, shapes are enough and nothing is computed.
        image_shape: the shape of its images.
        folded: the layers that batch norms are folded into, as in `Uses`.
        computed: whether buffers outside the state dict count too, as a program may contain their values.
        gathered: whether rows that are picked from a table count instead of the table.
    """
    device = torch.device("cpu" if gathered else "meta")
    ghost = copy.deepcopy(model).to(device).eval()
    kept = {*dict(ghost.named_parameters()), *ghost.state_dict()}
    tensors = {
        key: tensor
        for key, tensor in (*ghost.named_parameters(), *ghost.named_buffers())
        if tensor.is_floating_point() and (computed or key in kept)
    }
    images = torch.zeros(image_shape, device=device)
    with _Recorder(tensors, folded, gathered) as recorder:
        recorder.values[id(images)] = _Value()
        answer = main_output(ghost(images))
    recorder.uses.end(recorder.values.get(id(answer), _Value()), answer.shape[-1])
    return recorder.uses
