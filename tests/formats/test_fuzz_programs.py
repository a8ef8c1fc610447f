"""Mutated PaddlePaddle programs, parameters and companion files: each is read, or refused in one line.

python -m pytest --all tests/formats/test_fuzz_programs.py      100,000 cases
python tests/formats/test_fuzz_programs.py --cases=CASES --start=FIRST --jobs=PROCESSES      any
"""

from __future__ import annotations

import functools
import random
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

from fuzzing import run_cases, run_from_the_command_line
from mutations import bomb, damaged, examples, mutated_parameters, mutated_program
from paddle_programs import PPLCNET, example_files

from utils.errors import FormatError
from utils.formats.inference_model import read_parameters, read_program
from utils.formats.inference_yml import read_inference_yml
from utils.formats.paddle_program import Program
from utils.formats.pickles import read_plain_pickle

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")

SHORT, LONG = 1_000, 100_000


@functools.cache
def whole() -> dict[str, tuple[bytes, bytes]]:
    return examples()


@functools.cache
def whole_program(content: bytes) -> Program:
    return read_program(content)


def read_case(case: int) -> None:
    """Makes a case and reads it. The number determines everything."""
    rng = random.Random(case)
    program, parameters = whole()[rng.choice(sorted(whole()))]
    share = rng.random()
    if share < 0.005:
        read_program(bomb(rng))
    elif share < 0.80:
        found = read_program(mutated_program(rng, program))
        read_parameters(found, parameters)
    elif share < 0.95:
        read_parameters(whole_program(program), mutated_parameters(rng, parameters))
    elif share < 0.98:
        settings = damaged(rng, example_files()[f"{PPLCNET[0]}/inference.yml"])
        read_inference_yml(settings.decode(errors="replace"))
    else:
        read_plain_pickle(damaged(rng, example_files()[f"{PPLCNET[1]}/inference.pdiparams.info"]))


def check(case: int) -> str:
    """The outcome of a case: "read" or "refused"."""
    try:
        read_case(case)
    except FormatError as error:
        assert str(error) and "\n" not in str(error), f"not one line: {error!r}"
        str(error).encode()
        return "refused"
    return "read"


@pytest.mark.parametrize(
    ("count", "jobs"), [(SHORT, 1), pytest.param(LONG, 2, marks=pytest.mark.full)], ids=["short", "long"]
)
def test_mutated_programs(count, jobs):
    whole()  # once for all processes
    report = run_cases(check, range(count), jobs=jobs)
    assert not report.failures
    assert report.cases == count
    assert report.outcomes["read"] > count // 20 and report.outcomes["refused"] > count // 4


def test_the_harness_notices():
    """Forbidden behaviour of a case is detected, and its number reported."""

    def bad(case: int) -> str:
        if case == 1:
            raise KeyError("x")
        if case == 2:
            bytearray(2 << 30)
        if case == 3:
            while True:
                pass
        return "read"

    failures = run_cases(bad, range(5), cpu=0.2).failures
    assert [failure.partition(":")[0] for failure in failures] == ["case 1", "case 2", "case 3"]
    assert "KeyError" in failures[0] and "MemoryError" in failures[1] and "processor time" in failures[2]


if __name__ == "__main__":
    run_from_the_command_line(check, whole, LONG)
