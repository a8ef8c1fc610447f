"""Facts about the networks, without building them: size, cost and input, for --list_models.

docs/make_model_zoo.py writes catalogue.json. Published accuracies are in models/published.py.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_suffix(".json")


class Facts(NamedTuple):
    """The facts of a network.

    Attributes:
        parameters: number of parameters, with 1000 classes.
        multiply_adds: for one image, in convolutions, linear layers and attention.
        image_size: height and width of the input.
    """

    parameters: int
    multiply_adds: int
    image_size: int


def read() -> dict[str, Facts]:
    """The facts of every network, by name."""
    return {name: Facts(*values) for name, values in json.loads(FILE.read_text()).items()}


def family(module: str) -> tuple[str, list[str]]:
    """A family's title and its papers on arXiv, from the first line of its module."""
    source = FILE.with_name(f"{module}.py").read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(source)) or module).splitlines()[0]
    title = re.split(r" \([^)]*arXiv| \([A-Z][^)]*documentation|[,:;]|\.$", line)[0]
    return title, re.findall(r"arXiv:(\d+\.\d+)", line)
