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
from networks import small_classifier
from paddle_programs import example_files

from benchmarks import inference
from utils.deploy.export import save_inference
from utils.deploy.network import Description

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
    "inference": ([NETWORK, "--batch_size=1", "--precision=float32", "--rounds=1", "--cpu"], r"channels_last +\S*\d"),
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
    command += ["--contestant=predict.py,paddle,paddle_plain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  predict\.py +\d", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.count("left out: PaddlePaddle is not here") == 2


def test_inference_without_openvino(tmp_path, monkeypatch):
    """In bfloat16 nothing runs NAME/model.onnx on a CPU then, and the others still have their turn."""
    description = Description("MobileNetV1_x0_25", list("abcd"), [3, 32, 32], 32, 1, [0.5] * 3, [0.25] * 3)
    save_inference(small_classifier(), description, tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    files = {"pytorch": tmp_path / "model", "onnx": tmp_path / "model"}
    names = [name for name, _ in inference.engines(files, torch.randn(1, 3, 32, 32), "bfloat16", inference.CONTESTANTS)]
    assert names == ["pytorch"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes the error of a machine without a GPU for a sign")
@pytest.mark.parametrize("name", ["crops", "forward_backward", "inference", "train_step"])
def test_a_gpu_is_used_unless_told_otherwise(name, monkeypatch):
    flags = [NETWORK, "--batch_size=1", "--rounds=1", *["--contestant=eager"] * (name == "inference")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", [name, *flags])
    with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
        importlib.import_module(f"benchmarks.{name}").main()
