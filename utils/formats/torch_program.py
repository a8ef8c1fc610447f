"""Reads torch.export programs as data.

`torch.export.load` may run code from a file: it unpickles, evaluates expressions and calls any function under `torch`
by name. Here only the program's graph is read, which is JSON; utils/deploy/program_graph.py builds it.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any, NamedTuple

import torch

from utils.errors import cut
from utils.formats.archives import ZIP_ERRORS
from utils.formats.torch_archive import check_stored

# Numbers of PyTorch's enumerations in the programs' schema (torch/_export/serde/schema.py).
SCHEMA_MAJOR = 8
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip

Program = dict[str, Any]


class ProgramError(Exception):
    """A file is not a program, or does something that no exported network does. The message says why."""


class Slot(NamedTuple):
    """A weight that a program takes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def read_program(path: str, *extra_files: str) -> tuple[Program, dict[str, str]]:
    """Reads an archive that torch.export.save wrote.

    Args:
        path: the archive.
        extra_files: names of texts that may be stored with it.

    Returns:
        The program, and the texts found.

    Raises:
        ProgramError: torch.export.save did not write the archive, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # All members are in one folder, which PyTorch names after the file.
            members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
            texts = {
                name: _read_stored(archive, members[f"extra/{name}"]).decode()
                for name in extra_files
                if f"extra/{name}" in members
            }
            program = json.loads(_read_stored(archive, members["models/model.json"]))
            major = program["schema_version"]["major"]
    except (*ZIP_ERRORS, TypeError, RecursionError):
        raise ProgramError(
            "not a program that torch.export wrote, or a damaged one: infer.py --save_inference=True writes one"
        ) from None
    if major != SCHEMA_MAJOR:
        raise ProgramError(
            f"written by PyTorch {cut(str(program.get('torch_version')), 40)} in version {cut(str(major), 20)} of its "
            f"format, which is not "
            f"{SCHEMA_MAJOR}, the one that can be read"
        )
    return program, texts


def _read_stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    check_stored(archive, member)
    return archive.read(member)


def program_slots(program: Program) -> dict[str, Slot]:
    """The weights that a program takes, by the names of its inputs."""
    tensors = program["graph_module"]["graph"]["tensor_values"]
    slots = {}
    for spec in program["graph_module"]["signature"]["input_specs"]:
        ((kind, value),) = spec.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            tensor = tensors[value["arg"]["name"]]
            shape = tuple(size["as_int"] for size in tensor["sizes"])
            slots[value["arg"]["name"]] = Slot(value[f"{kind}_name"], DTYPES[tensor["dtype"]], shape)
    return slots
