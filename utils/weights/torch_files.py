"""Weights from the files of PyTorch and of safetensors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.layers import DOWNGRADE_IN_INFER, UPSCALE_IN_TRAIN
from utils.errors import FormatError
from utils.weights.content import Weights

# Where training scripts put the network's state dict in their checkpoints; the first that is there counts.
NESTED_UNDER = (
    *("state_dict", "model", "model_state_dict", "ema", "model_ema", "state_dict_ema"),
    *("net", "network", "params", "weights", "module"),
)

# What comes before the names if another module had the network: DistributedDataParallel, torch.compile, a trainer's.
_OWNERS = re.compile(r"^((module|_orig_mod|model|net|network)\.)+")


class _Unread:
    """Stands for plain data that training scripts save beside the network: flags, and figures as NumPy's scalars.

    The unpickler gets it for the classes and functions that would make them, of which none is called.
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
    """A file of torch.save; `legacy` ones, of PyTorch before 1.6, cannot be mapped into memory."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_UNREAD):
            warnings.simplefilter("ignore", UserWarning)  # of forms of tensors that PyTorch is going to give up
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=not legacy)
    except Exception as error:  # a damaged file makes PyTorch raise nearly anything
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
    for _ in range(2):
        nested = [content[key] for key in NESTED_UNDER if isinstance(content, Mapping) and key in content]
        content = next((value for value in nested if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping):
        raise FormatError(f"holds a {type(content).__name__}, not a state dict")
    notes = getattr(content, "_metadata", None)
    notes = notes.values() if isinstance(notes, Mapping) else ()
    conventions = [note["dropout"] for note in notes if isinstance(note, Mapping) and "dropout" in note]
    return _torch_weights("PyTorch file", content, conventions[0] if conventions else None)


def read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            notes = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise FormatError(f"not a .safetensors file, or damaged ({error})") from None
    return _torch_weights(".safetensors file", tensors, notes.get("dropout"), notes.get("model"))


def _torch_weights(kind: str, content: Mapping[Any, Any], dropout: str | None, network: str | None = None) -> Weights:
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
            own = _OWNERS.sub("", str(name))
            if own in tensors:
                raise FormatError(f"it holds {own} of two networks: save the state dict of one of them")
            tensors[own] = value
    # A file that does not say is not of this project, and elsewhere in PyTorch there is one convention only.
    dropout = dropout if dropout in (DOWNGRADE_IN_INFER, UPSCALE_IN_TRAIN) else UPSCALE_IN_TRAIN
    skipped = len(content) - len(tensors)
    return Weights(kind, tensors, paddle=False, dropout=dropout, network=network, skipped=skipped)
