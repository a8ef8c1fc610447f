"""Mutated PaddlePaddle programs, translated and run: each gives numbers or a refusal in one line.

python -m pytest --all tests/programs/test_fuzz_translation.py      20,000 cases
python tests/programs/test_fuzz_translation.py --cases=CASES --start=FIRST --jobs=PROCESSES      any
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

from fuzzing import run_cases, run_from_the_command_line
from mutations import NUMBERS, TEXTS, shortened
from paddle_programs import PPLCNET, example_files

from utils.errors import FormatError
from utils.formats.inference_model import read_parameters, read_program
from utils.formats.paddle_program import Operation, Program, check_program
from utils.programs.paddle_ops.registry import DESC, PIR
from utils.programs.paddle_translate import translate

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")

SHORT, LONG = 300, 20_000
# A program whose values have more elements for one image is not run, as it could take hours.
MAX_ELEMENTS = 1 << 23


@functools.cache
def whole() -> list[tuple[Program, dict[str, np.ndarray]]]:
    """Programs of many operators, with their parameters."""
    files = example_files()
    wide = read_program(files["custom_wide/__model__"])
    programs = [(wide, read_parameters(wide, {name: files[f"custom_wide/{name}"] for name in wide.parameters}))]
    for program, parameters, count in (
        (files["custom_net/model"], files["custom_net/params"], 70),
        (files[f"{PPLCNET[1]}/inference.pdmodel"], files[f"{PPLCNET[1]}/inference.pdiparams"], 18),
        (files[f"{PPLCNET[0]}/inference.json"], files[f"{PPLCNET[0]}/inference.pdiparams"], 117),
    ):
        found, content = shortened(program, parameters, count)
        programs.append((read_program(found), read_parameters(read_program(found), content)))
    return programs


def mutated_value(rng: random.Random, value: Any) -> Any:
    """Another value of an attribute, mostly of the same type."""
    if rng.random() < 0.1:
        return rng.choice((None, True, 0, -1, 1.5, "x", [], [0], [1.5], ["x"], [1] * 9))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, 0, 1, 2, 3, 1000, *NUMBERS))
    if isinstance(value, float):
        return rng.choice((0.0, 1.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"), -value, value * 2))
    if isinstance(value, str):
        return rng.choice(
            ("SAME", "VALID", "EXPLICIT", "NHWC", "NCHW", "max", "avg", "float16", "int64", "bool", *TEXTS)
        )
    if isinstance(value, list):
        value = list(value)
        if value and rng.random() < 0.7:
            place = rng.randrange(len(value))
            value[place] = mutated_value(rng, value[place])
        else:
            value = rng.choice((value[:-1], [*value, *value], [*value, 1], value[::-1], []))
    return value


def mutated_operation(rng: random.Random, operation: Operation, names: list[str], kinds: list[str]) -> Operation:
    """An operation with one change; `names` are those of variables that are written before it."""
    kind = rng.random()
    if kind < 0.6 and operation.attributes:
        attribute = rng.choice(sorted(operation.attributes))
        attributes = {**operation.attributes, attribute: mutated_value(rng, operation.attributes[attribute])}
        if rng.random() < 0.1:
            del attributes[attribute]
        return dataclasses.replace(operation, attributes=attributes)
    if kind < 0.85 and operation.inputs:
        slot = rng.choice(sorted(operation.inputs))
        inputs = dict(operation.inputs)
        arguments = list(inputs[slot])
        if arguments:
            arguments[rng.randrange(len(arguments))] = rng.choice(names)
        inputs[slot] = tuple(rng.choice((arguments, arguments, arguments * 2, arguments[:-1], arguments[::-1])))
        if rng.random() < 0.1:
            del inputs[slot]
        return dataclasses.replace(operation, inputs=inputs)
    return dataclasses.replace(operation, kind=rng.choice(kinds))


def mutated(rng: random.Random, program: Program) -> Program:
    """A program with a few changes, which still reads only what is written before."""
    operations = list(program.operations)
    variables = dict(program.variables)
    kinds = sorted(PIR if program.dialect == "pir" else DESC)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.05:
            feed = variables[program.feeds[0]]
            shape = mutated_value(rng, list(feed.shape or ()))
            if isinstance(shape, list) and all(type(size) is int for size in shape):
                variables[feed.name] = dataclasses.replace(feed, shape=tuple(max(size, -1) for size in shape))
            continue
        place = rng.randrange(len(operations))
        names = [*program.feeds, *program.parameters]
        for before in operations[:place]:
            names += [name for slot in before.outputs.values() for name in slot]
        operations[place] = mutated_operation(rng, operations[place], names, kinds)
    return dataclasses.replace(program, operations=tuple(operations), variables=variables)


def elements(module: torch.fx.GraphModule) -> int:
    """Number of values that a module computes for one image."""
    shapes = (node.meta.get("shape") or () for node in module.graph.nodes)
    return sum(math.prod(1 if size is None else size for size in shape) for shape in shapes)


def check(case: int) -> str:
    """The outcome of a case: "run", "failed" while running, only "translated", or "refused"."""
    rng = random.Random(case)
    program, parameters = rng.choice(whole())
    try:
        program = mutated(rng, program)
        check_program(program)
        translation = translate(program, parameters)
    except FormatError as error:
        assert "\n" not in str(error), f"not one line: {error!r}"
        return "refused"
    if elements(translation.module) > MAX_ELEMENTS:
        return "translated"
    inputs = [
        torch.ones([2 if size is None else size for size in given.shape]).to(given.dtype)
        for given in translation.inputs
    ]
    try:
        with torch.inference_mode():
            translation.module(*inputs)
    except (RuntimeError, IndexError, ValueError, TypeError):  # as any network may, with images it cannot take
        return "failed"
    return "run"


def prepare() -> None:
    """The state that all processes share, without PyTorch's threads, which do not survive a fork."""
    torch.set_num_threads(1)
    whole()


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.full)], ids=["short", "long"])
def test_mutated_programs(count):
    threads = torch.get_num_threads()
    try:
        prepare()
        report = run_cases(check, range(count))
    finally:
        torch.set_num_threads(threads)
    assert not report.failures
    assert report.cases == count
    assert report.outcomes["run"] > count // 10 and report.outcomes["refused"] > count // 10
    # A program that fails while running could have been refused.
    assert report.outcomes.get("failed", 0) < count // 20


if __name__ == "__main__":
    run_from_the_command_line(check, prepare, LONG)
