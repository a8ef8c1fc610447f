"""Runs of images whose size changes, and of drawn labels: resumed exactly, and refused where they cannot be."""

from __future__ import annotations

import re

import pytest
import torch
from loading import numbered_images
from training import assert_same_checkpoint

from models.layers import UPSCALE_IN_TRAIN, Dropout
from utils.errors import FlagError
from utils.flags import parse
from utils.training.varying import begin_epoch, check_stages

MULTI = {"class_dim": 3, "batch_size": 6, "multi_scale": "32,24,40", "multi_scale_factor": 8, "validate": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return numbered_images(tmp_path_factory.mktemp("images"))


def test_multi_scale_goes_on_in_the_middle_of_an_epoch(train_here, folder, tmp_path):
    whole = train_here(folder, tmp_path / "whole", **MULTI)
    assert whole.code == 0
    steps = int(re.search(r"an epoch has (\d+) steps, which set the schedule's epochs", whole.out)[1])
    assert len(re.findall(r"Pass 0, train batch \d+\]", whole.out)) == steps > 3
    part = tmp_path / "part"
    assert train_here(folder, part, **MULTI, max_iter=4).code == 0
    wrong = train_here(folder, part, **MULTI | {"multi_scale": "32,24,64"}, checkpoint="auto")
    assert "is in the middle of an epoch of batches of other sizes: resume with the same --multi_scale" in wrong.error
    assert train_here(folder, part, **MULTI, checkpoint="auto").code == 0
    assert_same_checkpoint(*(path / "MobileNetV1_x0_25" / "0" for path in (tmp_path / "whole", part)))


def test_a_run_in_parts(train_here, folder, tmp_path):
    flags = {"model": "GhostNet_x0_5", "class_dim": 3, "num_epochs": 2, "max_iter": 1, "validate": False}
    said = train_here(folder, tmp_path, **flags, progressive_sizes="32,64", progressive_dropouts="0.1,0.3")
    assert said.code == 0 and "part 1 of 2, from epoch 0: images of size 32, dropout 0.1" in said.out


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = Dropout(0.2, UPSCALE_IN_TRAIN)


def test_dropout_by_parts():
    words = ["--progressive_sizes", "32", "64", "--progressive_dropouts", "0.1", "0.3", "--num_epochs=4"]
    args, network = parse("train", words), Small()
    check_stages(args, network)
    rates = []
    for epoch in range(4):
        begin_epoch(args, network, epoch, first=epoch == 0)
        rates.append(network.dropout.p)
    assert rates == [0.1, 0.1, 0.3, 0.3]
    with pytest.raises(
        FlagError, match="--progressive_dropouts: ResNet50 has no training-only dropout before its classifier"
    ):
        check_stages(args, torch.nn.Linear(1, 1))
    args.num_epochs = 1
    with pytest.raises(FlagError, match="--progressive_sizes has 2 parts, but --num_epochs is only 1"):
        check_stages(args, network)


def test_drawn_labels_are_trained_on(train_here, folder, tmp_path):
    flags = {"class_dim": 4, "label_from": "random_rot90", "train_transforms": "resize:size=32,random_rot90"}
    said = train_here(folder, tmp_path, **flags, use_fp16=False, validate=True, test_batch_size=37)
    assert said.code == 0 and "test_acc1" in said.out
