"""What classes are called: as noted, as given, or as ImageNet's where the weights are known to be ImageNet's."""

from __future__ import annotations

import argparse
import re

import pytest

import models
from utils.errors import UserError
from utils.evaluation.evaluate import check_numbering
from utils.evaluation.names import noted_names
from utils.formats.published import FIRST_LETTERS, is_published
from utils.reading.class_names import imagenet_names, imagenet_synsets
from utils.reading.image_list import ImageList


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
        "inception_v3.caffemodel",  # it numbers the classes as the development kit of 2015
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


def test_data_that_number_classes_otherwise_than_the_network(tmp_path, capsys):
    """By the names of both; of ImageNet's weights by the names of its folders as well."""
    args = argparse.Namespace(data_dir=str(tmp_path), class_dim=1000)
    paths = ["n01440764/1.JPEG", "n03888257/2.JPEG"]
    check_numbering(args, ImageList.from_paths(paths, [0, 701]), imagenet_names())
    with pytest.raises(UserError, match=r"n03888257 is class 701 of the network but class 1 in .*give --label_map"):
        check_numbering(args, ImageList.from_paths(paths, [0, 1]), imagenet_names())
    folders = ImageList.from_paths(paths, [0, 701], "val", imagenet_synsets())
    check_numbering(args, folders, imagenet_names())
    args.class_dim = 3
    images = ImageList.from_paths(["Katze/1.jpg", "Hund/2.jpg"], [0, 1], "val", ["Katze", "Hund"])
    check_numbering(args, images, ["Katze", "Hund", "Fuchs"])
    assert not capsys.readouterr().err
    check_numbering(args, images, ["cat", "dog", "fox"])
    assert "they count as the first 2 of 3; use a list to number them differently" in capsys.readouterr().err
