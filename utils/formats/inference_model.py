"""Exported models of PaddlePaddle: the program and its parameters, in every form in which they are stored.

- fluid 1.x: `model` + `params`, `__model__` + `__params__`, or `__model__` with a file per parameter
- PaddlePaddle 2: `inference.pdmodel` + `inference.pdiparams`
- PaddlePaddle 3: `inference.json` + `inference.pdiparams`

A file of parameters has neither names nor a count. What is in it is checked against the program.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utils.errors import FormatError
from utils.formats.paddle import DATA_TYPES, Buffer, read_variable
from utils.formats.paddle_program import Program, Variable
from utils.formats.pir import read_pir
from utils.formats.program_desc import read_program_desc

_BFLOAT16 = 22


def read_program(buffer: Buffer) -> Program:
    """Reads a program of either dialect; its content tells which.

    Raises:
        FormatError: it is no program for inference, is damaged, has control flow, or is too large.
    """
    view = memoryview(buffer)
    if bytes(view[:64]).lstrip().startswith(b"{"):
        return read_pir(view)
    return read_program_desc(view)


def _described(dtype: str | None, shape: tuple[int, ...] | None) -> str:
    return f"{dtype} {list(shape or ())}"


def _read_parameter(variable: Variable, buffer: Buffer, offset: int) -> tuple[np.ndarray, int]:
    """The value of `variable` at `offset`, and the offset behind it."""
    try:
        array, end = read_variable(buffer, offset, {**DATA_TYPES, _BFLOAT16: np.dtype("<u2")})
    except FormatError as error:
        raise FormatError(f"parameter {variable.name!r}: {error}") from None
    shape = variable.shape or ()
    fits = len(shape) == array.ndim and all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    dtype = "bfloat16" if array.dtype == np.uint16 else array.dtype.name
    if not fits or dtype != variable.dtype:
        raise FormatError(
            f"parameter {variable.name!r} is {_described(dtype, array.shape)} in the file, but "
            f"{_described(variable.dtype, shape)} in the program: they do not belong together"
        )
    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array, end


def read_parameters(program: Program, files: Buffer | Mapping[str, Buffer]) -> dict[str, np.ndarray]:
    """Reads the parameters of a program.

    Args:
        program: tells names, order, data types and shapes.
        files: the combined file, or each parameter's own file by name.

    Returns:
        The parameters by name, as views of `files` (read-only, perhaps not aligned). bfloat16, which numpy does not
        have, is given as float32.

    Raises:
        FormatError: they are not the parameters of this program, are damaged, or one is missing.
    """
    parameters = {}
    if isinstance(files, Mapping):
        for name in program.parameters:
            if name not in files:
                raise FormatError(f"parameter {name!r} has no file")
            parameters[name], end = _read_parameter(program.variables[name], files[name], 0)
            if end != len(files[name]):
                raise FormatError(f"parameter {name!r}: its file has {len(files[name]) - end} bytes too many")
        return parameters
    offset = 0
    for name in program.parameters:
        parameters[name], offset = _read_parameter(program.variables[name], files, offset)
    if offset != len(files):
        raise FormatError(
            f"the parameters of the program take {offset} bytes, the file has {len(files)}: they do not belong together"
        )
    return parameters
