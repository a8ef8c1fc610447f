"""What a file of weights holds."""

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
    """What a file holds.

    Attributes:
        kind: what the file is, in words.
        tensors: by name; views of the file where that is possible.
        paddle: written by PaddlePaddle, where the weight of a linear layer is [in, out].
        dropout: the dropout convention that the weights are right under, if the file says it.
        network: the network they are of, if the file says it.
        skipped: entries that are no tensors.
        origins: of a file with mappings in mappings, names of `tensors` -> the keys that lead to the mapping.
        others: such keys -> entries of the mapping that are no tensors.
        damaged: files of a folder or archive that cannot be read as a variable -> why.
        unnamed: the tensors of a combined file without its program, in the order of their sorted names.
        program: reads the program of an exported model, where names may not tell which tensor is which; it raises
            `FormatError` if it is none for inference.
        program_names: names of `tensors` -> those of the program, where they differ.
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
    """The arrays as tensors that share their memory."""
    with warnings.catch_warnings():
        # PyTorch warns that memory is read-only. These tensors are only read.
        warnings.simplefilter("ignore", UserWarning)
        return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
                for name, array in arrays.items()}  # fmt: skip
