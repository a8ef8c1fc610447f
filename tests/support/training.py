"""Running train.py in tests: in this process where that is the same, else as a command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from launch import Running
from safetensors.torch import load_file

import train
from utils.errors import LESS_MEMORY, run_script
from utils.training import curves

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "MobileNetV1_x0_25"

# A run of seconds on the `tiny_dataset`: 48 training images, three steps an epoch.
SMALL = {
    "model": NETWORK,
    "class_dim": 4,
    "image_shape": "3,32,32",
    "resize_short_size": 32,
    "batch_size": 16,
    "num_epochs": 1,
    "lr": 0.01,
    "lr_strategy": "default_decay",
    "print_step": 1,
    "reader_thread": 0,
    "random_seed": 1,
}


def command_line(data_dir: Path, out: Path, **flags: object) -> list[str]:
    """The flags of a small run, and of what a test adds or changes (None leaves one out)."""
    values = SMALL | {"data_dir": data_dir, "model_save_dir": out} | flags
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


@dataclass
class Result:
    """What a run of train.py said: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failed run, without warnings."""
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        assert self.code in (1, 2), self.err
        assert len(lines) == 1, self.err
        assert lines[0].startswith("train.py: error: "), self.err
        return lines[0].removeprefix("train.py: error: ")


class InProcess:
    """Calls train.py's main in this process, as `python train.py` does.

    Attributes:
        draws_curves: whether curves.png is drawn, which takes longer than a small run; if not, the file is empty.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        self.draws_curves = False

    def __call__(self, data_dir: Path, out: Path, **flags: object) -> Result:
        self.monkeypatch.setattr(sys, "argv", ["train.py", *command_line(data_dir, out, **flags)])
        self.capsys.readouterr()
        if not self.draws_curves:
            self.monkeypatch.setattr(curves, "draw_curves", lambda history, path: path.touch())
        try:
            with pytest.raises(SystemExit) as exit_:
                run_script(train.main, LESS_MEMORY)
        finally:
            torch.use_deterministic_algorithms(False)  # --enable_ce sets it for the process
        captured = self.capsys.readouterr()
        sys.stderr.write(captured.err)  # for the report of a failing test
        return Result(exit_.value.code, captured.out, captured.err)


def environment() -> dict[str, str]:
    """For subprocesses: one thread, and no launcher's variables."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def start(
    data_dir: Path,
    out: Path,
    processes: int = 1,
    restarts: int = 0,
    script: Path = ROOT / "train.py",
    **flags: object,
) -> subprocess.Popen[str]:
    """Starts train.py, or a script that calls it, under the launcher if it is to run in several processes.

    It has a process group of its own, as under the launcher, systemd and schedulers.
    """
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += [f"--max_restarts={restarts}", "--monitor_interval=0.1"]
    command += [str(script), *command_line(data_dir, out, **flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment(), start_new_session=True, **pipes)


def run(data_dir: Path, out: Path, processes: int = 1, restarts: int = 0, **flags: object) -> str:
    """Runs train.py to its end, which has to be a good one; returns what it printed."""
    process = start(data_dir, out, processes, restarts, **flags)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for(process: subprocess.Popen[str] | Running, pattern: str) -> list[str]:
    """Reads a running process's output up to a line with `pattern` in it; returns the lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"no {pattern!r} in:\n{''.join(lines)}")


def losses(output: str) -> list[float]:
    """The losses of the training steps printed."""
    return [float(value) for value in re.findall(r"train batch \d+\]  loss ([-\d.naif]+)", output)]


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Two checkpoints hold the same, bit by bit: weights, average, optimizer, schedule, random states, figures."""
    for name in ("weights.safetensors", "ema_weights.safetensors"):
        assert (one / name).exists() == (other / name).exists()
        if (one / name).exists():
            assert_equal(load_file(one / name), load_file(other / name), name)
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (one, other)]
    assert_equal(*states, "state")


def assert_equal(one: object, other: object, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{number}]")
    else:
        assert one == other, where
