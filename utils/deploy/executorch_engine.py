"""Runs ExecuTorch programs, .pte, in its Python runtime. It is optional: requirements-mobile.txt lists it.

The program's method get_description returns the network's description, which any ExecuTorch runtime can call. Here the
description, with its checksum, is read from the file itself before the runtime gets the program.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from utils.console import warn
from utils.deploy.comparing import quiet
from utils.deploy.network import Description, ExportedNetwork, Run, Settings
from utils.errors import FlagError, UserError, cut, of_the_machine, one_line

# Four bytes precede the identifier of a FlatBuffer, which includes the version of the format.
HEAD_BYTES = 8
_IDENTIFIER = b"ET"
# How the text of a description begins.
_OPENING = b'{\n "network": '
# Placeholder for the checksum while a program's checksum is computed.
BLANK = "0" * 64


def is_executorch(head: bytes) -> bool:
    """Whether a file that begins with these `HEAD_BYTES` bytes is an ExecuTorch program."""
    return head[4:6] == _IDENTIFIER and head[6:HEAD_BYTES].isdigit()


def load_executorch(model_file: str, params_file: str | None, settings: Settings) -> ExportedNetwork:
    """Loads NAME/model.pte; takes and raises what `utils.deploy.exported.load_exported` does."""
    _check_settings(model_file, params_file, settings)
    with open(model_file, "rb") as file:
        program = file.read()
    description = read_description(program, model_file)
    run = _load_program(program, model_file)
    cpu = torch.device("cpu")
    return ExportedNetwork(description, "executorch", cpu, torch.float32, torch.contiguous_format, run)


def _check_settings(model_file: str, params_file: str | None, settings: Settings) -> None:
    """Raises `UserError` if ExecuTorch cannot run the program as the settings ask."""
    if params_file is not None:
        raise FlagError(
            f"--params_file {params_file}: the weights are in --model_file {model_file}: leave the flag out"
        )
    if settings.engine != "auto":
        raise FlagError(f"--engine={settings.engine}: ExecuTorch alone runs {model_file}: leave the flag out")
    if settings.use_compile or settings.use_tensorrt:
        flag = "--use_compile" if settings.use_compile else "--use_tensorrt"
        raise FlagError(f"{flag}: ExecuTorch alone runs {model_file}: leave the flag out")
    if settings.dtype != torch.float32:
        flag = "--use_fp16" if settings.dtype == torch.float16 else "--use_bf16"
        raise FlagError(f"{flag}: {model_file} computes as it was exported: leave the flag out")
    if settings.device.type != "cpu":
        why = "programs of ExecuTorch are written for CPUs here"
        if not settings.may_use_cpu:
            raise UserError(f"{why}; for the CPU give {settings.cpu_flag}", exit_code=2)
        warn(f"running on the CPU: {why}")


def _load_program(program: bytes, model_file: str) -> Run:
    """A program's method forward, which takes one image at a time and uses as many threads as PyTorch.

    Raises:
        UserError: the runtime is not installed, or cannot run the program.
    """
    try:
        with quiet():
            library = importlib.import_module("executorch.extension.pybindings.portable_lib")
            runtime = importlib.import_module("executorch.runtime")
    except ImportError:
        raise UserError("executorch is not installed: pip install -r requirements-mobile.txt") from None
    try:
        with _silent_stderr():
            if library._threadpool_get_thread_count() != torch.get_num_threads():
                library._unsafe_reset_threadpool(torch.get_num_threads())
        loaded = runtime.Runtime.get().load_program(program, verification=library.Verification.InternalConsistency)
        method = loaded.load_method("forward")
    except Exception as error:  # the runtime raises RuntimeError for everything
        if of_the_machine(error) is not None:
            raise
        raise UserError(
            f"--model_file {model_file} cannot be run by executorch: {cut(one_line(error), 300)}; export the network "
            "again"
        ) from None

    def run(images: Tensor, _kept: object = (loaded, program)) -> Tensor:  # the method refers to them
        return torch.cat([method.execute([image])[0] for image in images.split(1)])

    return run


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silences C++ libraries: when the runtime starts its threads, it prints messages about /sys."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# --------------------------------------------------------------------------------------------------- description


def read_description(program: bytes, path: str) -> Description:
    """Reads a program's description, and checks that the program is unchanged.

    Args:
        program: the file's bytes.
        path: its name, for errors.

    Raises:
        UserError: it is damaged, or infer.py did not write it.
    """
    start = program.find(_OPENING)
    if start < 4:
        raise UserError(f"--model_file {path} has no description: it was not written by infer.py --save_inference=True")
    end = start + int.from_bytes(program[start - 4 : start], "little")  # a text's length comes first
    description = Description.from_json(program[start:end].decode("utf-8", "replace"), path)
    checksum = description.params_sha256
    at = program.find(checksum.encode(), start, end)
    if len(checksum) != len(BLANK) or _digest(program, at) != checksum:
        raise UserError(f"--model_file {path} is damaged: it is not what was exported; export the network again")
    return description


def seal(program: bytes, description: Description) -> bytes:
    """Stores a program's checksum in it.

    Args:
        program: the program, which contains `description`.
        description: its text, with `BLANK` in the place of the checksum.
    """
    start = program.index(description.to_json().encode())
    at = program.index(BLANK.encode(), start)
    return b"".join((program[:at], _digest(program, at).encode(), program[at + len(BLANK) :]))


def _digest(program: bytes, at: int) -> str:
    """The checksum of a program with `BLANK` in the place of its checksum."""
    view = memoryview(program)
    digest = hashlib.sha256(view[:at])
    digest.update(BLANK.encode())
    digest.update(view[at + len(BLANK) :])
    return digest.hexdigest()
