"""The benchmarks run and report their figures; how fast anything is, no test says."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paddle_programs import example_files

from benchmarks import inference
from benchmarks.turns import report
from benchmarks.turns.report import table, write_table

ROOT = Path(__file__).resolve().parents[2]
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
    "inference": (
        [NETWORK, "--batch_size=1", "--rounds=1", "--seconds=0.01", "--cpu", "--contestant=pytorch,channels_last"],
        r"channels_last +\d(.*\n)*  pytorch +\d|pytorch +\d(.*\n)*  channels_last +\d",
    ),
    "forward_backward": ([NETWORK, "--image_size=64", "--rounds=1", "--cpu"], r"MobileNetV1_x0_25 \| 64 \| 0.47 "),
}


@pytest.mark.parametrize("name", CASES)
def test_benchmark_reports(name, tiny_dataset):
    flags, report = CASES[name]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
    command += [flag.format(data=tiny_dataset) for flag in flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(report, done.stdout, re.MULTILINE), done.stdout


def test_exported_programs_are_raced(tmp_path):
    files = example_files()
    for name in ("model", "params"):
        (tmp_path / name).write_bytes(files[f"custom_net/{name}"])
    missing = [sys.executable, "-c", "raise SystemExit('PaddlePaddle is not here')"]
    paddle = tmp_path / "python"
    paddle.write_text(f"#!/bin/sh\nexec {shlex.join(missing)}\n")
    paddle.chmod(0o755)
    command = [sys.executable, str(ROOT / "benchmarks" / "paddle_inference.py"), f"--model_file={tmp_path}/model"]
    command += [f"--paddle_python={paddle}", "--batch_size=2", "--rounds=1", "--seconds=0.01", "--threads=1"]
    command += ["--contestant=pytorch,paddle,paddle_plain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  pytorch +\d", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.count("left out: PaddlePaddle is not here") == 2


def test_only_what_is_installed_takes_part(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    files = {"program": Path("model"), "onnx": Path("model.onnx"), "int8": Path("model_int8.onnx")}
    monkeypatch.setattr(sys, "argv", ["inference", NETWORK, "--cpu", "--contestant=pytorch,openvino,onnxruntime,timm"])
    args = inference.parse()
    name = "MobileNetV1_x0_25"
    assert list(inference.commands(name, files, "bfloat16", 1, args)) == ["pytorch", "onnxruntime", "timm"]
    (words,) = inference.commands(name, files, "int8", 1, args).values()
    assert "model_int8.onnx" in words and "onnxruntime" in words


def test_tables_of_races(tmp_path, monkeypatch):
    rows = {"A, batch 1": {"predict.py": 30.0, "paddle": 20.0}, "B, batch 8": {"predict.py": 10.0, "timm": 40.0}}
    shares = {
        "of the fastest": ("predict.py", ("predict.py", "paddle", "timm")),
        "over Paddle": ("predict.py", ["paddle"]),
    }
    text = table(rows, ("predict.py", "eager", "timm", "paddle"), shares)
    assert text.splitlines() == [
        "| | predict.py | timm | paddle | of the fastest | over Paddle |",
        "|---|--:|--:|--:|--:|--:|",
        "| A, batch 1 | 30.0 |  | 20.0 | 1.00 | 1.50 |",
        "| B, batch 8 | 10.0 | 40.0 |  | 0.25 |  |",
    ]
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- race -->\nold\n<!-- /race -->\nafter\n")
    write_table(path, "race", text)
    assert path.read_text() == f"before\n<!-- race -->\n{text}\n<!-- /race -->\nafter\n"
    monkeypatch.setattr(report, "instructions", lambda: "AVX2")
    assert report.useful_isas(["default", "AVX2"]) == ["default"]
    monkeypatch.setattr(report, "instructions", lambda: "AMX")
    assert report.useful_isas(["default", "AVX2"]) == ["default", "AVX2"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes the error of a machine without a GPU for a sign")
@pytest.mark.parametrize("name", ["crops", "forward_backward", "train_step"])
def test_a_gpu_is_used_unless_told_otherwise(name, monkeypatch):
    flags = [NETWORK, "--batch_size=1", "--rounds=1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", [name, *flags])
    with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
        importlib.import_module(f"benchmarks.{name}").main()
