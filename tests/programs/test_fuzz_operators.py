"""Operators of exported programs, called with random arguments: none may crash the process.

python -m pytest --all tests/programs/test_fuzz_operators.py      100,000 cases
python tests/programs/test_fuzz_operators.py --cases=CASES --start=FIRST --jobs=PROCESSES      any
"""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

from fuzzing import run_cases, run_from_the_command_line

from utils.deploy.program_arguments import bits_of_result, check_arguments, check_keyword, is_literal
from utils.deploy.program_graph import OPERATORS, operator_of

SHORT, LONG = 150, 100_000
NAMES = sorted(OPERATORS)
NUMBERS = (0, 1, 2, 3, -1, -2, 4, 7, 1 << 15, 1 << 31, -(1 << 31), 1 << 62)
SHAPES = ((1, 4, 6, 6), (4, 4, 3, 3), (4, 1, 3, 3), (4,), (4, 4), (2, 3, 4), (0, 4, 6, 6), (1, 0, 6, 6), ())
SETTINGS = ("dtype", "layout", "device", "memory_format", "pin_memory", "generator")


def value_of(rng: random.Random, kind: str) -> Any:
    """A value of a type of an operator's schema."""
    if "Optional" in kind and rng.random() < 0.4:
        return None
    if "Tensor" in kind:
        if "List" in kind:
            return [value_of(rng, "Tensor") for _ in range(rng.randrange(1, 4))]
        tensor = torch.randn(rng.choice(SHAPES))
        return tensor.to(rng.choice((torch.int64, torch.bool, torch.float16))) if rng.random() < 0.15 else tensor
    if "List" in kind:
        few = (0.5, 2.0, 0.0, -1.0, float("inf")) if "float" in kind else (0, 1, 2, 3, 1, 2, rng.choice(NUMBERS))
        return [rng.choice(few) for _ in range(rng.choice((1, 2, 2, 3, 4)))]
    if "bool" in kind:
        return rng.random() < 0.5
    if "str" in kind:
        return rng.choice(("valid", "same", "floor", "tanh", "x"))
    if "float" in kind or "number" in kind:
        return rng.choice((0.0, 1.0, -1.0, 0.5, 1e30, float("nan")))
    return rng.choice((0, 1, 2, 3, 1, 2, rng.choice(NUMBERS)))


def check(case: int) -> str:
    """The outcome of a call: "ran", "raised" or "refused"."""
    rng = random.Random(case)
    operator = operator_of(f"torch.ops.aten.{NAMES[case % len(NAMES)]}")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in operator._schema.arguments:
        if argument.kwarg_only and argument.name not in SETTINGS:
            kwargs[argument.name] = value_of(rng, str(argument.type))
        elif not argument.kwarg_only:
            args.append(value_of(rng, str(argument.type)))
    try:
        check_arguments(operator._schema, args, kwargs)
    except ValueError:
        return "refused"
    try:
        operator(*args, **kwargs)
    except Exception:  # as `ExportedNetwork` expects it
        return "raised"
    return "ran"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")
@pytest.mark.parametrize(
    ("count", "jobs"), [(SHORT, 1), pytest.param(LONG, 2, marks=pytest.mark.full)], ids=["short", "long"]
)
def test_operators(count, jobs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = run_cases(check, range(count), jobs=jobs)
    assert not report.failures
    assert report.cases == count
    assert report.outcomes["ran"] > count // 4 and report.outcomes["refused"] > count // 100


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("conv2d.default", ("x", "w", None, [0, 0])),
        ("conv2d.default", ("x", "w", None, [1, 1], [-1, 0])),
        ("conv2d.default", ("x", "w", None, [1, 1], [0, 0], [1, 1], 0)),
        ("conv2d.default", ("x", "w", None, [1 << 40, 1])),
        ("max_pool2d.default", ("x", [0, 1])),
        ("pixel_unshuffle.default", ("x", 0)),
        ("upsample_nearest2d.vec", ("x", None, [0.0, float("nan")])),
        ("relu.default", ("x", 1)),
        ("log_softmax.int", ("x", 1, -1)),
    ],
)
def test_arguments_that_pytorch_takes_on_trust(name, args):
    with pytest.raises(ValueError, match="aten::"):
        check_arguments(operator_of(f"torch.ops.aten.{name}")._schema, args, {})


def test_attention_of_groups_is_refused():
    """A key without heads would crash the process."""
    schema = operator_of("torch.ops.aten.scaled_dot_product_attention.default")._schema
    check_arguments(schema, ("q", "k", "v"), {"enable_gqa": False})
    with pytest.raises(ValueError, match="enable_gqa"):
        check_arguments(schema, ("q", "k", "v"), {"enable_gqa": True})


def test_arithmetic_on_sizes_is_bounded():
    assert bits_of_result("mul", (1 << 62, 3)) == 65
    for function, args in (("floordiv", (1, 0)), ("mul", (1 << 4000, 1 << 4000)), ("mul", ([0], 5)), ("add", ("a", 1))):
        with pytest.raises(ValueError, match=r"size|zero"):
            bits_of_result(function, args)


def test_literals_and_names():
    assert is_literal("as_ints", [1, -1]) and is_literal("as_floats", [1, 0.5]) and is_literal("as_bool", True)
    assert not any((
        is_literal("as_ints", [[[1]]]),
        is_literal("as_int", 1 << 63),
        is_literal("as_int", True),
        is_literal("as_ints", [1] * 20_000),
        is_literal("as_string", "x" * 1000),
    ))  # fmt: skip
    for name in ("class", "a b", "", 5, None):
        with pytest.raises(ValueError, match="cannot be an argument's name"):
            check_keyword(name)


if __name__ == "__main__":
    run_from_the_command_line(check, lambda: None, LONG)
