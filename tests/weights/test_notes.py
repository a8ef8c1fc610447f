"""Invalid notes in a .safetensors file: they are ignored, and the weights are read nevertheless."""

import json

import pytest
import torch
from safetensors.torch import save_file

from utils.weights import read_input_notes, read_weights
from utils.weights.notes import read_class_notes, read_network_notes

INPUT = {
    "image_shape": [3, 32, 32],
    "resize_short_size": 40,
    "interpolation": None,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
DEEP = "[" * 100_000


@pytest.mark.parametrize("name", [*INPUT, "model", "class_dim", "class_names", "dropout", "multi_label"])
@pytest.mark.parametrize(
    "note", [DEEP, "9" * 5000, f"[{10**400}, 1, 1]", "5", '"123"', "null", '{"a": 1}', "NaN", r'["\ud800"]', ""]
)
def test_hostile_notes(name, note, tmp_path):
    path = tmp_path / "x.safetensors"
    notes = {key: json.dumps(value) for key, value in INPUT.items()}
    save_file({"w": torch.ones(2)}, path, metadata=notes | {name: note})
    assert list(read_weights(path).tensors) == ["w"]
    kept = read_input_notes(path)
    # A short side must be a single number, null is the interpolation's default, and 5 is not an interpolation.
    may_be_right = {"resize_short_size": ("5",), "interpolation": ("null",)}
    assert (kept == {}) == (name in INPUT and note not in may_be_right.get(name, ()))
    assert read_class_notes(path) == []
    assert read_network_notes(path).keys() == ({"class_dim"} if (name, note) == ("class_dim", "5") else set())
