"""Programs of one operator or two, and what real PaddlePaddle answered: see `make_paddle_cases`."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from paddle_given import given
from torch import fx

from utils.formats.archives import decompress, tar_members
from utils.formats.inference_model import read_parameters, read_program
from utils.formats.paddle_program import Program

FOLDER = Path(__file__).parents[1] / "fixtures" / "paddle"
VERSIONS = ("1.8", "2.6", "3.3")
# What the inference engines of these made of small networks: see `make_optimized_cases`.
OPTIMIZED = ("optimized_2.6", "optimized_3.3")


class Case(NamedTuple):
    """A program, what it is given, and PaddlePaddle's answers."""

    name: str
    program: Program
    parameters: dict[str, np.ndarray]
    inputs: list[torch.Tensor]
    answers: list[np.ndarray]


@functools.cache
def cases(version: str) -> tuple[Case, ...]:
    """All cases of a version of PaddlePaddle, or of `OPTIMIZED`."""
    return tuple(_read(version))


def _read(version: str) -> Iterator[Case]:
    archive = version if version in OPTIMIZED else f"operators_{version}"
    files = {name: bytes(content) for name, content in tar_members(decompress(FOLDER / f"{archive}.tar.xz")).items()}
    for path, content in files.items():
        name, _, kind = path.rpartition("/")
        if kind != "program":
            continue
        program = read_program(content)
        kinds = {}
        for variable, label in zip(program.feeds, program.feed_labels, strict=True):
            described = program.variables[variable]
            kinds[label] = ((2, *described.shape[1:]), described.dtype)
        # The arrays come one after the other from one generator, in alphabetical order.
        arrays = given(name.rpartition(":")[0] or name, dict(sorted(kinds.items())))
        with np.load(io.BytesIO(files[f"{name}/answers.npz"])) as stored:
            answers = [stored[f"out{index}"] for index in range(len(stored))]
        inputs = [torch.from_numpy(arrays[label]) for label in program.feed_labels]
        yield Case(name, program, read_parameters(program, files[f"{name}/params"]), inputs, answers)


class ShapeCheck(fx.Interpreter):
    """Runs a graph, and checks that every node's result has the shape that the graph says."""

    def run_node(self, node: fx.Node) -> object:
        result = super().run_node(node)
        shape = node.meta.get("shape")
        if shape is not None and isinstance(result, torch.Tensor):
            assert len(shape) == result.ndim, (node, shape, result.shape)
            for said, size in zip(shape, result.shape, strict=True):
                assert said is None or said == size, (node, shape, result.shape)
        return result
