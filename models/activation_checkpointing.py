"""Activation checkpointing: saves memory by computing activations twice (Chen et al., arXiv:1604.06174)."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from models import layers


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that the network repeats: its residual blocks, dense layers, inception modules, ...

    Single layers and the small groups of `models.layers` do not count, as storing only their inputs saves nothing.
    """
    small = tuple(value for value in vars(layers).values() if isinstance(value, type) and issubclass(value, nn.Module))
    kinds = Counter(type(module) for module in model.modules())

    def blocks(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            own = type(child).__module__.startswith("models.") and not isinstance(child, small)
            if own and kinds[type(child)] > 1:
                yield child
            else:
                yield from blocks(child)

    return list(blocks(model))


@contextlib.contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keeps batch norms from counting a batch twice when its activations are recomputed."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    counters = [counter for norm in norms if (counter := norm.num_batches_tracked) is not None]
    before = [norm.momentum for norm in norms], [counter.clone() for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before[0], strict=True):
            norm.momentum = momentum
        for counter, batches in zip(counters, before[1], strict=True):
            counter.copy_(batches)


def checkpoint_activations(model: nn.Module) -> int:
    """Makes the repeated blocks of `model` store only their inputs, and recompute the rest for the gradient.

    Losses and gradients stay the same. Returns the number of these blocks; 0: there are none, and nothing changes.
    """
    blocks = repeated_blocks(model)
    for block in blocks:
        block.forward = functools.partial(_forward, block, block.forward)
    return len(blocks)


def _forward(block: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """Wraps a block's `forward`."""
    if not block.training:
        return forward(*inputs)
    contexts = functools.partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    return contextlib.nullcontext(), _frozen_statistics(block)
