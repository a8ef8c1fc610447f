"""The device to compute on, its memory format, and the memory allocator of a CPU."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys

import torch

from utils.console import log
from utils.errors import FlagError, UserError


def keep_freed_memory() -> None:
    """Has the C library keep freed memory for the next tensor (glibc only).

    By default it hands large blocks back to the system, and every result of every layer is made of new pages, which
    costs more than many a layer's arithmetic.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            library.mallopt(mmap_threshold, 1 << 30)
            library.mallopt(trim_threshold, (1 << 31) - 1)


def choose_device(args: argparse.Namespace) -> torch.device:
    """The GPU of this process, or the CPU.

    Raises:
        FlagError: --use_gpu=True was given on a machine without a usable GPU.
        UserError: there are more processes than GPUs on this machine.
    """
    if args.use_gpu and torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if processes > gpus:
            raise UserError(
                f"not every process of this machine has a GPU of its own: there are {processes} and {gpus}; "
                "lower --nproc_per_node or give --use_gpu=False"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    if args.use_gpu and "use_gpu" in args.given:
        raise FlagError("--use_gpu=True, but PyTorch finds no usable GPU here: give --use_gpu=False to use the CPU")
    if args.use_gpu:
        log("no usable GPU here: running on the CPU")
    keep_freed_memory()
    return torch.device("cpu")


def memory_format(args: argparse.Namespace, device: torch.device) -> torch.memory_format:
    """channels_last for --data_format=NHWC, and where it is faster and the flag was not given."""
    faster = device.type == "cpu" or args.use_fp16
    given = "data_format" in args.given
    wanted = args.data_format == "NHWC" if given else faster
    return torch.channels_last if wanted else torch.contiguous_format
