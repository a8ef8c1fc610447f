"""ONNX models, run by ONNX Runtime or OpenVINO. Both are optional: requirements-onnx.txt has them."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

from utils.errors import FlagError, UserError
from utils.exported import DESCRIPTION, Description, ExportedNetwork, Run, checked_params
from utils.protobuf import read_fields

# onnxruntime's own loggers would print what becomes one line here.
SILENT = 4


def load_onnx(
    model_file: str,
    params_file: str | None,
    device: torch.device,
    dtype: torch.dtype,
    engine: str,
    use_tensorrt: bool,
) -> ExportedNetwork:
    """Loads NAME/model.onnx; arguments and errors are those of `utils.exported.load_exported`."""
    with open(model_file, "rb") as file:
        model = file.read()
    description = read_description(model, model_file)
    params = checked_params(description, model_file, params_file)
    engine = choose_engine(engine, device, dtype, description.precision)
    try:
        if engine == "openvino":
            run = _openvino(model_file, params, description, dtype)
        else:
            run = _onnxruntime(model, params, description, device, dtype, use_tensorrt)
    except UserError:
        raise
    except Exception as error:  # each engine has errors of its own, with RuntimeError for the base at best
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--model_file {model_file} cannot be run by {engine}: {reason}") from None
    return ExportedNetwork(description, engine, torch.device("cpu"), torch.float32, torch.contiguous_format, run)


def choose_engine(engine: str, device: torch.device, dtype: torch.dtype, precision: str) -> str:
    """The engine for an ONNX model: what was asked for, or the faster one that is installed.

    Measured on a CPU with AMX: in float32 ONNX Runtime is ahead; in bfloat16 and int8 OpenVINO, which uses AMX.

    Raises:
        FlagError: neither can do what is asked.
    """
    on_cpu = device.type == "cpu"
    if engine == "auto":
        prefer_openvino = on_cpu and (dtype != torch.float32 or precision == "int8")
        engine = "openvino" if prefer_openvino and _is_installed("openvino") else "onnxruntime"
    if engine == "openvino" and not on_cpu:
        raise FlagError("--engine=openvino runs on the CPU: give --gpu_id=-1")
    if engine == "onnxruntime" and on_cpu and dtype != torch.float32:
        raise FlagError(
            f"ONNX Runtime has no {str(dtype).removeprefix('torch.')} on a CPU: install openvino, or export the "
            "network with --inference_format=torch"
        )
    return engine


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed: pip install -r requirements-onnx.txt") from None


def _onnxruntime(
    model: bytes,
    params: str,
    description: Description,
    device: torch.device,
    dtype: torch.dtype,
    use_tensorrt: bool,
) -> Run:
    ort = _import("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    with open(params, "rb") as file:
        weights = file.read()
    # From memory: whatever the model says of folders, only this file is read.
    options.add_external_initializers_from_files_in_memory([description.params_name], [weights], [len(weights)])
    session = ort.InferenceSession(model, options, _providers(ort, device, dtype, use_tensorrt))
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run


def _providers(
    ort: ModuleType, device: torch.device, dtype: torch.dtype, use_tensorrt: bool
) -> list[str | tuple[str, dict[str, object]]]:
    """ONNX Runtime's execution providers for a device, in order of preference.

    Raises:
        UserError: this build of ONNX Runtime has none for it.
    """
    if device.type == "cpu":
        if use_tensorrt:
            raise FlagError("--use_tensorrt needs an NVIDIA GPU")
        return ["CPUExecutionProvider"]
    wanted = "TensorrtExecutionProvider" if use_tensorrt else "CUDAExecutionProvider"
    if wanted not in ort.get_available_providers():
        raise UserError(f"this ONNX Runtime has no {wanted}: install onnxruntime-gpu, or give --gpu_id=-1 for the CPU")
    cuda = "CUDAExecutionProvider", {"device_id": device.index or 0}
    if not use_tensorrt:
        if dtype != torch.float32:
            raise FlagError("--use_fp16 and --use_bf16 with an ONNX model on a GPU need --use_tensorrt")
        return [cuda]
    half = {torch.float16: {"trt_fp16_enable": True}, torch.bfloat16: {"trt_bf16_enable": True}}.get(dtype, {})
    return [(wanted, {"device_id": device.index or 0, **half}), cuda]


def _openvino(model_file: str, params: str, description: Description, dtype: torch.dtype) -> Run:
    openvino = _import("openvino")
    beside = os.path.join(os.path.dirname(model_file), description.params_name)
    if not os.path.exists(beside) or not os.path.samefile(params, beside):
        raise FlagError(f"--engine=openvino reads the weights beside the model, as {beside}: put {params} there")
    if description.precision == "int8":
        dtype = torch.bfloat16  # what is not quantized; ignored where the processor has no such arithmetic
    precision = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(model_file, "CPU", config)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled(images.numpy())[0].copy())

    return run


# --------------------------------------------------------------------------------------------------- model file

# Field numbers of ONNX's protocol buffers (onnx/onnx.proto3).
MODEL_IR_VERSION, MODEL_METADATA = 1, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2


def read_description(model: bytes, path: str) -> Description:
    """The description in an ONNX model's metadata, without the onnx package.

    Args:
        model: the file.
        path: its name, for errors.

    Raises:
        UserError: it is not an ONNX model, or not one of infer.py's.
    """
    try:
        fields = list(read_fields(memoryview(model)))
        entries = [dict(read_fields(value)) for number, value in fields if number == MODEL_METADATA]
        texts = {bytes(entry[ENTRY_KEY]): bytes(entry[ENTRY_VALUE]).decode() for entry in entries}
        if not any(number == MODEL_IR_VERSION for number, _ in fields):
            raise ValueError("no version")
    except (ValueError, IndexError, KeyError, TypeError):
        raise UserError(
            f"--model_file {path} is neither a program of PyTorch nor an ONNX model, or is damaged: "
            "infer.py --save_inference=True writes them"
        ) from None
    if DESCRIPTION.encode() not in texts:
        raise UserError(f"--model_file {path} has no description: it was not written by infer.py --save_inference=True")
    return Description.from_json(texts[DESCRIPTION.encode()], path)
