"""Parts of a network that frozen: ."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training import NETWORK, assert_same_checkpoint

import models
from models.parts import backbone_parameters, stage_parameters
from utils.training.freezing import train_mode


@pytest.mark.parametrize(
    ("name", "stages", "classifier"),
    [
        ("ResNet18", 4, {"fc.weight", "fc.bias"}),
        ("DeiT_tiny_distilled_patch16_224", 1, {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}),
    ],
)
def test_what_is_frozen(name, stages, classifier):
    with torch.device("meta"):
        model = models.build(name, class_dim=3)
    names = {name for name, _ in model.named_parameters()}
    assert names - backbone_parameters(model) == classifier
    found = stage_parameters(model)
    assert len(found) == stages and all(a < b for a, b in pairwise(found))
    if name == "ResNet18":
        assert {name.split(".")[0] for name in found[1]} == {"conv1", "bn1", "layer1", "layer2"}
    assert not classifier & found[-1]


def test_frozen_parts_are_in_evaluation_mode():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout()), nn.BatchNorm2d(3))
    model[0].requires_grad_(False)
    train_mode(model.eval())
    assert [module.training for module in model.modules()] == [True, False, False, False, False, True]


@pytest.mark.parametrize("part", [2, "backbone"])
def test_a_run(train_here, tiny_dataset, tmp_path, part):
    """Decay and average leave what is frozen alone; a resumed run ends like the whole one; and it can be set free."""
    flags = {"freeze": part, "l2_decay": 0.1, "use_ema": True, "ema_warm_up": False, "validate": False}
    start = train_here(tiny_dataset, tmp_path / "start", validate=False)
    assert start.code == 0
    weights = tmp_path / "start" / NETWORK / "latest" / "weights.safetensors"
    first = {"pretrained_model": weights, "checkpoint": "auto"}
    whole = train_here(tiny_dataset, tmp_path / "whole", num_epochs=2, **flags, **first)
    assert whole.code == 0 and f"--freeze={part}: " in whole.out and "frozen: " in whole.out
    before, after = load_file(weights), load_file(tmp_path / "whole" / NETWORK / "latest" / "weights.safetensors")
    average = load_file(tmp_path / "whole" / NETWORK / "latest" / "ema_weights.safetensors")
    same = {name for name in before if torch.equal(before[name], after[name])}
    moved = {name.split(".")[0] for name in before.keys() - same}
    assert "fc" in moved and (part == 2 or moved == {"fc"}) and "conv" in {name.split(".")[0] for name in same}
    assert all(torch.allclose(before[name].float(), average[name].float()) for name in same)
    if part == "backbone":
        return
    for limit in (4, 0):
        parts = train_here(tiny_dataset, tmp_path / "parts", num_epochs=2, max_iter=limit, **flags, **first)
        assert parts.code == 0
    latest = [tmp_path / name / NETWORK / "latest" for name in ("whole", "parts")]
    assert_same_checkpoint(*latest)
    assert train_here(tiny_dataset, tmp_path / "parts", num_epochs=3, **flags | {"freeze": 0}, **first).code == 0
    free = load_file(latest[1] / "weights.safetensors")
    assert not any(torch.equal(before[name], free[name]) for name in same if name.endswith("weight"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (9, "--freeze=9: MobileNetV1_x0_25 has 4 stages: give fewer, or backbone"),
        ("stem", "--freeze: 'stem' is neither a number of stages nor backbone"),
    ],
)
def test_refusals(train_here, tiny_dataset, tmp_path, value, said):
    result = train_here(tiny_dataset, tmp_path, freeze=value)
    assert said in result.error and result.code == 2 and not list(tmp_path.iterdir())
