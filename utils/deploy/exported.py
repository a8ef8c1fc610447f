"""Exported networks: loads what infer.py --save_inference=True wrote, and runs it without models/.

Models that PaddlePaddle exported are loaded too, by `utils.deploy.paddle_model`.

    NAME/model         a torch.export program without weights, which carries a `Description` of the network
    NAME/params        its weights, safetensors
    NAME/model.onnx    (--inference_format=onnx) an ONNX model, which carries the same description
    NAME/model.onnx.data    its weights, if they are not in the model
    NAME/model.pte     (--inference_format=executorch) an ExecuTorch program, for phones, with weights and description

`torch.export.load` can read the program as well; its weights are then zeros, and the caller sets them in `state_dict`.
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
    """Loads a model that infer.py --save_inference=True or PaddlePaddle wrote; the content tells the format.

    Args:
        model_file: NAME/model, NAME/model.onnx or NAME/model.pte; for PaddlePaddle the program, its folder, or an
            archive of that.
        params_file: its weights; None: the file that was written next to it.
        device: where to run it.
        dtype: the type to compute in: float32, bfloat16 or float16.
        engine: pytorch, onnxruntime, openvino or auto. For a program, auto means PyTorch, or another engine that was
            measured to be faster for `images` images. For an ONNX model it means ONNX Runtime, or OpenVINO if that is
            installed and faster (bfloat16 and int8 on a CPU). For an ExecuTorch program it means ExecuTorch.
        batch_size: usual number of images in a batch; with TensorRT, the largest number.
        use_compile: compile a program with torch.compile.
        use_tensorrt: run an ONNX model with ONNX Runtime's TensorRT provider.
        gpu_mem: bytes that ONNX Runtime may allocate on a GPU; None: no limit.
        may_use_cpu: if the engine for an ONNX model cannot use the GPU `device`, warn and use the CPU.
        cpu_flag: how the user can ask for the CPU, for errors.
        input_flags: the `INPUT_FLAGS` that the user gave; they override the description.
        output_name: name of the output to use, for a PaddlePaddle program with several outputs.
        features: use an output that is not class scores, through `ExportedNetwork.features`.
        images: number of images to answer; 0: auto runs a program with PyTorch, whatever was measured.
        measure: with auto and a program: measure the engines, unless the cache has their speeds. None: only if PyTorch
            would need `utils.deploy.engine_choice.LONG` seconds for `images` images.

    Raises:
        FlagError: the flags do not suit the network.
        UserError: files are missing, damaged, of another version or do not belong together, or the engine is not
            installed or cannot do what the flags ask.
    """
    given = input_flags or {}
    settings = Settings(
        torch.device(device), dtype, engine, batch_size, images, measure, gpu_mem, use_compile, use_tensorrt,
        may_use_cpu, cpu_flag,
    )  # fmt: skip
    if is_inference_model(model_file):
        from utils.deploy.paddle_model import load_paddle  # its operator tables are slow to import

        _check_program(settings, f"convert {model_file} with utils/convert_model.py --inference_format=onnx")
        return load_paddle(model_file, params_file, settings, given, output_name, features)
    if features or output_name is not None:
        flag = "--features_path or --score_decimals" if features else "--output_name"
        raise FlagError(
            f"{flag} is for models that PaddlePaddle exported; --model_file {model_file} is not one: leave it out"
        )
    network = _load_own(model_file, params_file, settings)
    return replace(network, description=_with_input(network.description, given, model_file))


def _with_input(description: Description, given: Mapping[str, Any], model_file: str) -> Description:
    """Overrides the description by the `INPUT_FLAGS` given; raises `FlagError` if the images would not fit."""
    if given.get("image_shape", description.image_shape) != description.image_shape:
        shapes = f"only images of {description.image_shape}, not {given['image_shape']}"
        raise FlagError(f"--model_file {model_file} takes {shapes}: leave the flag for their size out")
    return replace(description, **given)


def _check_program(settings: Settings, remedy: str) -> None:
    """Raises `FlagError` for a program if the flags ask for TensorRT, or for both torch.compile and another engine."""
    if settings.use_tensorrt:
        raise FlagError(f"--use_tensorrt runs ONNX models only: {remedy}")
    if settings.use_compile and settings.engine not in ("auto", "pytorch"):
        raise FlagError(f"--use_compile and --engine={settings.engine} exclude each other: give only one of them")


def _load_own(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """Loads what infer.py wrote; raises what `load_exported` raises."""
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
        _check_program(settings, "export the network with infer.py --inference_format=onnx")
        return _load_program(model_file, params_file, settings)
    if is_executorch(head):
        return load_executorch(model_file, params_file, settings)
    if settings.engine == "pytorch" or settings.use_compile:
        wanted = "--use_compile" if settings.use_compile else "--engine=pytorch"
        raise FlagError(
            f"{wanted} runs PyTorch programs only: export the network with infer.py --inference_format=torch"
        )
    return load_onnx(model_file, params_file, settings)


def _load_program(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """Loads a torch.export program."""
    try:
        program, texts = read_program(model_file, DESCRIPTION)
        if DESCRIPTION not in texts:
            raise ProgramError(
                "a program without a description of the network: export it with infer.py --save_inference=True"
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
    """The tensors of a .safetensors file; floating-point tensors are converted to `dtype`."""
    try:
        weights, _ = read_safetensors_file(Path(path))
    except FormatError as error:
        raise UserError(f"--params_file {path} is {one_line(error)}") from None
    floating = {name for name, tensor in weights.items() if tensor.is_floating_point()}
    return {name: tensor.to(device, dtype if name in floating else None) for name, tensor in weights.items()}
