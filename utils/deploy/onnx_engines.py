"""Runs ONNX models with ONNX Runtime or OpenVINO. Both are optional: requirements-onnx.txt lists them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from utils.console import warn
from utils.deploy.network import DESCRIPTION, Description, ExportedNetwork, Run, Settings, checked_params
from utils.errors import FlagError, UserError, reason
from utils.formats.protobuf import read_fields
from utils.system import cache_folder

# Silences the log of onnxruntime's sessions, whose errors are reported here. (Its other logger stays on: it alone names
# a GPU library that does not load.)
SILENT = 4

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# Name and options.
Provider = tuple[str, dict[str, object]]


class NoGpuError(UserError):
    """The engine cannot use the chosen GPU, but could use the CPU. The message gives the reason and a remedy."""


def load_onnx(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """Loads NAME/model.onnx; takes and raises what `utils.deploy.exported.load_exported` does."""
    try:
        return _load(model_file, params_file, settings)
    except NoGpuError as error:
        if not settings.may_use_cpu:
            raise UserError(f"{error}; to use the CPU, give {settings.cpu_flag}", error.exit_code) from None
        warn(f"running on the CPU: {error}")
    return _load(model_file, params_file, replace(settings, device=torch.device("cpu")))


def _load(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """Loads it on the device of the settings; raises `NoGpuError` if the engine cannot use that GPU."""
    device, dtype, engine = settings.device, settings.dtype, settings.engine
    use_tensorrt = settings.use_tensorrt
    with open(model_file, "rb") as file:
        model = file.read()
    description = read_description(model, model_file)
    if use_tensorrt and (device.type == "cpu" or engine == "openvino"):
        raise FlagError("--use_tensorrt needs an NVIDIA GPU and --engine=onnxruntime")
    engine = choose_engine(engine, device, dtype, description.precision)
    providers = []
    if engine == "onnxruntime":
        providers = _providers(model, description, device, dtype, settings.batch_size, use_tensorrt, settings.gpu_mem)
    params = _checked_weights(model, description, model_file, params_file)
    _check_external_files(model, model_file, description)
    with _one_line(model_file, engine):
        if engine == "openvino":
            run = _openvino(model_file, params, description, dtype)
        else:
            run = _onnxruntime(model, params, description, providers)

    def run_or_explain(images: Tensor) -> Tensor:
        with _one_line(model_file, engine):
            return run(images)

    cpu = torch.device("cpu")
    return ExportedNetwork(description, engine, cpu, torch.float32, torch.contiguous_format, run_or_explain)


@contextlib.contextmanager
def _one_line(model_file: str, engine: str) -> Iterator[None]:
    """Turns an engine's errors into a `UserError`, or into a `MemoryError` if memory ran out."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the engines' exceptions share no base class
        text = str(error).strip() or type(error).__name__
        if re.search("allocate memory|out of memory|bad_alloc", text):
            raise MemoryError(text) from None
        raise UserError(f"--model_file {model_file} cannot be run by {engine}: {text.splitlines()[0]}") from None


def choose_engine(engine: str, device: torch.device, dtype: torch.dtype, precision: str) -> str:
    """The engine for an ONNX model: the one named, or for auto the faster one of those installed.

    Measured on a CPU with AMX: ONNX Runtime is faster in float32; OpenVINO, which uses AMX, in bfloat16 and int8.

    Raises:
        FlagError: the engine cannot compute in `dtype` on this device.
        NoGpuError: the named engine runs on CPUs only.
    """
    on_cpu = device.type == "cpu"
    if engine == "auto":
        prefer_openvino = on_cpu and (dtype != torch.float32 or precision == "int8")
        engine = "openvino" if prefer_openvino and _is_installed("openvino") else "onnxruntime"
    if engine == "openvino" and not on_cpu:
        raise NoGpuError("--engine=openvino does not use NVIDIA GPUs", exit_code=2)
    if engine == "onnxruntime" and on_cpu and dtype != torch.float32:
        raise FlagError(
            f"ONNX Runtime cannot compute in {str(dtype).removeprefix('torch.')} on a CPU: install openvino, or export "
            "the network with infer.py --inference_format=torch"
        )
    return engine


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def import_engine(name: str) -> ModuleType:
    """Imports an engine's package; raises `UserError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed: pip install -r requirements-onnx.txt") from None


# ------------------------------------------------------------------------------------------------- ONNX Runtime


def _onnxruntime(model: bytes, params: str | None, description: Description, providers: list[Provider]) -> Run:
    ort = import_engine("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    # Processors without VNNI add int8 products in pairs, in 16 bits, and by default ONNX Runtime lets these sums
    # overflow. This option prevents it; such processors take a tenth longer, and others are not affected.
    options.add_session_config_entry("session.x64quantprecision", "1")
    # By default its idle threads spin for a while; between batches the processor is needed to read the next images.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if params is not None:
        with open(params, "rb") as file:
            weights = file.read()
        # From memory, so that only this file is read, whatever paths the model names.
        options.add_external_initializers_from_files_in_memory([description.params_name], [weights], [len(weights)])
    wanted = providers[0][0]
    why = "does not load, for the reason printed above (see docs/deployment.md, ONNX on a GPU)"
    try:
        # With the fallback enabled it prints a failing provider to stdout, among the results, and tries the next.
        session = ort.InferenceSession(model, options, providers, enable_fallback=False)
    except RuntimeError as error:
        if "Please install" in str(error):  # TensorRT's libraries, or CUDA's if CUDA_PATH is set
            raise _unusable(wanted, why) from None
        raise
    if session.get_providers()[0] != wanted:  # without CUDA's libraries it drops the provider silently
        raise _unusable(wanted, why)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run


def _providers(
    model: bytes,
    description: Description,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    use_tensorrt: bool,
    gpu_mem: int | None,
) -> list[Provider]:
    """ONNX Runtime's execution providers for a device, in order of preference.

    Raises:
        UserError: this build of ONNX Runtime lacks the provider; a `NoGpuError` unless TensorRT was asked for.
    """
    if device.type == "cpu":
        return [(CPU, {})]
    ort = import_engine("onnxruntime")
    wanted = TENSORRT if use_tensorrt else CUDA
    if wanted not in ort.get_available_providers():
        remedy = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        raise _unusable(wanted, f"is missing from this build of ONNX Runtime: {remedy}")
    gpu: dict[str, object] = {"device_id": device.index or 0}
    cuda = CUDA, gpu if gpu_mem is None else {**gpu, "gpu_mem_limit": gpu_mem}
    if use_tensorrt:
        engines = _engine_folder(model, ort.__version__)
        return [(TENSORRT, {**gpu, **_tensorrt_options(description, dtype, batch_size, gpu_mem, engines)}), cuda]
    if dtype != torch.float32:
        raise FlagError("half precision of an ONNX model on a GPU needs TensorRT: give predict.py --use_tensorrt=True")
    return [cuda]


def _unusable(provider: str, why: str) -> UserError:
    """The error for a provider that cannot be used; the CPU cannot replace TensorRT, which the user asked for."""
    return (UserError if provider == TENSORRT else NoGpuError)(f"ONNX Runtime's {provider} {why}")


def _tensorrt_options(
    description: Description, dtype: torch.dtype, batch_size: int, gpu_mem: int | None, engines: str
) -> dict[str, object]:
    """Options of ONNX Runtime's TensorRT provider: one engine for every batch up to `batch_size`, kept in `engines`."""
    shape = "x".join(map(str, description.image_shape))
    options: dict[str, object] = {
        "trt_profile_min_shapes": f"images:1x{shape}",
        "trt_profile_opt_shapes": f"images:{batch_size}x{shape}",
        "trt_profile_max_shapes": f"images:{batch_size}x{shape}",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": engines,
    }
    if dtype != torch.float32:
        options["trt_fp16_enable" if dtype == torch.float16 else "trt_bf16_enable"] = True
    if gpu_mem is not None:
        options["trt_max_workspace_size"] = gpu_mem
    return options


def _engine_folder(model: bytes, version: str) -> str:
    """The folder for a model's TensorRT engines, built by one version of ONNX Runtime.

    ONNX Runtime tells engines apart by their graph alone, so the folder's checksum also covers the weights, through the
    model's description. Engines are GPU code, so none is loaded from the model's folder, where anybody could put one.

    Raises:
        UserError: the folder cannot be made.
    """
    folder = os.path.join(cache_folder(), "tensorrt_engines", f"{hashlib.sha256(model).hexdigest()[:32]}-{version}")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--use_tensorrt: cannot make the folder {folder} for its engines ({reason(error)}): set XDG_CACHE_HOME to "
            "another cache folder"
        ) from None
    return folder


# ------------------------------------------------------------------------------------------------------ OpenVINO


def _openvino(model_file: str, params: str | None, description: Description, dtype: torch.dtype) -> Run:
    openvino = import_engine("openvino")
    beside = os.path.join(os.path.dirname(model_file), description.params_name)
    if params is not None and not (os.path.exists(beside) and os.path.samefile(params, beside)):
        raise FlagError(f"--engine=openvino reads the weights from {beside}: put {params} there")
    if description.precision == "int8":
        dtype = torch.bfloat16  # for layers that are not quantized; a processor without bfloat16 ignores it
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
MODEL_IR_VERSION, MODEL_GRAPH, MODEL_METADATA = 1, 7, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2

# The messages on the way from a model to its tensors: the relevant fields, and the message in each.
MESSAGES = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}  # fmt: skip


def read_description(model: bytes, path: str) -> Description:
    """Reads the description from an ONNX model's metadata, without the onnx package.

    Args:
        model: the file's bytes.
        path: its name, for errors.

    Raises:
        UserError: it is not an ONNX model, or infer.py did not write it.
    """
    try:
        fields = list(read_fields(memoryview(model)))
        entries = [dict(read_fields(cast(memoryview, value))) for number, value in fields if number == MODEL_METADATA]
        texts = {_text(entry[ENTRY_KEY]): _text(entry[ENTRY_VALUE]) for entry in entries}
        if not any(number == MODEL_IR_VERSION for number, _ in fields):
            raise ValueError("no version")
    except (ValueError, IndexError, KeyError, TypeError):
        raise UserError(
            f"--model_file {path} is neither a PyTorch program nor an ONNX model, or is damaged: export the network "
            "with infer.py --save_inference=True"
        ) from None
    if DESCRIPTION not in texts:
        raise UserError(
            f"--model_file {path} has no description: export the network with infer.py --save_inference=True"
        )
    return Description.from_json(texts[DESCRIPTION], path)


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise ValueError("a number instead of a text")
    return str(value, "utf-8")


def graph_checksum(model: bytes) -> tuple[int, str]:
    """Size and checksum of the graph in an ONNX model, including the weights in it.

    Raises:
        FormatError: it is not a model.
    """
    digest, size = hashlib.sha256(), 0
    for number, value in read_fields(memoryview(model)):
        if number == MODEL_GRAPH and isinstance(value, memoryview):
            digest.update(value)
            size += len(value)
    return size, digest.hexdigest()


def _checked_weights(model: bytes, description: Description, model_file: str, params_file: str | None) -> str | None:
    """The model's weight file, after a check that it belongs to the model; None if the model has the weights.

    Raises:
        UserError: the file does not belong to the model, or the model is damaged.
        FlagError: a file is given, but the model has the weights.
    """
    if description.params_name:
        return checked_params(description, model_file, params_file)
    if params_file is not None:
        raise FlagError(
            f"--params_file {params_file}: --model_file {model_file} has the weights: leave --params_file out"
        )
    if graph_checksum(model) != (description.params_bytes, description.params_sha256):
        raise UserError(f"--model_file {model_file} is damaged: its checksum is wrong; export the network again")
    return None


def external_files(model: bytes) -> set[str]:
    """The names of the files that hold an ONNX model's tensors.

    Raises:
        ValueError: it is not an ONNX model.
    """
    found = set()
    left = [("ModelProto", memoryview(model))]
    while left:
        kind, message = left.pop()
        if kind == "StringStringEntryProto":
            entry = dict(read_fields(message))
            if entry.get(ENTRY_KEY) == b"location":
                name = entry.get(ENTRY_VALUE, b"")
                if isinstance(name, int):
                    raise ValueError("a file's name is a number")
                found.add(str(name, "utf-8"))
            continue
        for number, value in read_fields(message):
            if number in MESSAGES[kind] and isinstance(value, memoryview):
                left.append((MESSAGES[kind][number], value))
    return found


def _check_external_files(model: bytes, model_file: str, description: Description) -> None:
    """Raises `UserError` if a model names a file other than its weights: OpenVINO would read it unchecked."""
    name = description.params_name
    try:
        if external_files(model) <= {name} - {""} and name == os.path.basename(name):
            return
    except (ValueError, TypeError):
        pass
    raise UserError(
        f"--model_file {model_file} is damaged: it names weight files other than {name}; export the network again"
    )
