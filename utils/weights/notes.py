"""Notes that weights carry about their training: the network's name, classes and input, and the class names.

A .safetensors file holds its notes itself. Other files have them in FILE.notes.json, a folder of variables in
notes.json.
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

# The note with the class names.
CLASS_NAMES = "class_names"

# Name of the file with the notes of files that cannot hold them, and its largest size.
SIDE_NOTES, LARGEST_NOTES = "notes.json", 1 << 24


def read_input_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The input flags of the weights' training, which train.py notes in its files.

    Args:
        path: a file or folder of weights, of any kind.

    Returns:
        The values of `INPUT_FLAGS` (without channel_order if that is missing); empty without notes.
    """
    notes = _read(path)
    if not notes.keys() >= set(INPUT_FLAGS) - set(UNNOTED):
        return {}
    try:
        noted = checked_input({name: _value(notes[name]) for name in INPUT_FLAGS if name in notes})
    except ScaleError as error:
        warn(f"{path}: ignored, as {error}: evaluate with infer.py --image_mean and --image_std as in training")
        return {}
    except (ValueError, TypeError):
        warn(
            f"{path}: ignoring its invalid notes on the network's input: evaluate with infer.py --image_shape and the "
            "other input flags as in training"
        )
        return {}
    if "channel_order" not in notes:
        del noted["channel_order"]  # the network's own: before this flag, networks swapped channels themselves
    return noted


def read_network_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The network of some weights, as far as their file notes it: "model" (its name), "class_dim", and "multi_label"
    (True if images had several labels)."""
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
    """The class names of the weights' training, which train.py notes in its files.

    Args:
        path: a file or folder of weights, of any kind.

    Returns:
        The names by class number, None for unknown ones, perhaps of the first classes only; empty without notes.
    """
    names = _value(_read(path).get(CLASS_NAMES, "[]"))
    if isinstance(names, list) and all(isinstance(name, str | None) for name in names):
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate, which cannot be written to a file of results
            "".join(filter(None, names)).encode(errors="surrogateescape")
            return names
    warn(f"{path}: ignoring its invalid notes on class names")
    return []


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    """All notes in a weight file, as text; empty for kinds that cannot hold any."""
    file = Path(path, "weights.safetensors") if os.path.isdir(path) else Path(path)
    if side := _side_notes(path):
        return side
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="pt") as content:
            return content.metadata() or {}
    except (SafetensorError, ValueError, OSError):
        return {}  # another kind, or damaged: reading its tensors reports that


def side_file(path: str | os.PathLike[str]) -> Path:
    """The path of the notes of a file or folder that cannot hold them itself."""
    return Path(path, SIDE_NOTES) if os.path.isdir(path) else Path(f"{os.fspath(path)}.{SIDE_NOTES}")


def write_side_notes(path: Path, notes: Mapping[str, Any]) -> None:
    """Writes notes next to a weight file, or into a folder of variables.

    Raises:
        UserError: they cannot be written.
    """
    write_text(side_file(path), json.dumps(notes, indent=1, ensure_ascii=False) + "\n", "--output")


def _side_notes(path: str | os.PathLike[str]) -> dict[str, str]:
    """The notes next to a weight file, as text; empty if there are none."""
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
        warn(f"{file} is not a valid notes file of {path}: ignored")
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in notes.items()}


def _value(note: str) -> Any:
    """The value of a note: JSON is parsed, other text stays as it is."""
    try:
        return json.loads(note)
    except (ValueError, RecursionError):  # endless brackets are text as well
        return note
