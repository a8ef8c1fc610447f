"""Networks of fewer blocks: what is alike block by block is tested as well, in a fraction of the time."""

from __future__ import annotations

import re

import torch
from torch import nn


def shortened(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Takes out of each sequence those blocks that are like an earlier one of it, where the network runs without them.

    Args:
        model: changed in place. In evaluation mode.
        images: to run it with, (N, 3, H, W).
    """
    with torch.no_grad():
        for path, sequence in reversed(list(model.named_modules())):  # the inner ones first: paths stay as they are
            if not isinstance(sequence, nn.Sequential | nn.ModuleList):
                continue
            kept = list({_kind(block): block for block in sequence}.values())
            if len(kept) == len(sequence):
                continue
            shorter = nn.Sequential(*kept) if isinstance(sequence, nn.Sequential) else nn.ModuleList(kept)
            model.set_submodule(path, shorter)
            try:
                model(images)
            except (IndexError, RuntimeError):
                model.set_submodule(path, sequence)
    return model


def _kind(block: nn.Module) -> tuple[object, ...]:
    """What two blocks have in common that differ in nothing but their weights. One without weights is like no other."""
    if next(block.parameters(), None) is None:
        return (id(block),)
    settings = [
        (path, name, value)
        for path, module in block.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | str | tuple) and name != "training"
    ]
    drop_path = re.compile(r"(drop|p|rate|prob)\w*=[\d.e-]+")
    return drop_path.sub("", repr(block)), *map(str, settings)
