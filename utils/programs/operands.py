"""The arguments of a graph's nodes."""

from __future__ import annotations

from typing import Any

from torch import fx


def operands(node: fx.Node) -> tuple[Any, ...]:
    """A node's positional arguments, with the types of its operator's schema; fx has one type for all arguments."""
    return node.args


def tensor_name(node: fx.Node) -> str:
    """The name of a `get_attr` node's tensor."""
    return str(node.target)
