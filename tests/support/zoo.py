"""What the original systems say of every published network: facts in tests/fixtures/, and how to ask ours the same.

The files were measured on PaddlePaddle 1.8.5 (the fluid zoo) and PaddleClas 2.6.0 (the same networks in "paddleclas",
its later families in "paddleclas_extended" and "paddleclas_rest"). An entry has the names, shapes and roles of a
network's tensors in the original; those of the fluid zoo also the initializers, batch norms, dropouts and L2 decays.
The logits are the original's, for `images` and for weights that `weight` makes from a tensor's name alone.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import models
from utils.weights import Weights, load_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"
KINDS = ("fluid", "paddleclas", "paddleclas_extended", "paddleclas_rest")

BAR = 1e-5
# Rounding is amplified in these, which are deep or gated by squeeze-and-excitation: more than half of the bar is used.
# docs/parity.md has the figures, and how far the original itself is from exact arithmetic.
AMPLIFIED_BAR = 1e-4
AMPLIFIED = {
    "fluid": ("SE_HRNet_W32_C", "SE_HRNet_W40_C", "SE_HRNet_W48_C", "SE_HRNet_W60_C", "SE_HRNet_W64_C"),
    "paddleclas": ("EfficientNetB7",),
    "paddleclas_extended": (
        "DSNet_base",
        "DSNet_small",
        "DSNet_tiny",
        "GhostNet_x1_3",
        "PPLCNet_x2_0",
        "RedNet152",
    ),
    "paddleclas_rest": (),
}

# With its weights the values of this network overflow, until infinities cancel; the original's ReLU makes 0 of NaN.
OVERFLOWING = "RedNet101"


class Entry(NamedTuple):
    """A network of one of the originals.

    Attributes:
        kind: one of `KINDS`.
        name: in the original.
        network, options: what builds it here.
        facts: of the original, as in the file.
    """

    kind: str
    name: str
    network: str
    options: dict[str, Any]
    facts: dict[str, Any]

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shapes of the weights by name. (Role "skip" is for tensors that are computed, not learned.)"""
        return {name: shape for name, shape, role, *_ in self.facts["params"] if role != "skip"}

    @property
    def tables(self) -> dict[str, list[int]]:
        """Shapes of the other tensors of a file, by name."""
        return {name: shape for name, shape, role, *_ in self.facts["params"] if role == "skip"}

    def build(self) -> nn.Module:
        return models.build(self.network, **self.options)

    def build_blank(self) -> nn.Module:
        """The network with zeros where `build` draws values, which takes a while: they are to be replaced."""
        with _ZerosForDraws():
            return self.build()


class _ZerosForDraws(TorchFunctionMode):
    """Fills tensors with zeros where values would be drawn."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function.__name__ in ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"):
            tensor = arguments[0] if arguments else keywords["tensor"]
            tensor.detach().zero_()
            return tensor
        return function(*arguments, **(keywords or {}))


@functools.cache
def entries(kind: str) -> tuple[Entry, ...]:
    """All networks of an original."""
    with gzip.open(FIXTURES / f"zoo_{kind}.json.gz", "rt") as file:
        networks = json.load(file)
    known = set(models.list_models())
    found = []
    for name, facts in networks.items():
        # Where PaddleClas's network differs from the fluid one of the same name, ours has a name of its own.
        own = f"{name}_paddleclas" if kind in ("paddleclas", "paddleclas_rest") else name
        network = own if own in known else facts.get("class", name)
        found.append(Entry(kind, name, network, facts.get("options", {}), facts))
    return tuple(found)


def weight(name: str, shape: list[int], role: str, gain: float) -> np.ndarray:
    """The weight that the original was given as tensor `name`."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    count = math.prod(shape)
    if role in ("conv", "fc"):
        inputs = math.prod(shape[1:]) if role == "conv" else shape[0]
        values = random.uniform(-1, 1, count) * math.sqrt(gain / inputs)
    elif role in ("scale", "variance"):
        values = random.uniform(0.5, 1.5, count)
    else:
        values = random.uniform(-0.1, 0.1, count)
    return values.astype(np.float32).reshape(shape)


def images(size: int) -> Tensor:
    """The two images that the original was shown."""
    return torch.from_numpy(np.random.RandomState(7).uniform(-2, 2, (2, 3, size, size)).astype(np.float32))


def expected(entry: Entry, output: int = 0) -> np.ndarray:
    """What the original answered."""
    with np.load(FIXTURES / f"zoo_{entry.kind}_logits.npz") as logits:
        return logits[f"{entry.name}/out{output}"]


def load(model: nn.Module, entry: Entry) -> None:
    """Gives `model` the weights that the original had, as a file of the original would."""
    gain = entry.facts["gain"]
    tensors = {
        name: torch.from_numpy(weight(name, shape, role, gain))
        for name, shape, role, *_ in entry.facts["params"]
        if role != "skip"
    }
    load_weights(model, Weights(entry.kind, tensors), entry.name)


def relative_error(ours: Tensor, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the largest absolute logit."""
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


class ReluOfNan(TorchFunctionMode):
    """Lets ReLU answer 0 for NaN, as the originals do."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function is F.relu:
            return torch.where(arguments[0] > 0, arguments[0], 0.0)
        return function(*arguments, **(keywords or {}))


def logits_error(entry: Entry, model: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """How far the answer of `model`, with the weights that the original had, is from the original's.

    Args:
        dtype: what `model` calculates in. In float64, the difference is the original's own rounding.
    """
    load(model, entry)
    shown = images(entry.facts["image_size"])
    with torch.no_grad(), ReluOfNan() if entry.name == OVERFLOWING else contextlib.nullcontext():
        ours = model.to(dtype).eval()(shown.to(dtype))
    # The fluid zoo's GoogLeNet answers after the softmax.
    if (entry.kind, entry.name) == ("fluid", "GoogLeNet"):
        ours = ours.softmax(1)
    return relative_error(ours, expected(entry))


def bar(entry: Entry) -> float:
    """The largest error allowed."""
    return AMPLIFIED_BAR if entry.name in AMPLIFIED[entry.kind] else BAR
