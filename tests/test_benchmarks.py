"""The benchmarks run and report their figures; how fast anything is, no test says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "--model=MobileNetV1_x0_25"

# name of the benchmark -> flags that keep it short, and what its report has to say
CASES = {
    "reader": (["{data}/train", "--rounds=1", "--workers=1"], r"^ours +\d+ .*\n(.*\n)*collected / not collected"),
    "crops": (
        [NETWORK, "--images=2", "--singles=1", "--rounds=1", "--batch_size=24", "--cpu"],
        r"eval\.py / network alone: \d",
    ),
    "train_step": (
        [NETWORK, "--batch_size=2", "--image_size=32", "--steps=1", "--rounds=1", "--cpu"],
        r"NHWC bfloat16 +train\.py +\d",
    ),
    "inference": ([NETWORK, "--batch_size=1", "--precision=float32", "--rounds=1"], r"channels_last +\S*\d"),
    "forward_backward": ([NETWORK, "--image_size=64", "--rounds=1"], r"MobileNetV1_x0_25 \| 64 \| 0.47 "),
}


@pytest.mark.parametrize("name", CASES)
def test_benchmark_reports(name, tiny_dataset):
    flags, report = CASES[name]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
    command += [flag.format(data=tiny_dataset) for flag in flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(report, done.stdout, re.MULTILINE), done.stdout
