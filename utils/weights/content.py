"""The content of a weight file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from utils.formats.paddle_program import Program


@dataclass
class Weights:
    """The content of a weight file.

    Attributes:
        kind: the kind of the file, in words.
        tensors: by name; views of the file wherever possible.
        paddle: whether PaddlePaddle wrote it, so that weights of linear layers are [in, out].
        dropout: the dropout convention that the weights need, if the file says so.
        network: the network that they belong to, if the file says so.
        skipped: number of entries that are not tensors.
        origins: in a file with nested mappings, names of `tensors` -> the keys that lead to their mapping.
        others: such keys -> entries of the mapping that are not tensors.
        damaged: files of a folder or archive that cannot be read as a variable -> the reason.
        unnamed: the tensors of a combined file without its program, in the order of their sorted names.
        program: reads the program of an exported model, whose names may not tell which tensor is which; raises
            `FormatError` if it is not a program for inference.
        program_names: names of `tensors` -> names in the program, if they differ.
    """

    kind: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    paddle: bool = True
    dropout: str | None = None
    network: str | None = None
    skipped: int = 0
    origins: dict[str, str] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    unnamed: list[Tensor] = field(default_factory=list)
    program: Callable[[], Program] | None = None
    program_names: dict[str, str] = field(default_factory=dict)


def tensors_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The arrays as tensors that share their memory; uint16 are the bits of bfloat16, which NumPy does not have."""
    with warnings.catch_warnings():
        # PyTorch warns about read-only memory, but these tensors are only read.
        warnings.simplefilter("ignore", UserWarning)
        return {name: _tensor_of(array) for name, array in arrays.items()}


def _tensor_of(array: np.ndarray) -> Tensor:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
