"""Mutated files of every kind that the project reads: whatever is in them, they are read, or one line comes out.

python -m pytest --all tests/scripts/test_fuzz_readers.py      20,000 cases of each reader
python tests/scripts/test_fuzz_readers.py --readers NAME ... --cases=CASES --start=FIRST --jobs=PROCESSES      any
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import warnings
from pathlib import Path

import cv2
import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

import fuzz_exports
import fuzz_readers
from fuzzing import run_cases, run_from_the_command_line

from utils.errors import UserError

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")

SHORT, LONG = 40, 20_000
READERS = {
    "pdparams": fuzz_readers.pdparams,
    "fluid": fuzz_readers.fluid,
    "torch": fuzz_readers.torch_file,
    "safetensors": fuzz_readers.safetensors,
    "caffe": fuzz_readers.caffe,
    "list": fuzz_readers.image_list,
    "shard": fuzz_readers.shard,
    "class_map": fuzz_readers.class_map,
    "image": fuzz_readers.image,
    "program": fuzz_exports.program,
    "onnx": fuzz_exports.onnx,
    "state": fuzz_exports.state,
}


def check(reader: str, case: int) -> str:
    """What came of a case: "read" or "refused"."""
    try:
        READERS[reader](random.Random(case))
    except UserError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 2000, f"not one line: {error!r}"
        str(error).encode(errors="surrogateescape")
        return "refused"
    return "read"


def prepare() -> None:
    """What all processes share; without threads, which do not live on in a forked process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    warnings.simplefilter("ignore")
    fuzz_readers.images()
    fuzz_exports.training()
    for reader in READERS.values():
        for case in range(3):  # what is imported when it is needed
            with contextlib.suppress(Exception):
                reader(random.Random(case))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    threads = torch.get_num_threads(), cv2.getNumThreads()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(tmp_path_factory.mktemp("cases"))
        prepare()
        yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.full)], ids=["short", "long"])
def test_mutated_files(prepared, reader, count):
    report = run_cases(functools.partial(check, reader), range(count))
    assert not report.failures
    assert report.cases == count
    assert report.outcomes["read"] > count // 50 and report.outcomes["refused"] > count // 5


if __name__ == "__main__":
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run_from_the_command_line(check, prepare, LONG, READERS)
