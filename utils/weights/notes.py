"""What weights say about the training of their network: its input, and the names of its classes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from utils.console import warn
from utils.flags.inputs import INPUT_FLAGS, UNNOTED, ScaleError, checked_input

# The note that has the names of the classes.
CLASS_NAMES = "class_names"


def read_input_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The flags on the network's input that weights were trained with, which train.py notes in its files.

    Args:
        path: a file or folder of weights, of any kind.

    Returns:
        The values of `INPUT_FLAGS` (without channel_order, if it is not noted); nothing if they are not noted.
    """
    notes = _read(path)
    if not notes.keys() >= set(INPUT_FLAGS) - set(UNNOTED):
        return {}
    try:
        noted = checked_input({name: _value(notes[name]) for name in INPUT_FLAGS if name in notes})
    except ScaleError as error:
        warn(f"{path}: {error}, and not taken: evaluate with infer.py --image_mean and --image_std as in training")
        return {}
    except (ValueError, TypeError):
        warn(f"{path}: its notes on the network's input make no sense: give --image_shape and the like as in training")
        return {}
    if "channel_order" not in notes:
        del noted["channel_order"]  # the network's own: before the flag, it was the network that turned channels round
    return noted


def read_class_notes(path: str | os.PathLike[str]) -> list[str | None]:
    """The names of the classes that weights were trained with, which train.py notes in its files.

    Args:
        path: a file or folder of weights, of any kind.

    Returns:
        The names by class number, None where one is not known, perhaps of the first classes only; nothing if they are
        not noted.
    """
    names = _value(_read(path).get(CLASS_NAMES, "[]"))
    if isinstance(names, list) and all(isinstance(n, str | None) for n in names):
        return names
    warn(f"{path}: its notes on the names of the classes make no sense and are not used")
    return []


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    """All notes in a file of weights, as text; none in one of another kind."""
    file = Path(path, "weights.safetensors") if os.path.isdir(path) else Path(path)
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="pt") as content:
            return content.metadata() or {}
    except (SafetensorError, ValueError, OSError):
        return {}  # of another kind, or damaged: whoever reads its tensors says so


def _value(note: str) -> Any:
    """A note as it was before it was written: JSON, or text, which stands there as it is."""
    try:
        return json.loads(note)
    except ValueError:
        return note
