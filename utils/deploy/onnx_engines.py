"""ONNX models, run by ONNX Runtime or OpenVINO. Both are optional: requirements-onnx.txt has them."""

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

# What becomes one line here is not printed by a session of onnxruntime as well. (Its other logger, which says which
# library of a GPU does not load, goes on: nobody else says it.)
SILENT = 4

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# Name and options.
Provider = tuple[str, dict[str, object]]


class NoGpuError(UserError):
    """An engine that could use the CPU cannot use the GPU that it was given. The message is the reason and a remedy."""


def load_onnx(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """Loads NAME/model.onnx; arguments and errors are those of `utils.deploy.exported.load_exported`."""
    try:
        return _load(model_file, params_file, settings)
    except NoGpuError as error:
        if not settings.may_use_cpu:
            raise UserError(f"{error}; for the CPU give {settings.cpu_flag}", error.exit_code) from None
        warn(f"running on the CPU: {error}")
    return _load(model_file, params_file, replace(settings, device=torch.device("cpu")))


def _load(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """The same, on the device of the settings; raises `NoGpuError` if that is a GPU that the engine cannot use."""
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
    """Turns an engine's errors into a `UserError`, or a `MemoryError` where memory is what was missing."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each engine has errors of its own, with RuntimeError for the base at best
        text = str(error).strip() or type(error).__name__
        if re.search("allocate memory|out of memory|bad_alloc", text):
            raise MemoryError(text) from None
        raise UserError(f"--model_file {model_file} cannot be run by {engine}: {text.splitlines()[0]}") from None


def choose_engine(engine: str, device: torch.device, dtype: torch.dtype, precision: str) -> str:
    """The engine for an ONNX model: what was asked for, or the faster one that is installed.

    Measured on a CPU with AMX: in float32 ONNX Runtime is ahead; in bfloat16 and int8 OpenVINO, which uses AMX.

    Raises:
        FlagError: neither can do what is asked.
        NoGpuError: the one that was asked for runs on CPUs only.
    """
    on_cpu = device.type == "cpu"
    if engine == "auto":
        prefer_openvino = on_cpu and (dtype != torch.float32 or precision == "int8")
        engine = "openvino" if prefer_openvino and _is_installed("openvino") else "onnxruntime"
    if engine == "openvino" and not on_cpu:
        raise NoGpuError("--engine=openvino does not use NVIDIA GPUs", exit_code=2)
    if engine == "onnxruntime" and on_cpu and dtype != torch.float32:
        raise FlagError(
            f"ONNX Runtime has no {str(dtype).removeprefix('torch.')} on a CPU: install openvino, or export the "
            "network by infer.py --inference_format=torch"
        )
    return engine


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def import_engine(name: str) -> ModuleType:
    """The package of an engine; raises `UserError` if it is not installed."""
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
    # Processors without VNNI add the products of int8 in pairs, in 16 bits. Unless told not to, ONNX Runtime lets these
    # overflow; it then takes a tenth longer there, and nothing changes elsewhere.
    options.add_session_config_entry("session.x64quantprecision", "1")
    # Its threads look out for more work for a while, at full speed; between batches others have the processor to read
    # the next images.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if params is not None:
        with open(params, "rb") as file:
            weights = file.read()
        # From memory: whatever the model says of folders, only this file is read.
        options.add_external_initializers_from_files_in_memory([description.params_name], [weights], [len(weights)])
    wanted = providers[0][0]
    why = "does not load, for the reason that it gives above (docs/deployment.md, ONNX on a GPU)"
    try:
        # With a fallback it would report a provider that fails on stdout, among the results, and go on with the next.
        session = ort.InferenceSession(model, options, providers, enable_fallback=False)
    except RuntimeError as error:
        if "Please install" in str(error):  # libraries of TensorRT or, where CUDA_PATH is set, of CUDA
            raise _unusable(wanted, why) from None
        raise
    if session.get_providers()[0] != wanted:  # CUDA's libraries: left out without an exception
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
        UserError: this build of ONNX Runtime has none for it; a `NoGpuError` where TensorRT is not asked for.
    """
    if device.type == "cpu":
        return [(CPU, {})]
    ort = import_engine("onnxruntime")
    wanted = TENSORRT if use_tensorrt else CUDA
    if wanted not in ort.get_available_providers():
        remedy = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        raise _unusable(wanted, f"is not in this build of it: {remedy}")
    gpu: dict[str, object] = {"device_id": device.index or 0}
    cuda = CUDA, gpu if gpu_mem is None else {**gpu, "gpu_mem_limit": gpu_mem}
    if use_tensorrt:
        engines = _engine_folder(model, ort.__version__)
        return [(TENSORRT, {**gpu, **_tensorrt_options(description, dtype, batch_size, gpu_mem, engines)}), cuda]
    if dtype != torch.float32:
        raise FlagError(
            "half precision of an ONNX model on a GPU: predict.py --use_tensorrt=True has it, and nothing else"
        )
    return [cuda]


def _unusable(provider: str, why: str) -> UserError:
    """The error for a provider that cannot be used; for TensorRT, which is asked for by name, the CPU is no remedy."""
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
    """The folder for the TensorRT engines of a model, built by a version of ONNX Runtime.

    ONNX Runtime tells engines apart by their graph, not by the weights in them: these are in the checksum, as part of
    the model's description. They are programs of the GPU: beside the model, whoever made it could have put one there.

    Raises:
        UserError: it cannot be made.
    """
    folder = os.path.join(cache_folder(), "tensorrt_engines", f"{hashlib.sha256(model).hexdigest()[:32]}-{version}")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--use_tensorrt: {folder}, for its engines, cannot be made ({reason(error)}): name another folder for "
            "caches in the variable XDG_CACHE_HOME"
        ) from None
    return folder


# ------------------------------------------------------------------------------------------------------ OpenVINO


def _openvino(model_file: str, params: str | None, description: Description, dtype: torch.dtype) -> Run:
    openvino = import_engine("openvino")
    beside = os.path.join(os.path.dirname(model_file), description.params_name)
    if params is not None and not (os.path.exists(beside) and os.path.samefile(params, beside)):
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
MODEL_IR_VERSION, MODEL_GRAPH, MODEL_METADATA = 1, 7, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2

# The messages that lead from a model to its tensors: the fields that count, and the message in each.
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
    """The description in an ONNX model's metadata, without the onnx package.

    Args:
        model: the file.
        path: its name, for errors.

    Raises:
        UserError: it is not an ONNX model, or not one of infer.py's.
    """
    try:
        fields = list(read_fields(memoryview(model)))
        entries = [dict(read_fields(cast(memoryview, value))) for number, value in fields if number == MODEL_METADATA]
        texts = {_text(entry[ENTRY_KEY]): _text(entry[ENTRY_VALUE]) for entry in entries}
        if not any(number == MODEL_IR_VERSION for number, _ in fields):
            raise ValueError("no version")
    except (ValueError, IndexError, KeyError, TypeError):
        raise UserError(
            f"--model_file {path} is neither a program of PyTorch nor an ONNX model, or is damaged: "
            "infer.py --save_inference=True writes them"
        ) from None
    if DESCRIPTION not in texts:
        raise UserError(f"--model_file {path} has no description: it was not written by infer.py --save_inference=True")
    return Description.from_json(texts[DESCRIPTION], path)


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):  # which bytes() would take for a length
        raise ValueError("a number in place of a text")
    return str(value, "utf-8")


def graph_checksum(model: bytes) -> tuple[int, str]:
    """Size and checksum of the graph in an ONNX model, with the weights that are in it.

    Raises:
        FormatError: it is no model.
    """
    digest, size = hashlib.sha256(), 0
    for number, value in read_fields(memoryview(model)):
        if number == MODEL_GRAPH and isinstance(value, memoryview):
            digest.update(value)
            size += len(value)
    return size, digest.hexdigest()


def _checked_weights(model: bytes, description: Description, model_file: str, params_file: str | None) -> str | None:
    """The file of a model's weights, checked to be the one that belongs to it; None if they are in the model.

    Raises:
        UserError: it is not, or what is in the model is damaged.
        FlagError: a file is given, and the model has none.
    """
    if description.params_name:
        return checked_params(description, model_file, params_file)
    if params_file is not None:
        raise FlagError(
            f"--params_file {params_file}: the weights are in --model_file {model_file}: leave the flag out"
        )
    if graph_checksum(model) != (description.params_bytes, description.params_sha256):
        raise UserError(f"--model_file {model_file} is damaged: it is not what was exported; export the network again")
    return None


def external_files(model: bytes) -> set[str]:
    """The files that an ONNX model's tensors are in, as it names them.

    Raises:
        ValueError: it is not a model.
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
    """Raises `UserError` if a model names another file than its weights: OpenVINO would read it, checked by nobody."""
    name = description.params_name
    try:
        if external_files(model) <= {name} - {""} and name == os.path.basename(name):
            return
    except (ValueError, TypeError):
        pass
    raise UserError(
        f"--model_file {model_file} is damaged: it names other files of weights than {name}; export the network again"
    )
