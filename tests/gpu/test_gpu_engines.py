"""Inference on a GPU: exported programs, ONNX Runtime, TensorRT, DALI, and the scripts around them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import exports
import pytest
import torch
from exports import describe
from gpu import WITH_ALL, distance, tf32

from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import ExportedNetwork

ROOT = Path(__file__).resolve().parents[2]
NETWORK, SIZE, CLASSES = "MobileNetV1_x0_25", 64, 10


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """The folder of an exported network, images, and its answer on the CPU."""
    folder = tmp_path_factory.mktemp("exported")
    model, images = exports.build(NETWORK, SIZE, CLASSES), exports.images(5, SIZE)
    for form in ("torch", *["onnx"] * bool(importlib.util.find_spec("onnxscript"))):
        save_inference(model, describe(NETWORK, SIZE, CLASSES), folder, form)
    with torch.inference_mode():
        return folder, images, model(images)


def answer(network: ExportedNetwork, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(), tf32(False):
        return network(images.to(network.device, network.dtype, memory_format=network.memory_format)).float().cpu()


BOUNDS = {"float32": 3e-5, "float16": 4.5e-3, "bfloat16": 3.4e-2}  # of tests/gpu/test_gpu_networks.py


def check_program(exported: tuple[Path, torch.Tensor, torch.Tensor], device: str, dtype: str, compiled: bool) -> None:
    folder, images, expected = exported
    network = load_exported(str(folder / "model"), None, device, getattr(torch, dtype), use_compile=compiled)
    assert distance(answer(network, images), expected) <= BOUNDS[dtype]
    assert distance(answer(network, images[:1]), expected[:1]) <= 2 * BOUNDS[dtype]  # compiled on its own


@pytest.mark.parametrize("device", WITH_ALL)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_program(exported, device, dtype):
    if device == "cpu" and dtype == "float16":
        pytest.skip("not of a CPU")
    check_program(exported, device, dtype, compiled=False)


@pytest.mark.parametrize("device", WITH_ALL)
def test_a_compiled_program(exported, device):
    check_program(exported, device, "float16" if device == "cuda" else "float32", compiled=True)


def needs_provider(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript", reason="nothing here exports to ONNX: pip install -r requirements-onnx.txt")
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no {name}: pip install onnxruntime-gpu")


@pytest.mark.parametrize("device", WITH_ALL)
def test_onnx_runtime(exported, device):
    needs_provider("CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider")
    folder, images, expected = exported
    network = load_exported(str(folder / "model.onnx"), None, device, engine="onnxruntime")
    # ONNX Runtime multiplies float32 with TF32 where the GPU has it.
    assert distance(answer(network, images), expected) <= (4.5e-3 if device == "cuda" else 3e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensorrt(exported, dtype, tmp_path, monkeypatch):
    needs_provider("TensorrtExecutionProvider")
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, images, expected = exported
    options = {"use_tensorrt": True, "batch_size": len(images)}
    network = load_exported(str(folder / "model.onnx"), None, "cuda", getattr(torch, dtype), **options)
    assert distance(answer(network, images), expected) <= 4.5e-3
    assert distance(answer(network, images[:2]), expected[:2]) <= 9e-3  # a batch that is not full
    assert list(tmp_path.rglob("*.engine"))


# ------------------------------------------------------------------------------------------------------------ scripts


def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": ""})


def predict(folder: Path, images: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return run("predict.py", f"--model_file={folder}/model", f"--image_path={images}/val", "--batch_size=4", *flags)


@pytest.mark.parametrize("device", WITH_ALL)
def test_predict_answers_as_on_the_cpu(exported, device, tiny_dataset, tmp_path):
    folder, _, _ = exported
    answers = {}
    for name, flag in (("here", f"--device={device}"), ("cpu", "--device=cpu")):
        limit = ["--gpu_mem=2000"] * (name == "here" and device == "cuda")
        result = predict(folder, tiny_dataset, flag, *limit, f"--save_json_path={tmp_path}/{name}")
        assert result.returncode == 0, result.stderr
        answers[name] = [json.loads(line.split("\t")[1]) for line in (tmp_path / name).read_text().splitlines()]
    assert len(answers["here"]) == 16
    for one, other in zip(answers["here"], answers["cpu"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=5e-3)  # convolutions use TF32 unless told otherwise


@pytest.mark.gpu
def test_predict_with_too_little_of_a_gpu(exported, tiny_dataset):
    folder, _, _ = exported
    result = predict(folder, tiny_dataset, "--device=cuda", "--gpu_mem=1")
    assert result.returncode == 1
    assert result.stderr.startswith("predict.py: error: out of memory: lower --batch_size, or raise --gpu_mem")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("device", WITH_ALL)
def test_eval_counts_as_on_the_cpu(exported, device, tiny_dataset, tmp_path):
    folder, _, _ = exported
    results = {}
    for name in (device, "cpu"):
        flags = [f"--model_file={folder}/model", f"--data_dir={tiny_dataset}", f"--save_json_path={tmp_path}/{name}"]
        result = run("eval.py", *flags, f"--device={name}", "--batch_size=8")
        assert result.returncode == 0, result.stderr
        results[name] = json.loads((tmp_path / name).read_text())
    assert results[device] == pytest.approx(results["cpu"], rel=1e-2)  # TF32, as above


@pytest.mark.gpu
def test_dali_trains_on_the_gpu(train_here, tiny_dataset, tmp_path):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install -r requirements-dali.txt")
    result = train_here(tiny_dataset, tmp_path, device="cuda", use_dali=True, reader_thread=2, num_epochs=2)
    assert result.code == 0, result.err
