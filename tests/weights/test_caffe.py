"""The Caffe zoo: every network's names, shapes and logits, and files that do not fit."""

import numpy as np
import pytest
import torch
from caffe_files import (
    NETWORKS,
    REAL_FILE,
    blobs,
    caffemodel,
    expected,
    image,
)
from torchvision_networks import error_of_logits, torchvision_network

import models
from models.layers import UPSCALE_IN_TRAIN, Dropout
from utils.errors import UserError
from utils.weights import Weights, load_pretrained, load_weights

# Seen: 3e-7 to 1.6e-6.
BAR = 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes(name):
    with torch.device("meta"):
        model = models.build(NETWORKS[name])
        tensors = {blob.name: torch.empty(blob.shape) for blob in blobs(name) if blob.role != "sf"}
    # Raises if one is missing, superfluous or of another shape.
    report = load_weights(model, Weights("Caffe", tensors, paddle=False), name)
    assert report.loaded == len(tensors)
    assert (report.ignored, report.left_out) == (0, 0)


def check_logits(name, path):
    model = models.build(NETWORKS[name])
    report = load_pretrained(model, path)
    assert report.kind == "Caffe .caffemodel"
    assert all(layer.mode == UPSCALE_IN_TRAIN for layer in model.modules() if isinstance(layer, Dropout))
    with torch.inference_mode():
        logits = model.eval()(image(name)).numpy()
    assert np.abs(logits - expected(name)).max() / np.abs(expected(name)).max() < BAR


QUICK = ("densenet121", "inception-v3")


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("legacy", [False, True], ids=["shape", "legacy"])
def test_logits(name, legacy, tmp_path):
    path = tmp_path / f"{name}.caffemodel"
    path.write_bytes(caffemodel(name, legacy))
    check_logits(name, path)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in QUICK])
def test_logits_of_all(name, tmp_path):
    path = tmp_path / f"{name}.caffemodel"
    path.write_bytes(caffemodel(name))
    check_logits(name, path)


def test_a_real_file():
    check_logits("resnext50-32x4d", REAL_FILE)


@pytest.mark.parametrize("name", ["InceptionV3", "InceptionV3_torchvision", "InceptionV4", "InceptionResNetV2"])
def test_networks_that_differ_refuse_the_file(name, tmp_path):
    zoo_name = {"InceptionV4": "inception-v4", "InceptionResNetV2": "inception-resnet-v2"}.get(name, "inception-v3")
    with torch.device("meta"):
        model = models.build(name)
        tensors = {blob.name: torch.empty(blob.shape) for blob in blobs(zoo_name) if blob.role != "sf"}
    with pytest.raises(UserError, match=r"do not fit.*they fit Inception[A-Za-z]*V._caffe"):
        load_weights(model, Weights("Caffe", tensors, paddle=False), "file")


# --------------------------------------------------------------------------------------------------- other files


@pytest.mark.parametrize(
    ("name", "theirs_name", "options", "size"),
    [
        ("WideResNet50_2", "wide_resnet50_2", {}, 64),
        ("InceptionV3_torchvision", "inception_v3", {"aux_logits": True, "init_weights": False}, 96),
    ],
)
def test_files_of_torchvision(name, theirs_name, options, size, tmp_path):
    theirs = torchvision_network(theirs_name, **options)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = models.build(name)
    load_pretrained(ours, tmp_path / "theirs.pth")
    assert error_of_logits(ours.eval(), theirs, size) < BAR


def test_inception_v3_refuses_torchvisions_file(tmp_path):
    theirs = torchvision_network("inception_v3", aux_logits=True, init_weights=False)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="they fit InceptionV3_torchvision"):
        load_pretrained(models.InceptionV3(), tmp_path / "theirs.pth")
