"""Makes a translated program as fast as an export of our own networks: with fewer, larger operators.

- A batch norm, a factor or an addend per channel after a convolution or linear layer is folded into its weights, in
  float64, so that only the last step rounds.
- Consecutive reshapes or permutations become one, or none.
- Sequences that PyTorch has as one operator become that operator: hard swish, swish, attention.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from utils.programs.operands import operands, tensor_name

aten = torch.ops.aten

# Operator -> dimension of the output channels in its weight, and in its result.
LAYERS: dict[Any, tuple[int, int]] = {
    aten.conv2d.default: (0, 1),
    aten.linear.default: (0, -1),
}
# Memory that new weights may take in addition to twice the memory of the old ones.
FOLDED_BYTES = 2**26
# Folding computes weights in float64, so larger weights are not folded.
MAX_WEIGHT = 2**27


def simplify(module: nn.Module, graph: fx.Graph) -> None:
    """Simplifies a graph of ATen operators for inference; only rounding changes the results.

    Args:
        module: holds the tensors that the graph uses.
        graph: its nodes have `meta["shape"]`, None where a size depends on the number of images.
    """
    remove_unused(graph)
    _Simplifier(module, graph).run()
    remove_unused(graph)


def remove_unused(graph: fx.Graph) -> None:
    """Removes nodes with unused results."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in ("call_function", "get_attr"):
            graph.erase_node(node)


class _Simplifier:
    """`simplify` at work on a graph."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.module = module
        self.graph = graph
        self.tensors = dict(module.named_buffers())
        # A weight shared by many layers is copied for each of them.
        self.spare_bytes = FOLDED_BYTES + 2 * sum(tensor.nbytes for tensor in self.tensors.values())

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "call_function" and node.users and (rule := RULES.get(node.target)) is not None:
                rule(self, node)

    # ------------------------------------------------------------------------------------------------- helpers

    def tensor(self, argument: Any) -> Tensor | None:
        """The value of a constant argument."""
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            return self.tensors[tensor_name(argument)]
        return None

    def hold(self, tensor: Tensor, before: fx.Node, source: fx.Node | None = None) -> fx.Node:
        """A node for a new constant; reuses `source` if nothing else uses it."""
        if source is not None and source.users.keys() == {before}:
            name = tensor_name(source)
            setattr(self.module, name, tensor)
            self.tensors[name] = tensor
            return source
        self.spare_bytes -= tensor.nbytes
        name = f"folded_{len(self.tensors)}"
        self.module.register_buffer(name, tensor)
        self.tensors[name] = tensor
        with self.graph.inserting_before(before):
            node = self.graph.get_attr(name)
        node.meta["shape"] = tuple(tensor.shape)
        if source is not None and "source" in source.meta:
            node.meta["source"] = source.meta["source"]
        return node

    def replace(self, node: fx.Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Replaces an operation by another one."""
        with self.graph.inserting_before(node):
            new = self.graph.call_function(target, args, kwargs)
        new.meta["shape"] = node.meta.get("shape")
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        return new

    def layer(self, argument: Any) -> fx.Node | None:
        """The convolution or linear layer that computes an argument, if nothing else uses its result."""
        if not isinstance(argument, fx.Node) or argument.target not in LAYERS or len(argument.users) > 1:
            return None
        weight = self.tensor(operands(argument)[1])
        bias = operands(argument)[2] if len(operands(argument)) > 2 else None
        if (
            weight is None
            or weight.nbytes > self.spare_bytes
            or weight.numel() > MAX_WEIGHT
            or not weight.is_floating_point()
        ):
            return None
        return argument if bias is None or self.tensor(bias) is not None else None

    def per_channel(self, layer: fx.Node, other: Any, shape: Sequence[int | None] | None) -> Tensor | None:
        """`other` as a number per output channel, if it is that."""
        weight = self.tensor(operands(layer)[1])
        assert weight is not None
        axis, position = LAYERS[layer.target]
        channels = weight.shape[axis]
        if isinstance(other, bool | int | float):
            return torch.full((channels,), float(other), dtype=torch.float64)
        tensor = self.tensor(other)
        result = layer.meta.get("shape")
        if tensor is None or result is None or shape != result or not tensor.is_floating_point():
            return None
        place = tensor.ndim - len(result) + position if position >= 0 else tensor.ndim - 1
        if tensor.numel() == 1:
            return tensor.double().reshape(1).expand(channels)
        if tensor.numel() != channels or place < 0 or tensor.shape[place] != channels:
            return None
        return tensor.double().reshape(channels)

    def fold(self, layer: fx.Node, last: fx.Node, factor: Tensor | None, addend: Tensor | None) -> None:
        """layer * factor + addend, both per output channel, as a layer with other weights."""
        weight = self.tensor(operands(layer)[1])
        assert weight is not None
        args = [*operands(layer), None][: max(len(operands(layer)), 3)]
        bias = self.tensor(args[2])
        dtype = weight.dtype
        new_bias = torch.zeros(weight.shape[0], dtype=torch.float64) if bias is None else bias.double()
        new_weight: Any = operands(layer)[1]
        if factor is not None:
            scaled = weight.to(torch.float64, copy=True).mul_(factor.reshape([-1] + [1] * (weight.ndim - 1)))
            new_weight = self.hold(scaled.to(dtype), layer, operands(layer)[1])
            new_bias = new_bias * factor
        if addend is not None:
            new_bias = new_bias + addend
        if bias is not None or addend is not None:
            args[2] = self.hold(new_bias.to(dtype), layer)
        layer.args = (args[0], new_weight, *args[2:])
        last.replace_all_uses_with(layer)
        self.graph.erase_node(last)

    # --------------------------------------------------------------------------------------------------- rules

    def batch_norm(self, node: fx.Node) -> None:
        """conv or linear, batch norm -> one; a (x - mean) / sqrt(variance + epsilon) + b"""
        layer = self.layer(operands(node)[0])
        mean, variance = self.tensor(operands(node)[3]), self.tensor(operands(node)[4])
        if layer is None or mean is None or variance is None or LAYERS[layer.target][1] not in (1, -1):
            return
        if layer.target is aten.linear.default and len(node.meta["shape"]) != 2:
            return
        scale, offset = (self.tensor(argument) for argument in operands(node)[1:3])
        factor = (variance.double() + operands(node)[7]).rsqrt()
        if scale is not None:
            factor = factor * scale.double()
        addend = -mean.double() * factor
        if offset is not None:
            addend = addend + offset.double()
        if bool(torch.isfinite(factor).all() and torch.isfinite(addend).all()):
            self.fold(layer, node, factor, addend)

    def add(self, node: fx.Node) -> None:
        """conv or linear + a number per channel -> its bias"""
        if node.kwargs:
            return
        for index in range(2):
            layer, other = self.layer(operands(node)[index]), operands(node)[1 - index]
            if layer is not None:
                addend = self.per_channel(layer, other, node.meta.get("shape"))
                if addend is not None:
                    self.fold(layer, node, None, addend)
                    return

    def mul(self, node: fx.Node) -> None:
        """conv or linear * a number per channel -> its weights; x * sigmoid(x) and the like -> swish, hard swish"""
        if self.hard_swish(node, operands(node)[1]) or self.silu(node):
            return
        for index in range(2):
            layer, other = self.layer(operands(node)[index]), operands(node)[1 - index]
            if layer is not None:
                factor = self.per_channel(layer, other, node.meta.get("shape"))
                if factor is not None:
                    self.fold(layer, node, factor, None)
                    return

    def divide(self, node: fx.Node) -> None:
        """The same by a number, which is never 0 where it matters."""
        number = operands(node)[1]
        if number and not self.hard_swish(node, 1 / number) and (layer := self.layer(operands(node)[0])) is not None:
            self.fold(layer, node, self.per_channel(layer, 1 / number, node.meta.get("shape")), None)

    def silu(self, node: fx.Node) -> bool:
        for index in range(2):
            gate, x = operands(node)[index], operands(node)[1 - index]
            if isinstance(gate, fx.Node) and gate.target is aten.sigmoid.default and operands(gate)[0] is x:
                self.replace(node, aten.silu.default, x)
                return True
        return False

    def hard_swish(self, node: fx.Node, factor: Any) -> bool:
        """x relu6(x + 3) times a sixth -> hard-swish"""
        product = operands(node)[0]
        if not isinstance(factor, float | int) or not isinstance(product, fx.Node) or len(product.users) > 1:
            return False
        if product.target is not aten.mul.Tensor or not math.isclose(factor, 1 / 6, rel_tol=1e-6):
            return False
        for index in range(2):
            gate, x = operands(product)[index], operands(product)[1 - index]
            if not isinstance(gate, fx.Node) or gate.target is not aten.relu6.default or len(gate.users) > 1:
                continue
            shifted = operands(gate)[0]
            if shifted.target is aten.add.Scalar and tuple(operands(shifted)) == (x, 3.0):
                self.replace(node, aten.hardswish.default, x)
                return True
        return False

    def permute(self, node: fx.Node) -> None:
        """Two permutations -> one"""
        inner, order = operands(node)
        if inner.target is not aten.permute.default:
            return
        combined = [operands(inner)[1][axis] for axis in order]
        if combined == list(range(len(combined))):
            node.replace_all_uses_with(operands(inner)[0])
            self.graph.erase_node(node)
        else:
            node.args = (operands(inner)[0], combined)

    def reshape(self, node: fx.Node) -> None:
        """Two reshapes -> one, or none"""
        while operands(node)[0].target is aten.reshape.default:
            node.args = (operands(operands(node)[0])[0], operands(node)[1])
        source = operands(node)[0]
        shape = node.meta.get("shape")
        # If at most one size is unknown, the number of elements determines it.
        if shape is not None and shape == source.meta.get("shape") and shape.count(None) <= 1:
            node.replace_all_uses_with(source)
            self.graph.erase_node(node)

    def softmax(self, node: fx.Node) -> None:
        """softmax(q k^T scale + mask) v -> scaled_dot_product_attention"""
        if operands(node)[1] not in (-1, len(node.meta["shape"]) - 1) or len(node.users) != 1:
            return
        (product,) = node.users
        if product.target is not aten.matmul.default or operands(product)[0] is not node:
            return
        found = self.scores(operands(node)[0])
        if found is None:
            return
        query, key, scale, bias, window_mask = found
        value = operands(product)[1]
        shapes: list[Any] = [part.meta.get("shape") for part in (query, key, value)]
        if any(shape is None or len(shape) != 4 for shape in shapes):
            return
        (batch, heads, _, width), other, last = shapes
        if other[:2] != (batch, heads) or last[:2] != (batch, heads) or other[2] is None or other[2] != last[2]:
            return
        if other[3] != width or last[3] != width:  # the fast kernels need equal widths
            return
        mask = bias if window_mask is None else self.windows(product, query, bias, window_mask)
        self.replace(
            product, aten.scaled_dot_product_attention.default, query, key, value,
            **({} if mask is None else {"attn_mask": mask}), scale=scale,
        )  # fmt: skip

    def windows(self, before: fx.Node, query: fx.Node, bias: fx.Node | None, mask: Tensor) -> fx.Node:
        """The sum of a bias per head and a mask per window, repeated for all images."""
        if bias is not None:
            tensor = self.tensor(bias)
            assert tensor is not None
            mask = mask + tensor
        held = self.hold(mask.contiguous(), before)
        with self.graph.inserting_before(before):
            size = self.graph.call_function(aten.sym_size.int, (query, 0))
            images = self.graph.call_function(operator.floordiv, (size, mask.shape[0]))
            return self.graph.call_function(aten.repeat.default, (held, [images, 1, 1, 1]))

    def window_mask(self, node: fx.Node) -> tuple[fx.Node, Tensor] | None:
        """The scores and the mask, if each image's windows have their own mask.

        (images * windows, heads, n, n) -> (images, windows, heads, n, n) + (1, windows, 1, n, n) -> as before.
        """
        added = operands(node)[0]
        if added.target is not aten.add.Tensor or len(added.users) != 1 or added.kwargs:
            return None
        split, mask = operands(added)[0], self.tensor(operands(added)[1])
        if not isinstance(split, fx.Node) or split.target is not aten.reshape.default or len(split.users) != 1:
            return None
        inner, shape = operands(split)[0], split.meta.get("shape")
        if mask is None or shape is None or len(shape) != 5 or shape != added.meta.get("shape"):
            return None
        scores = inner.meta.get("shape")
        if scores != node.meta["shape"] or len(scores) != 4 or scores[1:] != shape[2:]:
            return None
        if tuple(mask.shape) != (1, shape[1], 1, *shape[3:]):
            return None
        return inner, mask[0]

    def scores(self, node: fx.Node) -> tuple[fx.Node, fx.Node, float, fx.Node | None, Tensor | None] | None:
        """Query, key, scale, bias and window mask of a softmax's input, if that is attention."""
        bias, mask, scale = None, None, 1.0
        while True:
            if not isinstance(node, fx.Node) or len(node.users) != 1:
                return None
            if node.target is aten.reshape.default and bias is None and mask is None:
                found = self.window_mask(node)
                if found is None:
                    return None
                node, mask = found
            elif node.target is aten.add.Tensor and bias is None and not node.kwargs:
                # The operand that is not the product is the addend.
                node, bias = operands(node) if leads_to_product(operands(node)[0]) else reversed(operands(node))
                if not isinstance(bias, fx.Node) or len(bias.meta.get("shape") or ()) not in (2, 4):
                    return None
                if bias.meta["shape"][-2:] != node.meta["shape"][-2:] or (
                    mask is not None and self.tensor(bias) is None
                ):
                    return None
            elif node.target is aten.mul.Scalar:
                # An earlier addend would be multiplied as well.
                scale *= operands(node)[1]
                node = operands(node)[0]
            elif node.target is aten.matmul.default:
                break
            else:
                return None
        query, transposed = operands(node)
        rank = len(node.meta["shape"])
        if rank != 4 or transposed.target is not aten.permute.default:
            return None
        # The key's transposition is undone by transposing the last two dimensions again.
        if query.target is aten.mul.Scalar and len(query.users) == 1:
            scale *= operands(query)[1]
            query = operands(query)[0]
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        order = [operands(transposed)[1][axis] for axis in swapped]
        if order == list(range(rank)):
            key = operands(transposed)[0]
        else:
            with self.graph.inserting_before(transposed):
                key = self.graph.call_function(aten.permute.default, (operands(transposed)[0], order))
            shape = transposed.meta["shape"]
            key.meta["shape"] = tuple(shape[axis] for axis in swapped)
        return query, key, scale, bias, mask


def leads_to_product(node: Any) -> bool:
    """Whether a node is a product of matrices, or one times a number."""
    while isinstance(node, fx.Node) and node.target is aten.mul.Scalar:
        node = operands(node)[0]
    return isinstance(node, fx.Node) and node.target is aten.matmul.default


RULES: dict[Any, Callable[[_Simplifier, fx.Node], None]] = {
    aten.batch_norm.default: _Simplifier.batch_norm,
    aten.add.Tensor: _Simplifier.add,
    aten.add.Scalar: _Simplifier.add,
    aten.mul.Tensor: _Simplifier.mul,
    aten.mul.Scalar: _Simplifier.mul,
    aten.div.Scalar: _Simplifier.divide,
    aten.permute.default: _Simplifier.permute,
    aten.reshape.default: _Simplifier.reshape,
    aten.softmax.int: _Simplifier.softmax,
}
