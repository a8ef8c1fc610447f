"""Translates PaddlePaddle programs to graphs of PyTorch operators.

The programs that `utils.formats.inference_model` reads become a `torch.fx.GraphModule` of ATen operators, as clean as
an export of a network in models/: arithmetic on shapes and weights is computed in advance, batch norms and biases are
folded into the convolutions and linear layers before them, and the number of images is free. So everything that works
for exports works here: fusion for CPUs, other precisions, torch.compile, torch.export, ONNX.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from utils.formats.paddle_program import Operation, Program
from utils.programs.operands import operands, tensor_name
from utils.programs.paddle_ops.builder import Builder
from utils.programs.paddle_ops.registry import DESC, DTYPES, PIR, Operator, arguments
from utils.programs.paddle_ops.sizes import BatchSize, Size, TranslationError
from utils.programs.paddle_ops.values import Value
from utils.programs.paddle_simplify import remove_unused, simplify
from utils.system import garbage_collection_paused

CONTROL_FLOW = frozenset({
    "while", "while_loop", "conditional_block", "conditional_block_infer", "if", "select_input", "select_output",
    "recurrent", "write_to_array", "read_from_array", "array_write_", "array_read", "create_array",
    "lod_array_length", "tensor_array_to_tensor",
})  # fmt: skip
# Operators with a different result every time.
RANDOM = frozenset({
    "uniform_random", "uniform_random_batch_size_like", "gaussian_random", "gaussian_random_batch_size_like",
    "gaussian", "uniform", "truncated_gaussian_random", "randint", "randperm", "bernoulli", "multinomial",
    "sampling_id", "shuffle_batch", "random_crop",
})  # fmt: skip
ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, MemoryError)

ANY_NUMBER = BatchSize(1)
# The version in programs of PaddlePaddle 2.0.0.
PADDLE_2 = 2_000_000

aten = torch.ops.aten
ACTIVATIONS: dict[Any, str] = {
    aten.softmax.int: "softmax",
    aten.log_softmax.int: "log_softmax",
    aten.sigmoid.default: "sigmoid",
}


@dataclass(frozen=True)
class Input:
    """An input of a program.

    Attributes:
        label: its name for users.
        shape: None stands for the number of images.
        dtype: type of its elements.
    """

    label: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Output:
    """An output of a program.

    Attributes:
        label: its name for users.
        shape: None stands for the number of images, -1 for another multiple of it.
        dtype: type of its elements.
        activation: "softmax" (over the last dimension), "log_softmax" or "sigmoid" if that is the final operation,
            otherwise None.
    """

    label: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype
    activation: str | None

    @property
    def is_classes(self) -> bool:
        """Whether it can be one number per image and class."""
        return len(self.shape) == 2 and self.shape[0] != -1 and bool(self.shape[1]) and self.dtype.is_floating_point


@dataclass(frozen=True)
class Translation:
    """A translated program.

    Attributes:
        root: holds the tensors.
        graph: takes the inputs, and returns the outputs as a tuple.
        inputs, outputs: the graph's inputs and outputs, in order.
    """

    root: nn.Module
    graph: fx.Graph
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    @functools.cached_property
    def module(self) -> fx.GraphModule:
        """The whole program as a module. (Built on demand, as generating its code takes time.)"""
        return fx.GraphModule(self.root, self.graph)

    @garbage_collection_paused()
    def single(self, index: int = 0, before_activation: bool = False) -> fx.GraphModule:
        """A module that returns one output as a tensor, and computes nothing else.

        Args:
            index: number of the output.
            before_activation: whether to return the input of its softmax or sigmoid, the logits.
        """
        graph = fx.Graph()
        result: Any = graph.graph_copy(self.graph, {})
        assert isinstance(result, tuple)
        node = result[index]
        if before_activation and self.outputs[index].activation is not None:
            node = operands(node)[0]
        graph.output(node)
        remove_unused(graph)
        return fx.GraphModule(self.root, graph)


@garbage_collection_paused()
def translate(
    program: Program,
    parameters: Mapping[str, np.ndarray],
    image_size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    simplified: bool = True,
    freed: bool = False,
) -> Translation:
    """Translates a program.

    Args:
        program: as `utils.formats.inference_model.read_program` returns it.
        parameters: its weights by name.
        image_size: height and width for a program that leaves them open; other programs keep their own size.
        dtype: type that replaces the program's float32, in images too.
        freed: whether to make a program for a fixed number of images take any number. The caller must check the result.
        simplified: whether to fold batch norms and the like into other layers, which rounds their weights.

    Returns:
        The module, on the CPU, with its inputs and outputs. It takes any number of images, unless the program works
        only for a fixed number: see the inputs' shapes.

    Raises:
        FormatError: the program has unknown operators, or its parts do not fit together.
    """
    with torch.no_grad():
        work = _Work(program, parameters, image_size, simplified)
        try:
            translation = _Translator(work, freed=freed).run()
        except TranslationError as error:
            # Some programs leave the number of images open but work only for a single one.
            try:
                translation = _Translator(work, 1).run()
            except TranslationError:
                raise error from None
        if dtype != torch.float32:
            set_precision(translation.module, dtype)
            translation = replace(translation, root=translation.module, graph=translation.module.graph)
    return translation


class _Work(NamedTuple):
    """The arguments of `translate`."""

    program: Program
    parameters: Mapping[str, np.ndarray]
    image_size: tuple[int, int] | None
    simplified: bool


class _Translator:
    """`translate` at work; see there for the arguments."""

    def __init__(self, work: _Work, images: Size = ANY_NUMBER, *, freed: bool = False) -> None:
        self.images = images
        self.program, self.parameters, self.image_size, self.simplified = work
        shape = self.program.variables[self.program.feeds[0]].shape or (0,)
        self.fixed = max(shape[0], 0) if freed else 0
        self.table = PIR if self.program.dialect == "pir" else DESC
        versions = self.program.operation_versions
        is_fluid = self.program.dialect == "desc" and self.program.version < PADDLE_2 and not versions
        parameter_bytes = sum(array.nbytes for array in self.parameters.values())
        self.builder = Builder(parameter_bytes, self.fixed, is_fluid=is_fluid)
        self.values: dict[str, Any] = {}

    def run(self) -> Translation:
        check_kinds(self.program.operations, self.table)
        inputs = tuple(
            self.add_input(index, name, label)
            for index, (name, label) in enumerate(zip(self.program.feeds, self.program.feed_labels, strict=True))
        )
        for name in self.program.parameters:
            self.values[name] = self.builder.constant(tensor_of(self.parameters[name]), name)
        for number, operation in enumerate(self.program.operations):
            try:
                self.add_operation(operation)
            except TranslationError as error:
                raise TranslationError(f"{operation.kind} (operation {number}): {error}") from None
            except ERRORS as error:
                reason = str(error).partition("\n")[0][:200]
                raise TranslationError(f"{operation.kind} (operation {number}) cannot be computed: {reason}") from None
        fetched = [self.fetched(name) for name in self.program.fetches]
        self.builder.graph.output(tuple(value.node for value in fetched))
        if self.simplified:
            simplify(self.builder.root, self.builder.graph)
        root, graph = self.builder.root, self.builder.graph
        used = {tensor_name(node) for node in graph.find_nodes(op="get_attr")}
        for name in [name for name, _ in root.named_buffers() if name not in used]:
            delattr(root, name)  # it has been replaced: frees its memory
        outputs = tuple(
            Output(label, _open_shape(value.shape), value.dtype, activation(node, value.ndim))
            for label, value, node in zip(self.program.fetch_labels, fetched, output_nodes(graph), strict=True)
        )
        return Translation(root, graph, inputs, outputs)

    def add_input(self, index: int, name: str, label: str) -> Input:
        variable = self.program.variables[name]
        if variable.shape is None or variable.dtype not in DTYPES:
            raise TranslationError(f"its input {label[:100]!r} is not a tensor")
        shape: list[Size] = list(variable.shape)
        for axis, size in enumerate(variable.shape):
            if size >= 0 and not (axis == 0 and size == self.fixed):
                continue
            if axis == 0:
                shape[0] = self.images
            elif len(shape) == 4 and axis == 1:
                shape[1] = 3
            elif len(shape) == 4 and self.image_size is not None:
                shape[axis] = self.image_size[axis - 2]
            else:
                raise TranslationError(f"its input {label[:100]!r} has no fixed size: {list(variable.shape)}")
        dtype = DTYPES[variable.dtype]
        self.values[name] = self.builder.input("images" if index == 0 else f"input_{index}", shape, dtype)
        return Input(label, _open_shape(shape), dtype)

    def add_operation(self, operation: Operation) -> None:
        entry = self.table[operation.kind]
        result = entry.function(self.builder, **arguments(entry, operation, self.values))
        results = result if isinstance(result, tuple) else (result,)
        if self.program.dialect == "pir":
            names = operation.outputs.get("", ())
            if len(results) > len(names):
                results = results[: len(names)]
            self.values.update(zip(names, results, strict=False))
            return
        for slot, value in zip(entry.results, results, strict=False):
            names = operation.outputs.get(slot, ())
            values = value if isinstance(value, list) else [value]
            if names and len(names) != len(values):
                raise TranslationError(f"it has {len(values)} results, but {len(names)} variables for them")
            for name, each in zip(names, values, strict=False):
                self.values[name] = self.as_declared(name, each)

    def as_declared(self, name: str, value: Value) -> Value:
        """A single number as a tensor with one dimension, as in ProgramDesc up to Paddle 2.4."""
        variable = self.program.variables.get(name)
        if value.ndim == 0 and variable is not None and variable.shape is not None and len(variable.shape) == 1:
            return self.builder.reshape(value, [1])
        return value

    def fetched(self, name: str) -> Value:
        value = self.values.get(name)
        if not isinstance(value, Value):
            raise TranslationError(f"its output {name[:100]!r} is not a tensor")
        return value


def check_kinds(operations: Sequence[Operation], table: Mapping[str, Operator]) -> None:
    """Refuses programs with unknown operations, and lists all of them in one line."""
    counts = Counter(operation.kind for operation in operations)
    if found := [kind for kind in counts if kind in CONTROL_FLOW]:
        raise TranslationError(f"it has control flow, which cannot be translated: {_listed(found, counts)}")
    if found := [kind for kind in counts if kind in RANDOM]:
        raise TranslationError(f"it computes with random numbers: {_listed(found, counts)}")
    if found := [kind for kind in counts if kind not in table]:
        raise TranslationError(f"it has unsupported operators: {_listed(found, counts)}")


def _listed(kinds: Sequence[str], counts: Mapping[str, int]) -> str:
    """Operators by name with their number of occurrences: conv4d (3 times), and so on."""
    texts = [f"{kind[:100]} ({counts[kind]} {'time' if counts[kind] == 1 else 'times'})" for kind in sorted(kinds)]
    more = f" and {len(texts) - 20} others" if len(texts) > 20 else ""
    return ", ".join(texts[:20]) + more


def tensor_of(array: np.ndarray) -> Tensor:
    """An array from a file as a tensor, which may share its memory."""
    if not (array.flags.aligned and array.flags.c_contiguous and array.flags.writeable):
        array = array.copy()
    return torch.from_numpy(array)


def _open_shape(shape: Sequence[Size]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None if size == BatchSize(1) else -1 for size in shape)


def output_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes whose results a graph returns as a tuple."""
    (output,) = graph.find_nodes(op="output")
    return list(operands(output)[0])


def activation(node: fx.Node, rank: int) -> str | None:
    """The final operation, if it turns logits into probabilities."""
    name = ACTIVATIONS.get(node.target)
    if name is None or (name != "sigmoid" and operands(node)[1] not in (-1, rank - 1)):
        return None
    return name


def set_precision(module: fx.GraphModule, dtype: torch.dtype) -> None:
    """Makes a module compute in `dtype` instead of float32."""
    for name, tensor in list(module.named_buffers()):
        if tensor.dtype == torch.float32:
            module.register_buffer(name, tensor.to(dtype))

    def changed(argument: Any) -> Any:
        return dtype if argument is torch.float32 else argument

    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args = tuple(changed(argument) for argument in operands(node))
            node.kwargs = {name: changed(argument) for name, argument in node.kwargs.items()}
    module.recompile()
