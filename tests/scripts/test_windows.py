"""The scripts without what Windows lacks: the same numbers, with workers that are spawned."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from training import ROOT, assert_same_checkpoint, command_line, environment

import infer
from utils.errors import run_script

NETWORK = "MobileNetV1_x0_25"

# Runs one script after the other, as if each were started: an import of PyTorch takes longer than what they do.
SEVERAL = """
import json, runpy, sys

for script, *flags in json.loads(sys.argv[1]):
    sys.argv = [script, *flags]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
"""


def test_scripts_give_the_same(train_here, tiny_dataset, tmp_path, monkeypatch):
    """Weights, averaged ones, and answers."""

    def classify(out, results):
        flags = [f"--model={NETWORK}", f"--pretrained_model={out}/{NETWORK}/best_model", "--batch_size=2"]
        flags += [f"--data_dir={tiny_dataset}/val/red", f"--save_json_path={tmp_path}/{results}", "--reader_thread=1"]
        return ["infer.py", *flags]

    flags = {"num_epochs": 1, "use_ema": True}
    assert train_here(tiny_dataset, tmp_path / "here", **flags).code == 0
    training = command_line(tiny_dataset, tmp_path / "windows", reader_thread=1, **flags)
    commands = [["train.py", *training], classify(tmp_path / "windows", "windows.txt")]
    path = os.pathsep.join([f"{ROOT}/tests/support/windows", str(ROOT)])
    variables = environment() | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", SEVERAL, json.dumps(commands)]
    process = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    for name in ("latest", "best_model"):
        folders = (tmp_path / place / NETWORK / name for place in ("windows", "here"))
        assert_same_checkpoint(*folders)
    monkeypatch.setattr(sys, "argv", classify(tmp_path / "here", "here.txt"))
    with pytest.raises(SystemExit, match="0"):
        run_script(infer.main)
    assert (tmp_path / "windows.txt").read_text() == (tmp_path / "here.txt").read_text() != ""
