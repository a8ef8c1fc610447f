"""The device to compute on, its memory format, and where compiled code is kept."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from utils.console import log, warn
from utils.errors import FlagError, UserError
from utils.system import keep_freed_memory

Module = TypeVar("Module", bound=nn.Module)


def gpu_of_process(cpu_flag: str) -> torch.device:
    """The GPU with this process's local rank; makes it PyTorch's current device.

    Args:
        cpu_flag: the flag that selects the CPU, for the error message.

    Raises:
        UserError: there are more processes than GPUs on this machine.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if processes > gpus:
        raise UserError(
            f"this machine has {processes} but {gpus}, and each process needs its own: lower --nproc_per_node or "
            f"give {cpu_flag}"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def named_device(name: str) -> torch.device:
    """The device that --device=`name` means; makes a GPU PyTorch's current device.

    Raises:
        FlagError: it does not exist, or several processes would share it.
        UserError: there are more processes than GPUs on this machine.
    """
    kind, _, number = name.partition(":")
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if kind == "cpu":
        keep_freed_memory()
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise FlagError("--device mps: PyTorch finds no Apple GPU on this machine; give --device=cpu")
        if several:
            raise FlagError(
                "--device mps: a Mac has one GPU, which several processes cannot share; give --device=cpu, or "
                "start one process"
            )
        return torch.device("mps")
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise FlagError(f"--device {name}: this machine has {count} usable GPUs; give --device=cpu to use the CPU")
    if number and several:
        raise FlagError(f"--device {name}: with several processes each takes its own GPU; give --device=cuda")
    if not number:
        return gpu_of_process("--device=cpu")
    device = torch.device("cuda", int(number))
    torch.cuda.set_device(device)  # the reader's copies and events go to the current one
    return device


def sum_type(device: torch.device) -> torch.dtype:
    """The type for sums: float64, except on Apple GPUs, which do not support it."""
    return torch.float32 if device.type == "mps" else torch.float64


def choose_device(args: argparse.Namespace) -> torch.device:
    """The device that --device names, else this process's GPU, or the CPU.

    Raises:
        FlagError: the device does not exist, or --use_gpu=True was given on a machine without a usable GPU.
        UserError: there are more processes than GPUs on this machine.
    """
    if args.device is not None:
        return named_device(args.device)
    if args.use_gpu and torch.cuda.is_available():
        return gpu_of_process("--use_gpu=False")
    if args.use_gpu and "use_gpu" in args.given:
        raise FlagError(
            "--use_gpu=True, but PyTorch finds no usable GPU on this machine: give --use_gpu=False to use the CPU"
        )
    if args.use_gpu:
        log("no usable GPU: running on the CPU")
    keep_freed_memory()
    return torch.device("cpu")


def memory_format(args: argparse.Namespace, device: torch.device) -> torch.memory_format:
    """channels_last for --data_format=NHWC, or if the flag was not given and it is faster."""
    faster = device.type == "cpu" or args.use_fp16
    given = "data_format" in args.given
    wanted = args.data_format == "NHWC" if given else faster
    return torch.channels_last if wanted else torch.contiguous_format


def place(module: Module, device: torch.device, memory_format: torch.memory_format) -> Module:
    """Moves a module to a device, and its 4-D tensors into a memory format; returns the module itself."""
    module.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue] (not in PyTorch's own types)
    return module


def amp_dtype(args: argparse.Namespace, device: torch.device) -> torch.dtype | None:
    """The type of operations that --use_fp16 and --amp_dtype ask for; None for float32."""
    if not args.use_fp16:
        return None
    if args.amp_dtype == "float16" or (args.amp_dtype == "auto" and device.type == "cuda"):
        return torch.float16
    return torch.bfloat16


def note_slow_type(device: torch.device, dtype: torch.dtype | None, flag: str, training: bool = False) -> None:
    """Notes if a CPU would compute in a 16-bit type that it has no fast instructions for.

    Args:
        device, dtype: where to compute, and in which type.
        flag: the flag that asked for it.
        training: whether gradients are computed too. With AVX512_BF16 but without AMX, training runs at 0.70 of
            float32's speed.
    """
    if device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) and not _is_fast(dtype, training):
        name, what = str(dtype).removeprefix("torch."), "training" if training else "networks"
        warn(
            f"{flag}: this processor has no instructions to make {what} in {name} faster than in float32: leave the "
            "flag out"
        )


def _is_fast(dtype: torch.dtype, training: bool) -> bool:
    """Whether this processor, with the instructions that oneDNN may use, is faster in a 16-bit type than in float32."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        checks = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
        return bool(getattr(torch.ops.mkldnn, checks[dtype])())
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    unlimited = limit in ("DEFAULT", "ALL")
    has_amx = torch.cpu._is_amx_tile_supported() and (unlimited or "AMX" in limit)
    if dtype == torch.float16:
        return has_amx and torch.cpu._is_amx_fp16_supported() and (unlimited or "FP16" in limit)
    bf16 = torch.cpu._is_avx512_bf16_supported() and (
        unlimited or any(name in limit for name in ("BF16", "FP16", "AMX"))
    )
    return has_amx or (bf16 and not training)


def in_mixed_precision(
    network: Callable[[Tensor], Any], device: torch.device, dtype: torch.dtype | None
) -> Callable[[Tensor], Any]:
    """A network, or any function of tensors, with its operations in `dtype` on `device`; None: unchanged."""
    if dtype is None:
        return network

    def run(inputs: Tensor) -> Any:
        with torch.autocast(device.type, dtype):
            return network(inputs)

    return run


def keep_compiled_code_by_processor() -> None:
    """Keeps the code that torch.compile makes for this processor in a separate folder, through TORCHINDUCTOR_CACHE_DIR.

    PyTorch's cache does not check which instructions or processor its code was made for. A cache shared by different
    machines returns code for another vector width, which, if it compiles, silently leaves out results.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # takes seconds, and imports the compiler

    folder, name = cache_dir(), processor()
    if os.path.basename(folder) != name:  # set by the parent process or an earlier call
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, name)


def processor() -> str:
    """A name for the instructions that this processor has and PyTorch and oneDNN may use."""
    facts = [platform.machine(), platform.processor(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            told = ("model name", "flags", "Features", "CPU implementer", "CPU part")  # of x86, of ARM
            facts += sorted({line for line in file if line.startswith(told)})
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    return f"{torch.backends.cpu.get_cpu_capability().lower()}-{digest[:12]}"
