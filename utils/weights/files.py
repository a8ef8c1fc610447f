"""Reads weights from any kind of file, which it recognizes by the content.

Nothing in a file is executed or extracted to disk, and lengths are checked before use.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from models.layers import UPSCALE_IN_TRAIN
from utils.errors import FormatError, UserError, one_line
from utils.files import LARGE, read_file, similar_path
from utils.formats.archives import MAX_FILES, decompress, is_compressed, is_tar, tar_members, zip_members, zip_names
from utils.formats.caffe import looks_like_caffe, read_caffemodel
from utils.formats.foreign import foreign_kind
from utils.formats.inference_model import read_program
from utils.formats.paddle import Buffer, program_variables, read_variables
from utils.formats.pickles import read_pickle
from utils.weights.content import Weights, tensors_of
from utils.weights.notes import SIDE_NOTES
from utils.weights.programs import has_program, read_exported
from utils.weights.torch_files import read_safetensors, read_torch


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Reads a file or folder of weights of any supported kind.

    Args:
        path: a checkpoint of train.py, a fluid folder of variables, an archive (.tar, .tar.gz, .zip, ...) of one, a
            combined fluid file (or the folder with it and its program), a .pdparams file, a PyTorch file, a
            .safetensors file, a model that PaddlePaddle exported (program, folder or archive), or a .caffemodel (plain
            or as .xz, .gz, .bz2). As in fluid.load, the ending .pdparams may be left out.

    Raises:
        UserError: the file does not exist, is damaged, or has an unknown kind.
    """
    given, path = path, Path(path)
    try:
        if not path.exists() and path.with_name(f"{path.name}.pdparams").exists():
            path = path.with_name(f"{path.name}.pdparams")
        if path.is_dir():
            return _read_folder(path)
        if not path.is_file():
            # `given`, as `Path` changes URLs. Other programs download the weights that a word such as True names.
            hint = ": nothing is downloaded here" if "://" in str(given) or path.name == str(given) else ""
            hint += similar_path(str(given))
            raise UserError(f"{given} does not exist; give a file or folder of weights{hint}")
        return _read_file(path)
    except FormatError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_folder(path: Path) -> Weights:
    if (path / "weights.safetensors").is_file():
        return _read_file(path / "weights.safetensors")
    for name in ("best_model", "latest"):
        if (path / name / "weights.safetensors").is_file():
            raise UserError(f"{path} holds the checkpoints of a run: give one of them, {path / name}")
    files: dict[str, Buffer] = {}
    left = LARGE  # bytes of all files that are read rather than mapped
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if file.is_file() and name != SIDE_NOTES:
                content = files[file.relative_to(path).as_posix()] = read_file(file, max(left, 1 << 20))
                left -= len(content)
            if len(files) > MAX_FILES:
                raise FormatError(f"holds more than {MAX_FILES} files: not a folder of weights")
    if has_program(name for name in files if "/" not in name):
        return read_exported(path)
    return _read_variables(files, "fluid folder")


def _read_file(path: Path) -> Weights:
    buffer = read_file(path)
    head = bytes(buffer[:512])
    if not head:
        raise FormatError("the file is empty")
    other = {".pdiparams": ".json", ".json": ".pdiparams"}.get(path.suffix)
    if has_program([path.name]) or (other and path.with_suffix(other).is_file()):
        return read_exported(path)
    if path.suffix == ".pdiparams":
        # The program next to it may be a training program; its names, which are read below, are good as well.
        with contextlib.suppress(UserError):
            return read_exported(path)
    if head.startswith(b"PK\3\4"):
        return _read_zip(path)
    if is_compressed(head):
        content = decompress(path)
        if not is_tar(content[:512]) and looks_like_caffe(content[:512]):
            return _read_caffe(content)
        return _read_archive(path, tar_members(content), "compressed fluid .tar")
    # The length of a safetensors header may look like the start of a pickle.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < len(buffer):
        return read_safetensors(path)
    if head.startswith(b"\x80") and len(head) > 2:
        # A file of PyTorch before 1.6 begins with a pickled magic number.
        if head[2:13] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P":
            return read_torch(path, legacy=True)
        arrays, skipped = read_pickle(buffer)
        return Weights("PaddlePaddle .pdparams", tensors_of(arrays), skipped=skipped)
    if is_tar(head):
        return _read_archive(path, tar_members(buffer), "fluid .tar")
    if head[8:9] == b"{":
        return read_safetensors(path)
    if head.startswith(b"\0\0\0\0"):
        return _name_combined(read_variables(buffer), _program_beside(path), path.name)
    if looks_like_caffe(head):
        return _read_caffe(buffer)
    if kind := "an ONNX model, which predict.py runs" if path.suffix == ".onnx" else foreign_kind(head):
        raise FormatError(f"not a weight file: it is {kind}")
    raise FormatError(
        "not a weight file: neither fluid variables nor an archive of them, nor a .pdparams, PyTorch, .safetensors or "
        f".caffemodel file (it starts with {head[:16]!r})"
    )


def _read_archive(path: Path, members: Mapping[str, Buffer], kind: str) -> Weights:
    """Reads an archive of an exported model, or of fluid variables."""
    return read_exported(path) if has_program(members) else _read_variables(members, kind)


def _read_zip(path: Path) -> Weights:
    """Reads a PyTorch file, which is a zip archive with a pickle in it, or an archive of fluid variables."""
    names = zip_names(path)
    if any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in names):
        return read_torch(path)
    if any(re.fullmatch(r"[^/]+/archive_format", name) for name in names):  # of torch.export
        raise FormatError("not a weight file: it is an exported network, which predict.py runs")
    return _read_variables(zip_members(path), "fluid .zip")


# ----------------------------------------------------------------------------------------------------- fluid, Caffe


def _read_variables(files: Mapping[str, Buffer], kind: str) -> Weights:
    """The variables of a folder or archive, named by their paths in the innermost folder that contains them all."""
    variables: dict[str, np.ndarray] = {}
    combined: dict[str, list[np.ndarray]] = {}
    damaged: dict[str, str] = {}
    for name, buffer in files.items():
        try:
            arrays = read_variables(buffer)
        except FormatError as error:
            damaged[name] = str(error)
            continue
        if len(arrays) == 1:
            variables[name] = arrays[0]
        elif arrays:
            combined[name] = arrays
        else:
            damaged[name] = "the file is empty"
    if not variables and len(combined) == 1:
        ((name, arrays),) = combined.items()
        programs = (buffer for other, buffer in files.items() if other in damaged)
        return _name_combined(arrays, programs, name)
    if not variables:
        known = [name for name in files if name.endswith((".pdparams", ".pth", ".pt", ".safetensors", ".params"))]
        hint = f"; give the file itself, such as {known[0]}" if known else ""
        raise FormatError(f"holds no fluid variables ({len(files)} files){hint}")
    folder = os.path.commonpath([os.path.dirname(name) for name in variables])
    prefix = f"{folder}/" if folder else ""
    tensors = tensors_of({name.removeprefix(prefix): array for name, array in variables.items()})
    beside = {name.removeprefix(prefix): why for name, why in damaged.items()}
    program = next((files[name] for name in damaged if os.path.basename(name) in ("__model__", "model")), None)
    return Weights(kind, tensors, damaged=beside, program=None if program is None else partial(read_program, program))


def _program_beside(path: Path) -> Iterator[Buffer]:
    """The files that may be the program of a combined file."""
    for name in ("model", "__model__", f"{path.stem}.pdmodel"):
        program = path.with_name(name)
        if program != path and program.is_file():
            yield read_file(program)


def _name_combined(arrays: Sequence[np.ndarray], programs: Iterable[Buffer], file: str) -> Weights:
    """The tensors of a combined file, with names from the first of `programs` that is a program."""
    for program in programs:
        try:
            names = program_variables(program)
        except FormatError:
            continue
        if not names:
            continue
        if len(names) != len(arrays):
            raise FormatError(f"{file} holds {len(arrays)} variables, but the program next to it names {len(names)}")
        tensors = tensors_of(dict(zip(names, arrays, strict=True)))
        return Weights("combined fluid file", tensors, program=partial(read_program, program))
    unnamed = list(tensors_of({str(number): array for number, array in enumerate(arrays)}).values())
    return Weights("combined fluid file without its program", unnamed=unnamed)


def _read_caffe(buffer: Buffer) -> Weights:
    try:
        arrays = read_caffemodel(buffer)
    except FormatError as error:
        raise FormatError(f"not a .caffemodel, or damaged: {error}") from None
    # Caffe's dropout scales in training.
    return Weights("Caffe .caffemodel", tensors_of(arrays), paddle=False, dropout=UPSCALE_IN_TRAIN)
