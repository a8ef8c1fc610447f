"""Reads weights from PyTorch and safetensors files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.layers import DOWNGRADE_IN_INFER, UPSCALE_IN_TRAIN
from utils.errors import FormatError
from utils.files import LARGE
from utils.formats.safetensors_file import read_safetensors_file
from utils.formats.torch_archive import check_torch_file
from utils.weights.content import Weights

# Levels of nested mappings and lists, and number of entries: scripts save a network's state dict a few keys deep.
MAX_DEPTH, MAX_ENTRIES, LONGEST_NAME = 8, 1_000_000, 2_000


class _Unread:
    """Stands in for plain data that training scripts save with the network: flags, and numbers as NumPy scalars.

    The unpickler gets it instead of the classes and functions that make such data; none of those is called.
    """

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_UNREAD: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Unread, name)
    for name in (
        *("argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath"),
        *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
        *("numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    )
]


def read_torch(path: Path, legacy: bool = False) -> Weights:
    """Reads a torch.save file; `legacy` ones, from PyTorch before 1.6, cannot be memory-mapped, however large."""
    check_torch_file(path, legacy)
    mapped = not legacy and path.stat().st_size > LARGE
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_UNREAD):
            warnings.simplefilter("ignore", UserWarning)  # about deprecated storages of tensors
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # PyTorch may raise anything for a damaged file
        text = " ".join(str(error).split())
        if "TorchScript" in text:
            raise FormatError("a TorchScript archive, which holds code: save the network's state_dict") from None
        if unsafe := re.search(r"GLOBAL ([\w.]+)", text):
            raise FormatError(
                f"refused: it holds more than tensors ({unsafe[1]}), and loading it could run any code; "
                "save its state_dict alone"
            ) from None
        reason = text.partition("WeightsUnpickler error: ")[2] or text or type(error).__name__
        raise FormatError(f"not a PyTorch file of weights, or damaged ({reason[:200]})") from None
    if not isinstance(content, Mapping | list | tuple):
        raise FormatError(f"holds a {type(content).__name__}, not a state dict")
    return _torch_weights("PyTorch file", content)


def read_safetensors(path: Path) -> Weights:
    tensors, notes = read_safetensors_file(path)
    return _torch_weights(".safetensors file", tensors, notes.get("dropout"), notes.get("model"))


def _torch_weights(kind: str, content: Any, dropout: str | None = None, network: str | None = None) -> Weights:
    """The tensors of a state dict, or all tensors in a training script's file, named by the keys that lead to them."""
    weights = Weights(kind, paddle=False, network=network)
    seen: set[int] = set()
    left = [("", content)]
    entries = 0
    while left:
        keys, values = left.pop()
        if id(values) in seen or keys.count(".") >= MAX_DEPTH:
            continue
        seen.add(id(values))
        dropout = dropout or _noted_dropout(values)
        tensors, others, deeper = 0, 0, []
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            entries += 1
            if entries > MAX_ENTRIES:
                raise FormatError(f"holds more than {MAX_ENTRIES} entries: not a file of weights")
            if not isinstance(key, str | int):
                others += 1
                continue
            if isinstance(key, str) and len(keys) + len(key) > LONGEST_NAME:
                raise FormatError(f"holds a name of {len(keys) + len(key)} characters: not a file of weights")
            name = f"{keys}.{key}" if keys else str(key)
            if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
                if name in weights.tensors:
                    raise FormatError(f"it holds two tensors {name}: save the state dict of the network alone")
                weights.tensors[name] = value
                weights.origins[name] = keys
                tensors += 1
            elif isinstance(value, Mapping | list | tuple) and value:
                deeper.append((name, value))
            else:
                others += 1
        left += reversed(deeper)
        if tensors:
            weights.others[keys] = others
    # Files without this entry come from other projects, and other PyTorch code has only one convention.
    weights.dropout = dropout if dropout in (DOWNGRADE_IN_INFER, UPSCALE_IN_TRAIN) else UPSCALE_IN_TRAIN
    return weights


def _noted_dropout(values: object) -> str | None:
    """The dropout convention stored in a state dict of this project; None for other state dicts."""
    notes = getattr(values, "_metadata", None)
    notes = notes.values() if isinstance(notes, Mapping) else ()
    return next((note["dropout"] for note in notes if isinstance(note, Mapping) and "dropout" in note), None)
