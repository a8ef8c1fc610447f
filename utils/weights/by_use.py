"""Which parameter of an exported program is which of a network, where names do not tell: by what is computed with it.

PaddlePaddle 2 and 3 call parameters conv2d_0.w_0, batch_norm2d_0.w_1, and so on. Both the program and the network
become a graph of parameters: each has a role (running mean, bias, ...) and a shape, and follows those whose results it
is applied to. Every parameter gets a colour, which is refined by the colours around it until nothing changes (the
method of Weisfeiler and Leman). Where each colour is that of one parameter in both graphs, these belong together. Where
one is shared, several mappings may fit, and none is chosen.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.errors import FormatError
from utils.formats.paddle_program import Operation, Program

# Operations that only lay a tensor out anew: a parameter stays one.
_LAYOUTS = frozenset({
    "reshape", "reshape2", "transpose", "transpose2", "unsqueeze", "unsqueeze2", "squeeze", "squeeze2", "expand",
    "cast", "expand_v2", "assign", "flatten_contiguous_range", "flatten", "share_data", "scale", "tile",
})  # fmt: skip
_ATEN_LAYOUTS = frozenset({
    "t", "view", "_unsafe_view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "expand", "clone",
    "_to_copy", "alias", "detach", "repeat", "flatten",
})  # fmt: skip
# Their results are sizes, whatever they are of.
_SIZES = frozenset({"shape", "shape64", "size", "numel"})
# Roles of what a normalization takes, by slot of ProgramDesc, and by place in PIR and in PyTorch.
_SLOTS = {"Scale": "scale", "Bias": "offset", "Mean": "mean", "Variance": "variance"}
_PIR_NORMS = {
    "batch_norm": ("mean", "variance", "scale", "offset"),
    "batch_norm_": ("mean", "variance", "scale", "offset"),
    "layer_norm": ("scale", "offset"),
    "group_norm": ("scale", "offset"),
    "instance_norm": ("scale", "offset"),
}
_ATEN_NORMS = {
    "native_batch_norm": ("scale", "offset", "mean", "variance"),
    "_native_batch_norm_legit_no_training": ("scale", "offset", "mean", "variance"),
    "_batch_norm_no_update": ("scale", "offset", "mean", "variance"),
    "cudnn_batch_norm": ("scale", "offset", "mean", "variance"),
    "native_layer_norm": ("scale", "offset"),
    "native_group_norm": ("scale", "offset"),
}


@dataclass(frozen=True)
class _Value:
    """A tensor: a parameter, or what was computed with those before it."""

    parameter: str | None = None
    before: frozenset[str] = frozenset()


@dataclass
class _Uses:
    """The parameters that are used, with their roles and shapes, and what each is used after."""

    colours: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    before: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def use(self, name: str, role: str, shape: Iterable[int], before: Iterable[str]) -> None:
        """Notes that a parameter is applied to what comes `before`."""
        sizes = tuple(shape)
        # A linear layer's weight is [in, out] there, and [out, in] here; and a bias may have dimensions of one.
        sizes = tuple(sorted(sizes)) if len(sizes) == 2 else sizes
        role = role or ("weight" if len(sizes) > 1 else "bias")
        self.colours.setdefault(name, (role, sizes))
        self.before[name].update(set(before) - {name})

    def apply(self, values: Iterable[tuple[_Value, str, Iterable[int]]]) -> _Value:
        """The result of an operation on values, each with its role and shape."""
        given = list(values)
        data = frozenset().union(*(value.before for value, _, _ in given if value.parameter is None))
        together = [entry for entry in given if entry[0].parameter and entry[1]]
        for value, role, shape in together:
            self.use(value.parameter or "", role, shape, data)
        before = frozenset(value.parameter or "" for value, _, _ in together) or data
        # What has no role is applied one after the other: a bias follows the weight.
        alone = [entry for entry in given if entry[0].parameter and not entry[1]]
        for value, _, shape in sorted(alone, key=lambda entry: -len(tuple(entry[2]))):
            self.use(value.parameter or "", "", shape, before)
            before = frozenset([value.parameter or ""])
        return _Value(before=before)


# --------------------------------------------------------------------------------------------------- of both sides


def _uses_of_program(program: Program) -> _Uses:
    """How a program uses its parameters."""
    uses = _Uses()
    values = {name: _Value(parameter=name) for name in program.parameters}
    for operation in program.operations:
        given = list(_inputs(operation, program))
        known = [
            (values[name], role, _shape(program, values[name].parameter or name))
            for name, role in given
            if name in values
        ]
        if operation.kind in _SIZES:
            result = _Value()
        elif operation.kind in _LAYOUTS and known and known[0][0].parameter:
            result = known[0][0]
        else:
            result = uses.apply(known)
        for names in operation.outputs.values():
            for name in names:
                if name not in program.parameters:  # a batch-norm gives its statistics back
                    values[name] = result
    return uses


def _inputs(operation: Operation, program: Program) -> Iterable[tuple[str, str]]:
    """The names of what an operation takes, with their roles in a normalization."""
    if program.dialect == "pir":
        names = operation.inputs.get("", ())
        roles = ("", *_PIR_NORMS.get(operation.kind, ()))
        return [(name, roles[place] if place < len(roles) else "") for place, name in enumerate(names)]
    is_norm = operation.kind.endswith("_norm")
    return [
        (name, _SLOTS.get(slot, "") if is_norm else "") for slot, names in operation.inputs.items() for name in names
    ]


def _shape(program: Program, name: str) -> tuple[int, ...]:
    variable = program.variables.get(name)
    return () if variable is None or variable.shape is None else variable.shape


class _Recorder(TorchDispatchMode):
    """Notes how a network uses its parameters while it runs."""

    def __init__(self, names: Mapping[int, str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.uses = _Uses()
        self.shapes = shapes
        self.values = {key: _Value(parameter=name) for key, name in names.items()}
        self._kept: list[Any] = []  # the id of a tensor that is gone could become another's

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        self._kept.append((args, kwargs, result))
        kind = operator.overloadpacket.__name__
        roles = ("", *_ATEN_NORMS.get(kind, ()))
        given = []
        for place, argument in enumerate((*args, *(kwargs or {}).values())):
            role = roles[place] if place < len(roles) else ""
            for tensor in tree_leaves(argument):
                if isinstance(tensor, Tensor) and (value := self.values.get(id(tensor))) is not None:
                    given.append((value, role, self.shapes.get(value.parameter or "", ())))
        if kind in _ATEN_LAYOUTS and given and given[0][0].parameter:
            value = given[0][0]
        else:
            value = self.uses.apply(given)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (self.values.get(id(tensor)) or value).parameter is None:
                self.values[id(tensor)] = value
        if value.parameter:
            self.values[id(result)] = value
        return result


def _uses_of_network(model: nn.Module, image_shape: tuple[int, ...]) -> _Uses:
    """How a network uses its parameters, by state-dict key. Shapes are enough: nothing is computed."""
    ghost = copy.deepcopy(model).to("meta").eval()
    tensors = dict([*ghost.named_parameters(), *ghost.named_buffers()])
    names = {id(tensor): key for key, tensor in tensors.items()}
    images = torch.empty(image_shape, device="meta")
    with torch.no_grad(), _Recorder(names, {key: tuple(t.shape) for key, t in tensors.items()}) as recorder:
        ghost(images)
    return recorder.uses


# ---------------------------------------------------------------------------------------------------- put together


def _coloured(uses: _Uses) -> dict[str, bytes]:
    """The colour of every parameter, refined until as many are told apart as can be."""
    after: dict[str, set[str]] = defaultdict(set)
    for name, names in uses.before.items():
        for other in names:
            after[other].add(name)
    colours = {name: _hash(colour) for name, colour in uses.colours.items()}
    count = len(set(colours.values()))
    while True:
        colours = {
            name: _hash((
                colour,
                sorted(colours[other] for other in uses.before.get(name, ())),
                sorted(colours[other] for other in after.get(name, ())),
            ))
            for name, colour in colours.items()
        }  # fmt: skip
        if len(set(colours.values())) <= count:
            return colours
        count = len(set(colours.values()))


def _hash(value: Any) -> bytes:
    return hashlib.blake2b(repr(value).encode(), digest_size=12).digest()


def keys_by_use(model: nn.Module, program: Program) -> dict[str, str]:
    """State-dict key -> name of the parameter in the program, for all that the program has.

    Args:
        model: the network.
        program: of the same network.

    Raises:
        FormatError: it is of another network, or several mappings would fit.
    """
    feed = _shape(program, program.feeds[0])
    if len(feed) != 4:
        raise FormatError("the program does not take images")
    shape = (2, 3, *(size if size > 0 else 224 for size in feed[2:]))
    theirs, ours = _coloured(_uses_of_program(program)), _coloured(_uses_of_network(model, shape))
    if Counter(theirs.values()) != Counter(ours.values()):
        strange = Counter(theirs.values()) - Counter(ours.values())
        raise FormatError(
            f"its program uses parameters otherwise than the network ({strange.total()} of {len(theirs)}): choose "
            "another --model, or give the .pdparams that it was exported from"
        )
    keys = {colour: key for key, colour in ours.items()}
    if len(keys) < len(ours):
        shared = Counter(theirs.values())
        names = sorted(name for name, colour in theirs.items() if shared[colour] > 1)
        raise FormatError(
            f"its program does not tell which parameter is which: {len(names)} could change places ({names[0]}, "
            f"{names[1]}, ...); give the .pdiparams.info that was written with it, or the .pdparams"
        )
    return {keys[colour]: name for name, colour in theirs.items()}
