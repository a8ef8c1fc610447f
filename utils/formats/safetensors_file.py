"""Reads safetensors files: tensors by name, and metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from utils.errors import FormatError
from utils.files import read_file


def read_safetensors_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its metadata.

    If `utils.files.read_file` memory-maps the file, the tensors are views of it.

    Raises:
        OSError: it cannot be read.
        FormatError: it is not a safetensors file, or is damaged.
    """
    try:
        content = read_file(path)
        if isinstance(content, bytes):
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            return tensors, header.get("__metadata__") or {}
        content.close()
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise FormatError(f"not a .safetensors file, or damaged ({error})") from None
