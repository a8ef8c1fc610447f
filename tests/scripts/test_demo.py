"""The demo, as a newcomer runs it. It takes a minute, and writes where the demo writes: only with --all."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "MobileNetV1_x0_25"
NETWORK = (f"--model={NAME}", "--class_dim=10", "--image_shape", "3", "64", "64", "--resize_short_size=64")


def run_sh(*arguments: str) -> str:
    """What `bash run.sh` prints."""
    result = subprocess.run(
        ["bash", "run.sh", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def scores(path: Path) -> dict[str, dict[int, float]]:
    """The probability of every class for every image, from a file of results."""
    results = (line.split("\t") for line in path.read_text().splitlines())
    fields = {name: json.loads(text) for name, text in results}
    return {name: dict(zip(field["class"], field["score"], strict=True)) for name, field in fields.items()}


@pytest.mark.full
def test_demo(tmp_path):
    log = run_sh("demo")
    (accuracy,) = re.findall(r"^Test_loss .* test_acc1 (\S+),", log, re.MULTILINE)
    assert float(accuracy) >= 0.97
    commands = re.findall(r"^\+ \S+ (\S+\.py)", log, re.MULTILINE)
    assert commands == ["data/digits/prepare.py", "train.py", "eval.py", "infer.py", "infer.py", "predict.py"]

    # The three scripts see every held-out image alike, whatever the format of the export.
    output = ROOT / "output" / "demo"
    images = ("--image_path=data/digits/val_list.txt", "--topk=10")
    weights = f"--pretrained_model={output / NAME / 'best_model'}"
    names = "--class_map_path=data/digits/label_names.txt"
    run_sh("infer", *NETWORK, weights, names, *images, f"--save_json_path={tmp_path / 'infer.json'}")
    model_files = ["model"]
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        run_sh("infer", *NETWORK, weights, names, "--save_inference=True", "--inference_format=onnx")
        model_files.append("model.onnx")
    inferred = scores(tmp_path / "infer.json")
    labels = dict(line.split() for line in (ROOT / "data" / "digits" / "val_list.txt").read_text().splitlines())
    assert inferred.keys() == labels.keys()
    for model_file in model_files:
        results = tmp_path / f"{model_file}.json"
        run_sh("predict", f"--model_file={NAME}/{model_file}", *images, f"--save_json_path={results}")
        predicted = scores(results)
        assert predicted.keys() == labels.keys()
        for image, score in inferred.items():
            assert max(score, key=score.get) == max(predicted[image], key=predicted[image].get)
            assert score == pytest.approx(predicted[image], abs=1e-5)
    evaluated = json.loads((output / "eval.json").read_text())
    of_label = [(score, int(labels[image])) for image, score in inferred.items()]
    right = sum(max(score, key=score.get) == label for score, label in of_label)
    assert evaluated["test_acc1"] == pytest.approx(right / len(labels))
    assert evaluated["Test_loss"] == pytest.approx(
        sum(-math.log(score[label]) for score, label in of_label) / len(labels), abs=1e-5
    )
