"""Optimizes a network's graph for its device."""

from __future__ import annotations

import torch
from torch import fx

from utils.deploy.compiled import CompiledProgram
from utils.deploy.network import Run
from utils.deploy.onednn import can_fuse, fuse_convolutions
from utils.devices import place
from utils.system import keep_freed_memory


def make_fast(
    module: fx.GraphModule,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    use_compile: bool,
    name: str,
) -> Run:
    """Moves a program to its device and optimizes it there. `name` is the network's name, for errors."""
    if device.type == "cpu":
        align(module)
    if device.type == "cpu" and not use_compile:
        keep_freed_memory()
        if can_fuse(dtype):
            fuse_convolutions(module, batch_size)
            return module
    place(module, device, torch.channels_last)
    if use_compile:
        return CompiledProgram(module, name, torch.finfo(dtype).eps)
    return module


def align(module: fx.GraphModule) -> None:
    """Copies weights that are not aligned to 16 bytes, as can happen in a memory-mapped file.

    oneDNN's kernels for processors without AVX load 16 bytes at a time, and crash at other addresses.
    """
    for name, tensor in module.named_buffers():
        if tensor.data_ptr() % 16:
            module.register_buffer(name, tensor.clone())
