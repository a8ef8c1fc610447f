"""Fuses convolutions with the operations that follow them: oneDNN's own kernels on a CPU, without a compiler.

On CPUs PyTorch's convolutions call oneDNN, which can apply an activation or add a residual while the result is still in
registers, and prefers its own layout of the weights. PyTorch has operators for both (torch.ops.mkldnn), which its
compiler uses. Here they go into a network's graph directly, so that a process is ready at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from utils.programs.operands import operands, tensor_name

aten = torch.ops.aten
mkldnn = torch.ops.mkldnn

# Activation -> oneDNN's name for it, and its parameters.
ACTIVATIONS: dict[Any, tuple[str, list[float]]] = {
    aten.relu.default: ("relu", []),
    aten.relu_.default: ("relu", []),
    aten.relu6.default: ("hardtanh", [0.0, 6.0]),
    aten.relu6_.default: ("hardtanh", [0.0, 6.0]),
    aten.sigmoid.default: ("sigmoid", []),
    aten.silu.default: ("swish", []),
    aten.silu_.default: ("swish", []),
    aten.hardswish.default: ("hardswish", []),
    aten.hardswish_.default: ("hardswish", []),
    aten.hardsigmoid.default: ("hardsigmoid", []),
    aten.hardsigmoid_.default: ("hardsigmoid", []),
}
RELU = (aten.relu.default, aten.relu_.default)


def can_fuse(dtype: torch.dtype) -> bool:
    """Whether this PyTorch and this processor have the operators for `dtype`."""
    operators = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(mkldnn, name) for name in operators):
        return False
    if dtype == torch.float32:
        return True
    check = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    return check is not None and hasattr(mkldnn, check) and getattr(mkldnn, check)()


class _Convolution(NamedTuple):
    """The arguments of an aten.conv2d node."""

    images: fx.Node
    weight: fx.Node
    bias: fx.Node | None = None
    stride: Sequence[int] = (1, 1)
    padding: Sequence[int] = (0, 0)
    dilation: Sequence[int] = (1, 1)
    groups: int = 1


def fuse_convolutions(module: fx.GraphModule, batch_size: int) -> None:
    """Replaces the convolutions of a graph by oneDNN's, each fused with the activation or the sum that follows it.

    Zero padding before a depthwise convolution becomes the convolution's own padding.

    Args:
        module: as `utils.deploy.program_graph.build_graph` builds it, on a CPU, in the type to compute in.
        batch_size: usual number of images in a batch; the layout of the weights is chosen for it.
    """
    _Fusion(module, batch_size).run()


class _Fusion:
    """`fuse_convolutions` at work on a graph; see there for the arguments."""

    def __init__(self, module: fx.GraphModule, batch_size: int) -> None:
        self.module = module
        self.graph = module.graph
        self.batch_size = batch_size
        self.order = {node: number for number, node in enumerate(self.graph.nodes)}

    def run(self) -> None:
        for node in self.graph.find_nodes(op="call_function", target=aten.conv2d.default):
            self.absorb_padding(node)
        for node in list(self.graph.nodes):
            if node.target in (aten.add.Tensor, aten.add_.Tensor):
                self.fuse_sum(node)
        for node in self.graph.find_nodes(op="call_function", target=aten.conv2d.default):
            self.fuse_activation(node)
        for node in self.graph.find_nodes(op="get_attr"):
            if not node.users:
                self.graph.erase_node(node)
                delattr(self.module, tensor_name(node))
        self.module.recompile()

    def absorb_padding(self, node: fx.Node) -> None:
        """pad, depthwise conv -> depthwise conv; padding copies the images, which takes longer than the conv.

        oneDNN's operators take the same padding on both sides. With less padding before than after (the "same" padding
        of TensorFlow's networks) the kernel is extended with zeros in front, so that its windows see the same pixels.
        """
        convolution = _Convolution(*operands(node))
        pad = convolution.images
        is_depthwise = convolution.groups == pad.meta["shape"][1]
        if pad.target is not aten.pad.default or len(operands(pad)) != 2 or pad.kwargs or len(pad.users) > 1:
            return  # more arguments mean another padding than zeros
        images, sides = operands(pad)
        if not is_depthwise or len(sides) != 4 or any(convolution.padding) or tuple(convolution.dilation) != (1, 1):
            return
        left, right, top, bottom = sides
        if not (0 <= left <= right and 0 <= top <= bottom):
            return
        weight: Tensor = getattr(self.module, tensor_name(convolution.weight))
        attribute = f"padded_{node.name}"
        self.module.register_buffer(attribute, F.pad(weight, (right - left, 0, bottom - top, 0)))
        with self.graph.inserting_before(node):
            weight_node = self.graph.get_attr(attribute)
        node.args = convolution._replace(images=images, weight=weight_node, padding=[bottom, right])
        self.graph.erase_node(pad)

    def fuse_activation(self, node: fx.Node) -> None:
        """conv, activation -> one operator; a lone convolution is replaced too, for the layout of its weights."""
        follower = _only_user(node)
        name, numbers = ACTIVATIONS.get(follower and follower.target, ("none", []))
        convolution = _Convolution(*operands(node))
        with self.graph.inserting_before(node):
            arguments = self.arguments(convolution)
            fused = self.graph.call_function(
                mkldnn._convolution_pointwise.default, (convolution.images, *arguments, name, numbers, "")
            )
        self.replace(fused, [node] if follower is None or name == "none" else [node, follower])

    def fuse_sum(self, node: fx.Node) -> None:
        """conv + other, with a ReLU if one follows -> one operator."""
        if len(operands(node)) != 2 or node.kwargs:
            return
        convolutions = [
            operand
            for operand in operands(node)
            if isinstance(operand, fx.Node) and operand.target is aten.conv2d.default and len(operand.users) == 1
        ]
        if not convolutions:
            return
        # The convolution computes the sum, so the other operand must be ready before it.
        last = max(convolutions, key=self.order.__getitem__)
        other = operands(node)[1] if operands(node)[0] is last else operands(node)[0]
        if not isinstance(other, fx.Node) or other is last or self.order[other] > self.order[last]:
            return
        changes_other = node.target is aten.add_.Tensor and operands(node)[0] is other
        if other.meta.get("shape") != last.meta["shape"] or (changes_other and len(other.users) > 1):
            return
        follower = _only_user(node)
        relu = follower is not None and follower.target in RELU
        convolution = _Convolution(*operands(last))
        with self.graph.inserting_before(last):
            sum_arguments = (*self.arguments(convolution), "add", 1.0, "relu" if relu else None, [], None)
            if self.is_spent(other, last, node):
                fused = self.graph.call_function(
                    mkldnn._convolution_pointwise_.binary, (other, convolution.images, *sum_arguments)
                )
            else:
                fused = self.graph.call_function(
                    mkldnn._convolution_pointwise.binary, (convolution.images, other, *sum_arguments)
                )
        self.replace(fused, [last, node, follower] if follower is not None and relu else [last, node])

    def is_spent(self, value: fx.Node, convolution: fx.Node, addition: fx.Node) -> bool:
        """Whether the sum may overwrite `value`: nothing else reads it after `convolution`."""
        in_place = mkldnn._convolution_pointwise_.binary
        if value.op != "call_function" or (value.target is not in_place and _may_alias(value)):
            return False
        return all(
            self.order[user] < self.order[convolution] and (user.target is in_place or not _may_alias(user))
            for user in value.users
            if user is not addition
        )

    def arguments(self, convolution: _Convolution) -> tuple[Any, ...]:
        """Arguments of every fused operator: weight in oneDNN's layout, bias, padding, stride, dilation, groups."""
        padding, stride, dilation = (
            list(pair) if len(pair) == 2 else list(pair) * 2
            for pair in (convolution.padding, convolution.stride, convolution.dilation)
        )
        shape = [self.batch_size if size is None else size for size in convolution.images.meta["shape"]]
        weight: Tensor = getattr(self.module, tensor_name(convolution.weight))
        packed = mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, convolution.groups, shape)
        attribute = f"packed_{tensor_name(convolution.weight)}_{len(self.order)}"
        self.module.register_buffer(attribute, packed)
        packed_node = self.graph.get_attr(attribute)
        return packed_node, convolution.bias, padding, stride, dilation, convolution.groups

    def replace(self, fused: fx.Node, nodes: list[fx.Node]) -> None:
        """Replaces a chain of nodes by `fused`, which takes over the last one's users."""
        self.order[fused] = self.order[nodes[0]]
        fused.meta["shape"] = nodes[-1].meta["shape"]
        nodes[-1].replace_all_uses_with(fused)
        for node in reversed(nodes):
            self.graph.erase_node(node)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _may_alias(node: fx.Node) -> bool:
    """Whether a node's result may share memory with its arguments: a view, or an in-place operation."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(result.alias_info is not None for result in schema.returns)
