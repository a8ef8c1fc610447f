"""What nodes of a graph are called with."""

from __future__ import annotations

from typing import Any

from torch import fx


def operands(node: fx.Node) -> tuple[Any, ...]:
    """A node's positional arguments, of the types in its operator's schema; fx has one type for all that there are."""
    return node.args


def tensor_name(node: fx.Node) -> str:
    """The name of the tensor that a `get_attr` node stands for."""
    return str(node.target)
