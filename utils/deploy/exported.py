"""Exported networks: what infer.py --save_inference=True writes, read back and run without models/.

    NAME/model         a torch.export program without weights, which carries a `Description` of the network
    NAME/params        its weights, safetensors
    NAME/model.onnx    (--inference_format=onnx) an ONNX model, which carries the same description
    NAME/model.onnx.data    its weights

`torch.export.load` reads such a program too; its weights are then zeros, to be replaced in `state_dict`.
"""

from __future__ import annotations

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from utils.console import warn
from utils.deploy.compiled import CompiledProgram
from utils.deploy.network import DESCRIPTION, Description, ExportedNetwork, Run, checked_params
from utils.deploy.onednn import can_fuse, fuse_convolutions
from utils.deploy.onnx_engines import NoGpuError, load_onnx
from utils.deploy.program_graph import build_graph
from utils.devices import keep_freed_memory, place
from utils.errors import FlagError, UserError, reason
from utils.formats.torch_program import Program, ProgramError, read_program


def load_exported(
    model_file: str,
    params_file: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    engine: str = "auto",
    batch_size: int = 8,
    use_compile: bool = False,
    use_tensorrt: bool = False,
    gpu_mem: int | None = None,
    may_use_cpu: bool = False,
    cpu_flag: str = 'device="cpu"',
) -> ExportedNetwork:
    """Loads what infer.py --save_inference=True wrote, of either format.

    Args:
        model_file: NAME/model or NAME/model.onnx.
        params_file: its weights; None: the file that was written beside it.
        device: where to run it.
        dtype: to compute in: float32, bfloat16 or float16.
        engine: pytorch, onnxruntime, openvino or auto, which is PyTorch for a program and, for an ONNX model, ONNX
            Runtime, or OpenVINO where that is faster (in bfloat16 and int8 on a CPU) and installed.
        batch_size: images that a batch will usually have; with TensorRT, images that it will have at most.
        use_compile: compile a program with torch.compile.
        use_tensorrt: run an ONNX model with ONNX Runtime's TensorRT provider.
        gpu_mem: bytes that ONNX Runtime may allocate on a GPU; None: all there are.
        may_use_cpu: where the engine for an ONNX model cannot use the GPU `device`, use the CPU, with a warning.
        cpu_flag: what the user would have to give for the CPU, for errors.

    Raises:
        UserError: files that are missing, damaged, of another version or do not belong together, or an engine that
            is not installed or cannot do what is asked.
    """
    device = torch.device(device)
    try:
        with open(model_file, "rb") as file:
            is_archive = file.read(4) == b"PK\3\4"
    except OSError as error:
        raise UserError(f"--model_file {model_file}: {reason(error)}") from None
    if is_archive:
        if engine not in ("auto", "pytorch") or use_tensorrt:
            wanted = "--use_tensorrt" if use_tensorrt else f"--engine={engine}"
            raise FlagError(f"{wanted} runs ONNX models: export the network with --inference_format=onnx")
        return _load_program(model_file, params_file, device, dtype, batch_size, use_compile)
    if engine == "pytorch" or use_compile:
        wanted = "--use_compile" if use_compile else "--engine=pytorch"
        raise FlagError(f"{wanted} runs programs of PyTorch: export the network with --inference_format=torch")

    def load(device: torch.device) -> ExportedNetwork:
        return load_onnx(model_file, params_file, device, dtype, engine, batch_size, use_tensorrt, gpu_mem)

    try:
        return load(device)
    except NoGpuError as error:
        if not may_use_cpu:
            raise UserError(f"{error}; for the CPU give {cpu_flag}", error.exit_code) from None
        warn(f"running on the CPU: {error}")
    return load(torch.device("cpu"))


def _load_program(
    model_file: str,
    params_file: str | None,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    use_compile: bool,
) -> ExportedNetwork:
    """A program of torch.export, run by PyTorch."""
    try:
        program, texts = read_program(model_file, DESCRIPTION)
        if DESCRIPTION not in texts:
            raise ProgramError(
                "a program without a description of the network: infer.py --save_inference=True writes it"
            )
        description = Description.from_json(texts[DESCRIPTION], model_file)
        weights = _read_weights(checked_params(description, model_file, params_file), device, dtype)
        run = _build(program, weights, device, dtype, batch_size, use_compile, description.network)
    except ProgramError as error:
        raise UserError(f"--model_file {model_file} is {error}") from None
    return ExportedNetwork(description, "pytorch", device, dtype, torch.channels_last, run)


def _read_weights(path: str, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, in `dtype` if they are floating."""
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise UserError(f"--params_file {path} is not a .safetensors file: {error}") from None
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def _build(
    program: Program,
    weights: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    use_compile: bool,
    name: str,
) -> Run:
    """A program with its weights, made fast for the device. `name`: of the network, for errors."""
    module = build_graph(program, weights, device)
    if device.type == "cpu" and not use_compile:
        keep_freed_memory()
        if can_fuse(dtype):
            fuse_convolutions(module, batch_size)
            return module
    place(module, device, torch.channels_last)
    if use_compile:
        return CompiledProgram(module, name, torch.finfo(dtype).eps)
    return module
