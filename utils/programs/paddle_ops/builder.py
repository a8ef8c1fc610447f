"""Builds the graph: values, the facts known about them, and the nodes that compute them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from utils.programs.paddle_ops.operand_types import VIEWS, WITH_NUMBER, check_types
from utils.programs.paddle_ops.sizes import BATCHES, BatchSize, Size, TranslationError, at, product, show
from utils.programs.paddle_ops.values import (
    MAX_FOLDED,
    MAX_SIZES,
    Value,
    broadcast,
    check_shape,
    convert,
    depends_on_batch,
    values_in,
)

aten = torch.ops.aten

# Budget for values computed during the translation: multiplications and copies, and memory.
FOLDING_WORK = 2**30
FOLDING_BYTES = 2**28


class Builder:
    """Makes the nodes of a graph, and computes immediately what does not depend on the images.

    Args:
        parameter_bytes: memory of the program's parameters.
        fixed: the number of images of a program that was exported for a fixed number and shall take any; otherwise 0.
        is_fluid: whether fluid 1.x wrote the program; some operators changed without a new name.
    """

    def __init__(self, parameter_bytes: int, fixed: int = 0, *, is_fluid: bool = False) -> None:
        self.fixed = fixed
        self.is_fluid = is_fluid
        self._allowed_bytes = FOLDING_BYTES + parameter_bytes
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.images: fx.Node | None = None
        self._work = 0
        self._bytes = 0
        self._sizes: dict[Size, fx.Node] = {}
        self._attributes = 0

    # ------------------------------------------------------------------------------------------------ leaves

    def input(self, name: str, shape: Sequence[Size], dtype: torch.dtype) -> Value:
        """An input of the graph; the first dimension of the first input is the number of images."""
        check_shape(shape)
        node = self.graph.placeholder(name)
        if self.images is None and shape and shape[0] == BatchSize(1):
            self.images = node
        return Value(shape, dtype, emit=lambda: node)

    def constant(self, tensor: Tensor, source: str | None = None) -> Value:
        """A value that does not depend on the images."""
        return Value(
            tensor.shape, tensor.dtype, (tensor, tensor), emit=lambda: self.attribute(tensor, source), source=source
        )

    def computed(self, tensor: Tensor) -> Value:
        """A new constant, whose memory counts.

        Raises:
            TranslationError: the constants take too much memory.
        """
        self._bytes += tensor.nbytes
        if self._bytes > self._allowed_bytes:
            raise TranslationError("its constants take more memory than those of an image classifier")
        return self.constant(tensor)

    def attribute(self, tensor: Tensor, source: str | None = None) -> fx.Node:
        """A node for a tensor of the module. (fx writes its name into Python code, so it is not the file's name.)"""
        name = f"weight_{self._attributes}"
        self._attributes += 1
        # Values repeated along a dimension are stored once.
        repeated = [stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)]
        least = tensor[tuple(slice(0, 1) if once else slice(None) for once in repeated)] if any(repeated) else tensor
        self.root.register_buffer(name, least.contiguous())
        node = self.graph.get_attr(name)
        if source is not None:
            node.meta["source"] = source
        if least is not tensor:
            node.meta["shape"] = tuple(least.shape)
            node = self.graph.call_function(aten.expand.default, (node, list(tensor.shape)))
        return node

    def sizes(self, sizes: Sequence[Size], dtype: torch.dtype = torch.int64) -> Value:
        """A value that holds sizes."""
        first = torch.tensor([at(size, BATCHES[0]) for size in sizes], dtype=dtype)
        if all(isinstance(size, int) for size in sizes):
            return self.constant(first)
        second = torch.tensor([at(size, BATCHES[1]) for size in sizes], dtype=dtype)

        def emit() -> fx.Node:
            numbers = [
                self.graph.call_function(aten.full.default, ([1], self.size_node(size)), {"dtype": dtype})
                for size in sizes
            ]
            return self.graph.call_function(aten.cat.default, (numbers,))

        return Value([len(sizes)], dtype, (first, second), emit)

    def size_node(self, size: Size) -> fx.Node | int:
        """A size as the argument of a node."""
        if isinstance(size, int):
            return size
        if size not in self._sizes:
            self._sizes[size] = self._make_size(size)
        return self._sizes[size]

    def _make_size(self, size: BatchSize) -> fx.Node:
        if size == BatchSize(1):
            assert self.images is not None
            with self.graph.inserting_after(self._last_placeholder()):
                return self.graph.call_function(aten.sym_size.int, (self.images, 0))
        smaller = BatchSize(1) if size.constant == 0 else BatchSize(size.per_image)
        function, number = (operator.mul, size.per_image) if size.constant == 0 else (operator.add, size.constant)
        node = self.size_node(smaller)
        assert isinstance(node, fx.Node)
        with self.graph.inserting_after(node):
            return self.graph.call_function(function, (node, number))

    def _last_placeholder(self) -> fx.Node:
        return list(self.graph.find_nodes(op="placeholder"))[-1]

    # --------------------------------------------------------------------------------------------- operations

    def call(
        self,
        target: Callable[..., Any],
        *args: Any,
        shape: Sequence[Size],
        dtype: torch.dtype,
        work: int = 1,
        **kwargs: Any,
    ) -> Value:
        """The result of a PyTorch operator.

        Args:
            target: the operator.
            args, kwargs: its arguments; values and sizes among them may be in lists.
            shape, dtype: of the result.
            work: multiplications for one element of it.
        """
        (value,) = self._call(target, args, kwargs, [shape], dtype, work, unpack=False)
        return value

    def call_many(
        self,
        target: Callable[..., Any],
        *args: Any,
        shapes: Sequence[Sequence[Size]],
        dtypes: Sequence[torch.dtype] | torch.dtype,
        **kwargs: Any,
    ) -> list[Value]:
        """The results of an operator with several results."""
        return self._call(target, args, kwargs, shapes, dtypes, 1, unpack=True)

    def _call(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shapes: Sequence[Sequence[Size]],
        dtypes: Sequence[torch.dtype] | torch.dtype,
        work: int,
        unpack: bool,
    ) -> list[Value]:
        for shape in shapes:
            check_shape(shape)
        types = [dtypes] * len(shapes) if isinstance(dtypes, torch.dtype) else list(dtypes)
        operands = [*values_in(args), *values_in(kwargs)]
        check_types(target, operands)
        if all(value.known is not None for value in operands):
            elements = sum(at(product(shape), BATCHES[1]) for shape in shapes)
            if self._may_fold(target, operands, elements, work, types[0].itemsize):
                return self._fold(target, args, kwargs, shapes, types, unpack)
        node = self._emit(target, args, kwargs)
        if not unpack:
            return [Value(shapes[0], types[0], emit=lambda: node)]
        return [
            Value(shape, dtype, emit=lambda index=index: self._item(node, index))
            for index, (shape, dtype) in enumerate(zip(shapes, types, strict=True))
        ]

    def _item(self, node: fx.Node, index: int) -> fx.Node:
        with self.graph.inserting_after(node):
            return self.graph.call_function(operator.getitem, (node, index))

    def _emit(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        nodes = convert(args, lambda value: value.node, self.size_node)
        named = convert(kwargs, lambda value: value.node, self.size_node)
        return self.graph.call_function(target, nodes, named)

    def _may_fold(self, target: Callable[..., Any], operands: list[Value], elements: int, work: int, size: int) -> bool:
        """Whether to compute a result of this many elements of `size` bytes now; if so, it uses up the budget."""
        constant = all(value.constant is not None for value in operands)
        allowed = sum(at(product(value.shape), 1) for value in operands) if constant else 0
        memory = 0 if target in VIEWS else elements * size
        if elements > (max(allowed, MAX_FOLDED) if constant else MAX_SIZES):
            return False
        if self._work + elements * work > FOLDING_WORK or self._bytes + memory > self._allowed_bytes:
            return False
        self._work += elements * work
        self._bytes += memory
        return True

    def _fold(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shapes: Sequence[Sequence[Size]],
        dtypes: list[torch.dtype],
        unpack: bool,
    ) -> list[Value]:
        def run(index: int) -> list[Tensor]:
            def contents(value: Value) -> Tensor:
                assert value.known is not None
                return value.known[index]

            def size(value: Size) -> int:
                return at(value, BATCHES[index])

            result = target(*convert(args, contents, size), **convert(kwargs, contents, size))
            return list(result) if unpack else [result]

        first = run(0)
        if depends_on_batch((args, kwargs)):
            second = run(1)
        else:
            return [self.constant(tensor) for tensor in first]

        def emit(index: int) -> fx.Node:
            node = self._emit(target, args, kwargs)
            return self._item(node, index) if unpack else node

        return [
            Value(shape, dtype, pair, emit=lambda index=index: emit(index))
            for index, (shape, dtype, pair) in enumerate(
                zip(shapes, dtypes, zip(first, second, strict=True), strict=True)
            )
        ]

    # -------------------------------------------------------------------------------------- what is needed often

    def unary(self, target: Callable[..., Any], x: Value, *args: Any, dtype: torch.dtype | None = None) -> Value:
        """An elementwise operator."""
        return self.call(target, x, *args, shape=x.shape, dtype=dtype or x.dtype)

    def binary(
        self, target: Callable[..., Any], x: Value, y: Value, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Value:
        """An operator on pairs of elements, with PyTorch's broadcasting."""
        shape = broadcast(x.shape, y.shape)
        result = dtype or torch.promote_types(x.dtype, y.dtype)
        if (
            target in WITH_NUMBER
            and x.known is None
            and x.dtype == y.dtype
            and shape == x.shape
            and y.number is not None
        ):
            return self.call(WITH_NUMBER[target], x, y.number, shape=shape, dtype=result, **kwargs)
        return self.call(target, x, y, shape=shape, dtype=result, **kwargs)

    def reshape(self, x: Value, shape: Sequence[Size]) -> Value:
        """`x` in another shape with the same number of elements."""
        shape = tuple(shape)
        if shape == x.shape:
            return x
        if product(shape) != product(x.shape):
            raise TranslationError(f"a tensor of shape {show(x.shape)} cannot have the shape {show(shape)}")
        dynamic = [index for index, size in enumerate(shape) if isinstance(size, BatchSize)]
        target: list[Size] = list(shape)
        if len(dynamic) == 1 and product(size for size in shape if isinstance(size, int)):
            target[dynamic[0]] = -1  # no node is necessary
        return self.call(aten.reshape.default, x, target, shape=shape, dtype=x.dtype)

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        """`x` with its dimensions in another order."""
        if sorted(axis % max(x.ndim, 1) if -x.ndim <= axis < x.ndim else -1 for axis in order) != list(range(x.ndim)):
            raise TranslationError(f"dimensions {list(order)} of a tensor of shape {show(x.shape)}")
        axes = [axis % x.ndim for axis in order]
        if axes == list(range(x.ndim)):
            return x
        return self.call(aten.permute.default, x, axes, shape=[x.shape[axis] for axis in axes], dtype=x.dtype)

    def expand(self, x: Value, shape: Sequence[Size]) -> Value:
        """`x` repeated along dimensions of size 1, and along new leading dimensions."""
        if tuple(shape) == x.shape:
            return x
        if broadcast(x.shape, shape) != tuple(shape):
            raise TranslationError(f"a tensor of shape {show(x.shape)} cannot be expanded to {show(shape)}")
        return self.call(aten.expand.default, x, list(shape), shape=shape, dtype=x.dtype)

    def cast(self, x: Value, dtype: torch.dtype) -> Value:
        """`x` as another type."""
        return x if dtype == x.dtype else self.call(aten.to.dtype, x, dtype, shape=x.shape, dtype=dtype)

    def full(self, shape: Sequence[Size], number: float | int | bool, dtype: torch.dtype) -> Value:
        """A tensor filled with one number, which takes the memory of one element."""
        one = self.constant(torch.full([1] * len(shape), number, dtype=dtype))
        return self.expand(one, shape)

    def slice(self, x: Value, axis: int, start: Size, stop: Size, step: int = 1) -> Value:
        """A slice of `x` along one dimension; `start` and `stop` are within it."""
        size = x.shape[axis]
        if start == 0 and stop == size and step == 1:
            return x
        length = (stop - start + step - 1) // step if step > 1 else stop - start
        shape = [*x.shape[:axis], length, *x.shape[axis + 1 :]]
        return self.call(aten.slice.Tensor, x, axis, start, stop, step, shape=shape, dtype=x.dtype)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values concatenated along a dimension."""
        if self.fixed:
            values = self._for_all_images(values)
        first = values[0]
        axis = first.axis(axis)
        total: Size = 0
        for value in values:
            if value.ndim != first.ndim or any(
                size != other
                for index, (size, other) in enumerate(zip(value.shape, first.shape, strict=True))
                if index != axis
            ):
                raise TranslationError(f"tensors of shapes {show(first.shape)} and {show(value.shape)} do not fit")
            total = value.shape[axis] + total
        if len(values) == 1:
            return first
        dtype = first.dtype
        for value in values[1:]:
            dtype = torch.promote_types(dtype, value.dtype)
        shape = [*first.shape[:axis], total, *first.shape[axis + 1 :]]
        return self.call(aten.cat.default, list(values), axis, shape=shape, dtype=dtype)

    def _for_all_images(self, values: Sequence[Value]) -> list[Value]:
        """Values for each of a fixed number of images, made to fit any number of images."""
        if not any(value.ndim and value.shape[0] == BatchSize(1) for value in values):
            return [*values]
        return [
            self.expand(self.slice(value, 0, 0, 1), [BatchSize(1), *value.shape[1:]])
            if value.ndim and value.shape[0] == self.fixed
            else value
            for value in values
        ]

    def pad(self, x: Value, sides: Sequence[int], mode: str = "constant", number: float = 0.0) -> Value:
        """`x` with a border; `sides` as of torch.nn.functional.pad, last dimension first."""
        if not any(sides):
            return x
        shape = list(x.shape)
        for index, (before, after) in enumerate(zip(sides[::2], sides[1::2], strict=True)):
            shape[-1 - index] = shape[-1 - index] + (before + after)
        extra = () if mode == "constant" and number == 0 else (mode, number) if mode == "constant" else (mode,)
        return self.call(aten.pad.default, x, list(sides), *extra, shape=shape, dtype=x.dtype)
