"""What weights say about the training of their network: its name and classes, its input, the names of the classes.

.safetensors files have such notes in them. Beside other files that are written with notes there is FILE.notes.json, and
in a folder of variables notes.json.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

import models
from utils.console import warn
from utils.files import write_text
from utils.flags.inputs import INPUT_FLAGS, UNNOTED, ScaleError, checked_input

# The note that has the names of the classes.
CLASS_NAMES = "class_names"

# Of files that cannot hold notes; such a file is no larger than this.
SIDE_NOTES, LARGEST_NOTES = "notes.json", 1 << 24


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
        warn(
            f"{path}: its notes on the network's input make no sense: evaluate with infer.py --image_shape and the "
            "like as in training"
        )
        return {}
    if "channel_order" not in notes:
        del noted["channel_order"]  # the network's own: before the flag, it was the network that turned channels round
    return noted


def read_network_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The network that weights are of, as far as their file says it: "model", its name, and "class_dim"; and
    "multi_label", True, if its images had several labels."""
    notes = _read(path)
    found = {name: _value(notes[name]) for name in ("model", "class_dim") if name in notes}
    if type(found.get("class_dim")) is not int or found["class_dim"] < 2:
        found.pop("class_dim", None)
    if not isinstance(found.get("model"), str) or found["model"] not in models.list_models():
        found.pop("model", None)
    if _value(notes.get("multi_label", "false")) is True:
        found["multi_label"] = True
    return found


def read_class_notes(path: str | os.PathLike[str]) -> list[str | None]:
    """The names of the classes that weights were trained with, which train.py notes in its files.

    Args:
        path: a file or folder of weights, of any kind.

    Returns:
        The names by class number, None where one is not known, perhaps of the first classes only; nothing if they are
        not noted.
    """
    names = _value(_read(path).get(CLASS_NAMES, "[]"))
    if isinstance(names, list) and all(isinstance(name, str | None) for name in names):
        with contextlib.suppress(UnicodeEncodeError):  # half a character, which no file of results can hold
            "".join(filter(None, names)).encode(errors="surrogateescape")
            return names
    warn(f"{path}: its notes on the names of the classes make no sense and are not used")
    return []


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    """All notes in a file of weights, as text; none in one of another kind."""
    file = Path(path, "weights.safetensors") if os.path.isdir(path) else Path(path)
    if side := _side_notes(path):
        return side
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="pt") as content:
            return content.metadata() or {}
    except (SafetensorError, ValueError, OSError):
        return {}  # of another kind, or damaged: whoever reads its tensors says so


def side_file(path: str | os.PathLike[str]) -> Path:
    """Where the notes of a file or folder are that cannot hold them."""
    return Path(path, SIDE_NOTES) if os.path.isdir(path) else Path(f"{os.fspath(path)}.{SIDE_NOTES}")


def write_side_notes(path: Path, notes: Mapping[str, Any]) -> None:
    """Writes notes beside a file of weights, or into a folder of variables.

    Raises:
        UserError: they cannot be written.
    """
    write_text(side_file(path), json.dumps(notes, indent=1, ensure_ascii=False) + "\n", "--output")


def _side_notes(path: str | os.PathLike[str]) -> dict[str, str]:
    """The notes beside a file of weights, as text; none if there are none."""
    if not os.path.exists(path):
        path = f"{os.fspath(path)}.pdparams"  # which may be left out
    file = side_file(path)
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_NOTES:
            return {}
        notes = json.loads(file.read_text(encoding="utf-8", errors="surrogateescape"))
        if not isinstance(notes, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError):
        warn(f"{file} cannot be read as notes on {path}, and is not used")
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in notes.items()}


def _value(note: str) -> Any:
    """A note as it was before it was written: JSON, or text, which stands there as it is."""
    try:
        return json.loads(note)
    except (ValueError, RecursionError):  # brackets without end are text, too
        return note
