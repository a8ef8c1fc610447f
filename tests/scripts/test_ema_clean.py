"""ema_clean.py: averaged parameters as weights of their own."""

from __future__ import annotations

import pytest
import torch
from paddle_files import (
    FILES,
    PUBLISHED,
    assert_same,
    fresh,
)

import ema_clean
from utils.errors import UserError
from utils.weights import load_pretrained, read_weights
from utils.weights.write import save_weights


def test_ema_of_the_original(run_script_here, tmp_path):
    run_script_here(ema_clean, ema_model_dir=FILES / "trained_with_ema.tar", cleaned_model_dir=tmp_path / "clean")
    before, after = (read_weights(path).tensors for path in (FILES / "trained_with_ema.tar", tmp_path / "clean"))
    names = ["conv1_bn_mean", "conv1_bn_offset", "conv1_bn_scale", "conv1_bn_variance", "conv1_weights"]
    assert sorted(after) == names
    for name in names:
        assert torch.equal(after[name], before[f"{name}_ema_0"])
        assert not torch.equal(after[name], before[name])


def test_ema_of_ours(trained, run_script_here, tmp_path):
    (tmp_path / "latest").mkdir()
    save_weights(fresh(), tmp_path / "latest" / "weights.safetensors", {})
    flags = {"ema_model_dir": tmp_path / "latest", "cleaned_model_dir": tmp_path / "clean"}
    with pytest.raises(
        UserError, match=r"has no ema_weights\.safetensors: give a checkpoint of train\.py --use_ema=True"
    ):
        run_script_here(ema_clean, **flags)
    save_weights(trained, tmp_path / "latest" / "ema_weights.safetensors", {})
    run_script_here(ema_clean, **flags)
    model = fresh()
    load_pretrained(model, tmp_path / "clean")
    assert_same(model, trained)
    with pytest.raises(UserError, match="already exists"):
        run_script_here(ema_clean, **flags)
    with pytest.raises(UserError, match="no averaged parameters"):
        run_script_here(ema_clean, ema_model_dir=PUBLISHED, cleaned_model_dir=tmp_path / "other")
