"""Reads models that PaddlePaddle exported: the program and its parameters, in every form of storage.

- fluid 1.x: `model` + `params`, `__model__` + `__params__`, or `__model__` with a file per parameter
- PaddlePaddle 2: `inference.pdmodel` + `inference.pdiparams`, perhaps with `inference.pdiparams.info`
- PaddlePaddle 3: `inference.json` + `inference.pdiparams`
- as published: NAME_infer.tar, an archive of such a folder, which is read in memory

PaddleClas writes `inference.yml` next to them, which says how images are prepared and names the classes. A file of
parameters holds neither their names nor their number, so its content is checked against the program.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from utils.errors import FormatError, UserError, one_line
from utils.files import read_file
from utils.formats.archives import decompress, is_compressed, is_tar, tar_members
from utils.formats.paddle import DATA_TYPES, Buffer, read_variable
from utils.formats.paddle_program import MAX_NAME, Program, Variable
from utils.formats.pickles import read_plain_pickle
from utils.formats.pir import read_pir
from utils.formats.program_desc import read_program_desc
from utils.system import garbage_collection_paused

_BFLOAT16 = 22

# Names of a program, of which the first that exists is used, and of parameters next to a program with another name.
_PROGRAMS = ("inference.json", "inference.pdmodel", "__model__", "model")
_ENDINGS = (".json", ".pdmodel")
_PARAMETERS = ("__params__", "params")

# How many folders above a file in an archive its program may be.
_MAX_DEPTH = 8

# inference.yml has a line per class, .pdiparams.info four values per parameter.
_MAX_BESIDE = 4 << 20


@dataclass(frozen=True)
class InferenceModel:
    """A model that PaddlePaddle exported.

    Attributes:
        program: what it computes.
        parameters: its weights by their names in the program; see `read_parameters`.
        settings: the text of inference.yml, which says how images are prepared; None without such a file.
        structured_names: the parameters' names in the network's state dict, if .pdiparams.info has them.
    """

    program: Program
    parameters: dict[str, np.ndarray]
    settings: str | None
    structured_names: dict[str, str]


# ------------------------------------------------------------------------------------------------ program, parameters


def read_program(buffer: Buffer) -> Program:
    """Reads a program in either dialect, which it recognizes by the content.

    Raises:
        FormatError: it is not a program for inference, is damaged, has control flow, or is too large.
    """
    view = memoryview(buffer)
    head = bytes(view[:64])
    if head.lstrip().startswith(b"{"):
        return read_pir(view)
    if not head.startswith(b"\x0a"):
        raise FormatError(f"not a PaddlePaddle program (it starts with {head[:16]!r})")
    return read_program_desc(view)


# The ends of names of parameters that quantization adds after the export; their shapes differ from the program's.
QUANTIZATION = ("@scale", "@zero_point")


def _described(dtype: str | None, shape: tuple[int, ...] | None) -> str:
    return f"{dtype} {list(shape or ())}"


def _dtype_of(array: np.ndarray) -> str:
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name


def _read_parameter(variable: Variable, buffer: Buffer, offset: int) -> tuple[np.ndarray, int]:
    """Reads the value of `variable` at `offset`; returns it and the offset after it."""
    try:
        array, end = read_variable(buffer, offset, {**DATA_TYPES, _BFLOAT16: np.dtype("<u2")})
    except FormatError as error:
        raise FormatError(f"parameter {variable.name!r}: {error}") from None
    if variable.dtype is None:
        variable = replace(variable, dtype=_dtype_of(array), shape=array.shape)
    shape = variable.shape or ()
    if variable.name.endswith(QUANTIZATION) and array.size == math.prod(shape):
        array = array.reshape(shape)
    fits = len(shape) == array.ndim and all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    dtype = _dtype_of(array)
    # The program still calls quantized weights float32.
    quantized = dtype in ("int8", "int16") and variable.dtype == "float32"
    if not fits or (dtype != variable.dtype and not quantized):
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
        program: gives their names, order, data types and shapes.
        files: the combined file, or a file per parameter by name.

    Returns:
        The parameters by name, as views of `files` (read-only, perhaps not aligned). bfloat16, which numpy lacks, is
        returned as float32.

    Raises:
        FormatError: the parameters do not belong to this program, are damaged, or one is missing.
    """
    parameters = {}
    if isinstance(files, Mapping):
        for name in program.parameters:
            if (content := files.get(name)) is None:
                raise FormatError(f"parameter {name!r} has no file")
            parameters[name], end = _read_parameter(program.variables[name], content, 0)
            if end != len(content):
                raise FormatError(f"parameter {name!r}: its file has {len(content) - end} bytes too many")
        return parameters
    offset = 0
    for name in program.parameters:
        parameters[name], offset = _read_parameter(program.variables[name], files, offset)
    if offset != len(files):
        raise FormatError(
            f"the parameters of the program take {offset} bytes, the file has {len(files)}: they do not belong together"
        )
    return parameters


# ------------------------------------------------------------------------------------------------- files and archives


class _Folder(Mapping[str, Buffer]):
    """The files of a folder by name, each opened on access; files outside the folder are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> Buffer:
        relative = PurePosixPath(name)
        path = self.path / relative
        if relative.is_absolute() or ".." in relative.parts or "\0" in name or not path.is_file():
            raise KeyError(name)
        return read_file(path)

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in os.scandir(self.path) if entry.is_file())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def looks_like_program(head: bytes) -> bool:
    """Whether a file that starts with `head` may be a program: PIR as JSON, or a message that begins with a block."""
    return b'"base_code"' in head if head.lstrip().startswith(b"{") else head.startswith(b"\x0a")


def _find_program(files: Mapping[str, Buffer]) -> str | None:
    """The name of the program among the files of a folder."""
    others = sorted(name for name in files if name.endswith(_ENDINGS) and "/" not in name and name not in _PROGRAMS)
    found = [name for name in (*_PROGRAMS, *others) if name in files and looks_like_program(bytes(files[name][:512]))]
    if found and found[0] not in _PROGRAMS and len(found) > 1:
        raise FormatError(f"holds several programs ({', '.join(found[:5])}): give the one to run")
    return found[0] if found else None


def _find_in_archive(members: Mapping[str, Buffer]) -> tuple[Mapping[str, Buffer], str]:
    """The files of the program's folder in an archive, and the program's name."""
    folders: dict[str, dict[str, Buffer]] = {}
    for name, content in members.items():
        if len(name) > MAX_NAME:
            raise FormatError(f"refused: a name in the archive has more than {MAX_NAME} characters")
        # A parameter's name may contain a /, so that its file lies in a subfolder.
        for folder in [str(folder) for folder in PurePosixPath(name).parents][:_MAX_DEPTH]:
            folders.setdefault(folder, {})[name.removeprefix(f"{folder}/")] = content
    found = [(folder, program) for folder, files in folders.items() if (program := _find_program(files)) is not None]
    if len(found) != 1:
        names = ", ".join(sorted(folder for folder, _ in found)[:5])
        several = f"holds several programs, in {names}: unpack it and give one of the folders"
        raise FormatError(several if found else "is an archive without a PaddlePaddle program")
    ((folder, program),) = found
    return folders[folder], program


def _open(path: Path) -> tuple[Mapping[str, Buffer], str]:
    """The files next to a program, and the program's name; `path` is the program, its folder, or an archive of that."""
    if path.is_dir():
        files = _Folder(path)
        if (name := _find_program(files)) is None:
            raise FormatError(f"holds no PaddlePaddle program ({', '.join(_PROGRAMS)})")
        return files, name
    if path.exists() and not path.is_file():
        raise FormatError("is neither a file nor a folder")
    content = read_file(path)
    if is_compressed(bytes(content[:8])):
        content = decompress(path)
    if is_tar(bytes(content[:512])):
        return _find_in_archive(tar_members(content))
    return _Folder(path.parent), path.name


def _with_ending(path: Path) -> Path:
    """`path`, with the ending that users may leave out."""
    if path.exists():
        return path
    with_ending = (path.with_name(path.name + ending) for ending in _ENDINGS)
    return next((candidate for candidate in with_ending if candidate.is_file()), path)


# ------------------------------------------------------------------------------------------------------ whole models


def _stem(name: str) -> str:
    """A program's name without its ending, which its other files share."""
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Adds to a `FormatError` the name of its file."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None


def _parameters_beside(files: Mapping[str, Buffer], name: str, program: Program, remedy: str) -> dict[str, np.ndarray]:
    candidates = (f"{_stem(name)}.pdiparams", *_PARAMETERS)
    for candidate in candidates:
        if (content := files.get(candidate)) is not None:
            with _named(candidate):
                return read_parameters(program, content)
    if program.parameters and program.parameters[0] not in files:
        raise FormatError(
            f"the parameters of {name} are not next to it, neither as {', '.join(candidates)} nor as one file each: "
            f"{remedy}"
        )
    return read_parameters(program, files)


def _beside(files: Mapping[str, Buffer], name: str) -> bytes | None:
    """The content of a small file, if it exists."""
    content = files.get(name)
    if content is not None and len(content) > _MAX_BESIDE:
        raise FormatError(f"{name} has more than {_MAX_BESIDE >> 20} MB")
    return None if content is None else bytes(content)


def _settings(files: Mapping[str, Buffer], name: str) -> str | None:
    for candidate in (f"{_stem(name)}.yml", "inference.yml"):
        if (content := _beside(files, candidate)) is not None:
            try:
                return content.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise FormatError(f"{candidate} is not UTF-8 text") from None
    return None


def _structured_names(files: Mapping[str, Buffer], name: str) -> dict[str, str]:
    """The content of .pdiparams.info: variable -> {"structured_name": name in the state dict, ...}."""
    file = f"{_stem(name)}.pdiparams.info"
    if (content := _beside(files, file)) is None:
        return {}
    with _named(file):
        entries = read_plain_pickle(content)
    names = {}
    for variable, entry in entries.items() if isinstance(entries, dict) else ():
        structured = entry.get("structured_name") if isinstance(entry, dict) else None
        if isinstance(structured, str):
            names[variable] = structured
    return names


def is_inference_model(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a PaddlePaddle export (a program, its folder or an archive), by its first bytes."""
    path = _with_ending(Path(path))
    try:
        if path.is_dir():
            return _find_program(_Folder(path)) is not None
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(512)
    except FormatError:  # several programs
        return True
    except OSError:
        return False
    return looks_like_program(head) or is_compressed(head) or is_tar(head)


@garbage_collection_paused()
def read_inference_model(
    model_file: str | os.PathLike[str],
    params_file: str | os.PathLike[str] | None = None,
    *,
    remedy: str = "put them next to it",
) -> InferenceModel:
    """Reads a model that PaddlePaddle exported.

    Args:
        model_file: the program, its folder, or an archive (.tar, .tar.gz, ...) of such a folder. As in PaddlePaddle,
            the ending of inference.json and inference.pdmodel may be left out.
        params_file: the combined parameters, or the folder with a file for each; None: next to the program.
        remedy: what to do if the parameters are not next to the program, for errors.

    Raises:
        UserError: the files are missing or damaged, do not belong together, or are not an exported model.
    """
    place = _with_ending(Path(model_file))
    try:
        files, name = _open(place)
        with contextlib.nullcontext() if place.name == name else _named(name):
            program = read_program(files[name])
        settings, structured_names = _settings(files, name), _structured_names(files, name)
        if params_file is None:
            parameters = _parameters_beside(files, name, program, remedy)
        else:
            place = Path(params_file)
            parameters = read_parameters(program, _Folder(place) if place.is_dir() else read_file(place))
    except FormatError as error:
        raise UserError(f"{place}: {one_line(error)}") from None
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror or error}") from None
    return InferenceModel(program, parameters, settings, structured_names)
