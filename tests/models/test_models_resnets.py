"""What is special in single networks of the ResNet kind."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import models
from models.names import l2_overrides, paddleclas_names
from utils.weights import load_pretrained
from utils.weights.matching import linear_weights
from utils.weights.write import write_weights

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_fast_imagenet_decays_all_but_its_batch_norms_by_1e_4():
    model = models.FastImageNet(class_dim=10)
    of_batch_norms = {
        f"{path}.{name}"
        for path, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for name, _ in layer.named_parameters()
    }
    others = {name for name, _ in model.named_parameters()} - of_batch_norms
    assert l2_overrides(model) == dict.fromkeys(others, 1e-4)
    assert l2_overrides(models.ResNet18(class_dim=10)) == {}


def test_fast_imagenet_blocks_start_as_their_shortcuts():
    block = models.FastImageNet(class_dim=10).layer2[1].train()
    x = torch.randn(2, 512, 8, 8).relu()
    assert torch.equal(block(x.clone()), x)


@torch.no_grad()
def test_se_resnext_takes_fluids_dropout_and_paddleclas_lack_of_it(tmp_path):
    torch.manual_seed(0)
    source = models.SE_ResNeXt50_32x4d(class_dim=10).eval()
    features = source.forward_features(IMAGES)

    write_weights(source, tmp_path / "fluid", "SE_ResNeXt50_32x4d", 10)
    model = models.SE_ResNeXt50_32x4d(class_dim=10).eval()
    load_pretrained(model, tmp_path / "fluid")
    torch.testing.assert_close(model(IMAGES), source.fc(features * 0.5))

    state, transposed = source.state_dict(), linear_weights(source)
    arrays = {
        name: (state[key].t() if key in transposed else state[key]).numpy()
        for key, name in paddleclas_names(source).items()
    }
    (tmp_path / "SE_ResNeXt50_32x4d_pretrained.pdparams").write_bytes(pickle.dumps(arrays, protocol=2))
    load_pretrained(model, tmp_path / "SE_ResNeXt50_32x4d_pretrained.pdparams")
    torch.testing.assert_close(model(IMAGES), source.fc(features))


@pytest.mark.parametrize("name", ["Fix_ResNeXt101_32x48d_wsl", "Fix_ResNet50_vd_ssld_v2"])
def test_fix_networks_are_evaluated_at_320(name):
    assert models.input_config(name)[:2] == (320, 320)
