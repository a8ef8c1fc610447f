"""Exported networks: what infer.py --save_inference=True writes, read back and run without models/.

What PaddlePaddle exported is loaded as well, by `utils.deploy.paddle_model`.

    NAME/model         a torch.export program without weights, which carries a `Description` of the network
    NAME/params        its weights, safetensors
    NAME/model.onnx    (--inference_format=onnx) an ONNX model, which carries the same description
    NAME/model.onnx.data    its weights, if they are not in the model
    NAME/model.pte     (--inference_format=executorch) a program of ExecuTorch, for phones, with weights and description

`torch.export.load` reads such a program too; its weights are then zeros, to be replaced in `state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from utils.deploy.engine_choice import Settings, Source, load_by_engine
from utils.deploy.executorch_engine import HEAD_BYTES, is_executorch, load_executorch
from utils.deploy.fast import make_fast
from utils.deploy.network import DESCRIPTION, Description, ExportedNetwork, checked_params, sha256
from utils.deploy.onnx_engines import load_onnx
from utils.deploy.program_graph import build_graph
from utils.errors import FlagError, FormatError, UserError, one_line, reason
from utils.formats.inference_model import is_inference_model
from utils.formats.safetensors_file import read_safetensors_file
from utils.formats.torch_program import ProgramError, read_program


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
    input_flags: Mapping[str, Any] | None = None,
    output_name: str | None = None,
    features: bool = False,
    images: float = 0,
    measure: bool | None = None,
) -> ExportedNetwork:
    """Loads what infer.py --save_inference=True wrote, of any format, or PaddlePaddle; its content tells which.

    Args:
        model_file: NAME/model, NAME/model.onnx or NAME/model.pte; of PaddlePaddle the program, its folder, or an
            archive of that.
        params_file: its weights; None: the file that was written beside it.
        device: where to run it.
        dtype: to compute in: float32, bfloat16 or float16.
        engine: pytorch, onnxruntime, openvino or auto. For a program auto is PyTorch, or another one that takes less
            time for `images`, as far as that was measured. For an ONNX model it is ONNX Runtime, or OpenVINO where that
            is faster (in bfloat16 and int8 on a CPU) and installed. For a program of ExecuTorch it is that.
        batch_size: images that a batch will usually have; with TensorRT, images that it will have at most.
        use_compile: compile a program with torch.compile.
        use_tensorrt: run an ONNX model with ONNX Runtime's TensorRT provider.
        gpu_mem: bytes that ONNX Runtime may allocate on a GPU; None: all there are.
        may_use_cpu: where the engine for an ONNX model cannot use the GPU `device`, use the CPU, with a warning.
        cpu_flag: what the user would have to give for the CPU, for errors.
        input_flags: the `INPUT_FLAGS` that the user gave: they count for more than the description.
        output_name: of a program of PaddlePaddle with several outputs, the one to answer with.
        features: answer with an output that is no classes, by `ExportedNetwork.features`.
        images: how many are to be answered; 0: PyTorch runs a program, whatever is known.
        measure: of auto and a program: measure how fast the engines are, if that is not known yet. None: only if
            `images` would keep PyTorch busy for `utils.deploy.engine_choice.LONG` seconds.

    Raises:
        FlagError: flags that do not go with the network.
        UserError: files that are missing, damaged, of another version or do not belong together, or an engine that
            is not installed or cannot do what is asked.
    """
    given = input_flags or {}
    settings = Settings(
        torch.device(device), dtype, engine, batch_size, images, measure, gpu_mem, use_compile, use_tensorrt,
        may_use_cpu, cpu_flag,
    )  # fmt: skip
    if is_inference_model(model_file):
        from utils.deploy.paddle_model import load_paddle  # the tables of its operators take a while to import

        _check_program(settings, f"utils/convert_model.py --inference_format=onnx makes one of {model_file}")
        return load_paddle(model_file, params_file, settings, given, output_name, features)
    if features or output_name is not None:
        flag = "--features_path or --score_decimals" if features else "--output_name"
        raise FlagError(f"{flag} is for models that PaddlePaddle exported, and --model_file {model_file} is none")
    network = _load_own(model_file, params_file, settings)
    return replace(network, description=_with_input(network.description, given, model_file))


def _with_input(description: Description, given: Mapping[str, Any], model_file: str) -> Description:
    """The description with the `INPUT_FLAGS` that were given; raises `FlagError` if the images would not fit."""
    if given.get("image_shape", description.image_shape) != description.image_shape:
        raise FlagError(f"--model_file {model_file} takes images of {description.image_shape} and no others")
    return replace(description, **given)


def _check_program(settings: Settings, remedy: str) -> None:
    """Raises `FlagError` if a program is to be run in a way that is for ONNX models, or in two ways."""
    if settings.use_tensorrt:
        raise FlagError(f"--use_tensorrt runs ONNX models: {remedy}")
    if settings.use_compile and settings.engine not in ("auto", "pytorch"):
        raise FlagError(f"--use_compile and --engine={settings.engine} exclude each other: give one of them")


def _load_own(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """What infer.py wrote; errors are those of `load_exported`."""
    if (folder := Path(model_file)).is_dir():
        files = [str(folder / name) for name in ("model", "model.onnx") if (folder / name).is_file()]
        raise UserError(
            f"--model_file {model_file} is a folder: give "
            + (f"its file {files[0]}" if files else "the model of an export, such as NAME/model or NAME/model.onnx")
        )
    try:
        with open(model_file, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"--model_file {model_file}: {reason(error)}") from None
    if head.startswith(b"PK\3\4"):
        _check_program(settings, "export the network by infer.py --inference_format=onnx")
        return _load_program(model_file, params_file, settings)
    if is_executorch(head):
        return load_executorch(model_file, params_file, settings)
    if settings.engine == "pytorch" or settings.use_compile:
        wanted = "--use_compile" if settings.use_compile else "--engine=pytorch"
        raise FlagError(f"{wanted} runs programs of PyTorch: export the network by infer.py --inference_format=torch")
    return load_onnx(model_file, params_file, settings)


def _load_program(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """A program of torch.export."""
    try:
        program, texts = read_program(model_file, DESCRIPTION)
        if DESCRIPTION not in texts:
            raise ProgramError(
                "a program without a description of the network: infer.py --save_inference=True writes it"
            )
        description = Description.from_json(texts[DESCRIPTION], model_file)
        params = checked_params(description, model_file, params_file)
        device, dtype = settings.device, settings.dtype

        def module(device: torch.device, dtype: torch.dtype) -> fx.GraphModule:
            return build_graph(program, _read_weights(params, device, dtype), device)

        def own() -> ExportedNetwork:
            built = module(device, dtype)
            run = make_fast(built, device, dtype, settings.batch_size, settings.use_compile, description.network)
            return ExportedNetwork(description, "pytorch", device, dtype, torch.channels_last, run)

        source = Source(
            model_file,
            description,
            lambda: f"{sha256(model_file)} {description.params_sha256}",
            lambda: module(torch.device("cpu"), torch.float32),
            own,
        )
        return replace(load_by_engine(source, settings), description=description)
    except ProgramError as error:
        raise UserError(f"--model_file {model_file} is {one_line(error)}") from None


def _read_weights(path: str, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, in `dtype` if they are floating."""
    try:
        weights, _ = read_safetensors_file(Path(path))
    except FormatError as error:
        raise UserError(f"--params_file {path} is {one_line(error)}") from None
    floating = {name for name, tensor in weights.items() if tensor.is_floating_point()}
    return {name: tensor.to(device, dtype if name in floating else None) for name, tensor in weights.items()}
