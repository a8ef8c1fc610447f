"""What classes are called: as noted, as given, or as ImageNet's where the weights are known to be ImageNet's."""

from __future__ import annotations

import re

import pytest

import models
from utils.evaluation.names import noted_names
from utils.formats.published import FIRST_LETTERS, is_published
from utils.reading.class_names import imagenet_names


@pytest.mark.parametrize(
    "path",
    [
        "ResNet50_vd_pretrained.tar",
        "pretrained/ResNet50_vd_ssld_v2_pretrained/",
        "ResNeXt50_64x4d_pretrained.tar",
        "EfficientNetB0_Small_pretrained.tar.gz",
        "DARTS_GS_4M_pretrained",
        "DeiT_small_patch16_224_pretrained.pdparams",
        "PPLCNet_x1_0_infer.tar",
        "PPLCNet_x1_0_infer",
        "resnet50-0676ba61.pth",
        "resnet101_v2.caffemodel",
        "inception-resnet-v2.caffemodel.xz",
    ],
)
def test_published_weights_are_known_by_their_names(path):
    assert is_published(path, 1000)
    assert not is_published(path, 102)


@pytest.mark.parametrize(
    "path",
    [
        "output/ResNet50_vd/best_model",
        "ResNet50_vd.pdparams",
        "best_model.pdparams",
        "my_pretrained.pdparams",
        "model.safetensors",
        "resnet_iter_5000.caffemodel",
        "resnet50-final.pth",
        "epoch_120",
    ],
)
def test_what_may_be_weights_of_ones_own_has_no_names_of_imagenet(path):
    assert not is_published(path, 1000)
    assert not noted_names(path, 1000)


def test_the_names_of_networks_begin_as_is_known():
    assert {re.match("[a-z]+", name.lower())[0] for name in models.list_models()} == FIRST_LETTERS


def test_names_of_published_weights():
    assert noted_names("ResNet50_vd_pretrained.tar", 1000) == imagenet_names()
