"""ACNet: the fused network answers as the one that was trained, also through utils/acnet/convert_model.sh."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import assert_same_logits, with_statistics
from torch import nn

import models
from models.fusion import fuse
from models.names import published_names
from utils.acnet import weights_aggregator
from utils.weights import load_pretrained
from utils.weights.network import usual_input
from utils.weights.notes import CLASS_NAMES, read_class_notes, read_input_notes
from utils.weights.write import write_weights

ROOT = Path(__file__).resolve().parents[2]


def trained(name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(models.build(name, class_dim=10))


@pytest.mark.parametrize("name", ["ResNet18_ACNet", "ResNet50_ACNet"])
def test_fused_network_is_the_deploy_form_with_the_same_logits(name):
    model = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse(model)
    assert_same_logits(model, fused)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    deployed = models.build(name, class_dim=10, deploy=True)
    assert published_names(fused) == published_names(deployed)
    deployed.load_state_dict(fused.state_dict(), strict=True)
    assert_same_logits(model, deployed)


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "utils" / "acnet" / "convert_model.sh", *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


def test_convert_model_fuses_a_fluid_folder(tmp_path):
    model = trained("ResNet18_ACNet")
    write_weights(model, tmp_path / "trained", "ResNet18_ACNet", 10)
    result = convert("ResNet18_ACNet", tmp_path / "trained", tmp_path / "fused", 10)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "fused" / "conv1_acsquare_bias").is_file()
    assert not list((tmp_path / "fused").glob("*_acver_*"))

    deployed = models.build("ResNet18_ACNet", class_dim=10, deploy=True)
    load_pretrained(deployed, tmp_path / "fused")
    assert_same_logits(model, deployed)


def test_convert_model_says_how_it_is_used():
    result = convert("ResNet18_ACNet")
    assert result.returncode == 2
    assert "usage: bash utils/acnet/convert_model.sh MODEL INPUT OUTPUT [CLASS_DIM]" in result.stderr


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        ("ResNet18", "out", "--model: ResNet18 has no asymmetric convolutions to fuse"),
        ("ResNet18_ACNet", "out.zip", "--output: cannot write .zip"),
    ],
)
def test_the_mistake_is_named(launch, tmp_path, model, output, message):
    flags = [f"--model={model}", "--input=in", f"--output={output}", "--class_dim=1000"]
    result = launch("utils/acnet/weights_aggregator.py", 1, tmp_path, *flags)
    assert result.code == 2
    assert len(result.err) == 1 and message in result.err[0]


def test_the_fused_weights_have_the_notes_of_the_trained_ones(tmp_path, run_script_here):
    notes = usual_input("ResNet18_ACNet") | {"image_shape": [3, 96, 96], "resize_short_size": 110}
    trained_file, fused_file = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    names = [f"name {number}" for number in range(10)]
    write_weights(trained("ResNet18_ACNet"), trained_file, "ResNet18_ACNet", 10, {**notes, CLASS_NAMES: names})
    run_script_here(weights_aggregator, model="ResNet18_ACNet", class_dim=10, input=trained_file, output=fused_file)
    assert (read_input_notes(fused_file), read_class_notes(fused_file)) == (notes, names)
