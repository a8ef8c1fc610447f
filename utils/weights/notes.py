"""What weights say about the input that their network was trained with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from utils.console import warn
from utils.flags.inputs import INPUT_FLAGS, UNNOTED, ScaleError, checked_input


def read_input_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The flags on the network's input that weights were trained with, which train.py notes in its files.

    Args:
        path: a file or folder of weights, of any kind.

    Returns:
        The values of `INPUT_FLAGS` (without channel_order, if it is not noted); nothing if they are not noted.
    """
    file = Path(path, "weights.safetensors") if os.path.isdir(path) else Path(path)
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="pt") as content:
            notes = content.metadata() or {}
    except (SafetensorError, ValueError, OSError):
        return {}  # of another kind, or damaged: whoever reads its tensors says so
    if not notes.keys() >= set(INPUT_FLAGS) - set(UNNOTED):
        return {}
    try:
        noted = checked_input({name: _value(notes[name]) for name in INPUT_FLAGS if name in notes})
    except ScaleError as error:
        warn(f"{file}: {error}, and not taken: evaluate with infer.py --image_mean and --image_std as in training")
        return {}
    except (ValueError, TypeError):
        warn(f"{file}: its notes on the network's input make no sense: give --image_shape and the like as in training")
        return {}
    if "channel_order" not in notes:
        del noted["channel_order"]  # the network's own: before the flag, it was the network that turned channels round
    return noted


def _value(note: str) -> Any:
    """A note as it was before it was written: JSON, or text, which stands there as it is."""
    try:
        return json.loads(note)
    except ValueError:
        return note
