"""From flags to objects: the network and its input, and which flags do nothing or cannot go together."""

from __future__ import annotations

import argparse
import re

import numpy as np
import pytest
import torch
from networks import network
from torch import nn

from models.layers import DropPath
from utils.build import build_model, build_train_step, check_train_flags, resolve_input
from utils.errors import FlagError
from utils.flags import parse

# -------------------------------------------------------------------------------------------------- the network's input


@pytest.mark.parametrize(
    ("name", "bgr_mean", "bgr_std"),
    [
        ("ResNet101_v2", (102.9801, 115.9465, 122.7717), (1, 1, 1)),
        ("ResNet269_v2", (102.9801, 115.9465, 122.7717), (1, 1, 1)),
        ("InceptionV3_caffe", (128, 128, 128), (128, 128, 128)),
        ("InceptionV4_caffe", (128, 128, 128), (128, 128, 128)),
        ("InceptionResNetV2_caffe", (128, 128, 128), (128, 128, 128)),
        ("InceptionResNetV2", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("ResNeXt50_32x4d", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
        ("WideResNet50_2", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
        ("InceptionV3", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
        ("ResNet50_vd_v2", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
    ],
)
def test_means(name, bgr_mean, bgr_std):
    args = parse("infer", [f"--model={name}", "--pretrained_model=x"])
    resolve_input(args)
    assert args.image_mean == pytest.approx([value / 255 for value in reversed(bgr_mean)])
    assert args.image_std == pytest.approx([value / 255 for value in reversed(bgr_std)])
    args = parse("infer", [f"--model={name}", "--pretrained_model=x", "--image_mean", "0.1", "0.2", "0.3"])
    resolve_input(args)
    assert args.image_mean == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--model=DeiT_tiny_distilled_patch16_224"], 224),
        (["--model=DeiT_base_distilled_patch16_384", "--image_shape", "3", "224", "224"], 224),
        (["--model=ViT_base_patch32_384"], 384),
        (["--model=SwinTransformer_tiny_patch4_window7_224", "--image_shape=3,384,384"], 384),
        (["--model=LeViT_128S", "--image_shape=3,256,256"], 256),
        (["--model=TNT_small", "--image_shape=3,384,384"], 384),
    ],
)
def test_the_network_is_built_for_image_shape(words, size):
    with torch.device("meta"):
        assert build_model(arguments(*words)).image_size == size


def arguments(*words):
    return parse("infer", ["--pretrained_model=x", "--image_path=x", "--class_dim=7", *words])


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("3,224,256", "--image_shape: DeiT_tiny_patch16_224 is built for square images, not 224 x 256"),
        ("3,100,100", "--image_shape: a transformer with patches of 16 x 16 takes images whose size is a multiple of"),
    ],
)
def test_sizes_that_a_network_cannot_have(shape, reason):
    with pytest.raises(FlagError, match=re.escape(reason)):
        build_model(arguments("--model=DeiT_tiny_patch16_224", f"--image_shape={shape}"))


def test_only_square_networks_ask_for_squares():
    args = argparse.Namespace(model="MobileNetV1_x0_25", class_dim=7, image_shape=[3, 32, 64], given={"image_shape"})
    assert build_model(args)(torch.zeros(1, 3, 32, 64)).shape == (1, 7)


# ----------------------------------------------------------------------------------------------------- stochastic depth


TRANSFORMER = "DeiT_tiny_distilled_patch16_224"


def rates(model: nn.Module) -> list[float]:
    return [module.p for module in model.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("name", [TRANSFORMER, "SwinTransformer_tiny_patch4_window7_224", "ConvNeXt_tiny"])
def test_drop_path_grows_linearly_with_depth(name):
    size = "--image_shape=3,32,32" if name == TRANSFORMER else "--class_dim=5"
    model = build_model(parse("train", [f"--model={name}", "--drop_path=0.33", size]))
    found = rates(model)
    np.testing.assert_allclose(found, np.linspace(0.0, 0.33, len(found)), atol=1e-12)
    assert len(found) == {TRANSFORMER: 12, "ConvNeXt_tiny": 18}.get(name, 12)


def test_the_networks_own_drop_path():
    flags = ["--model=DeiT_tiny_patch16_224", "--image_shape=3,32,32"]
    assert rates(build_model(parse("train", flags)))[-1] == pytest.approx(0.1)
    assert set(rates(build_model(parse("train", [*flags, "--drop_path=0"])))) == {0.0}


@pytest.mark.parametrize(
    ("name", "remedy"), [("ResNet18", "leave the flag out"), ("EfficientNetB0", "give --drop_connect_rate")]
)
def test_drop_path_of_a_network_without(name, remedy):
    args = parse("train", [f"--model={name}", "--drop_path=0.1"])
    with pytest.raises(FlagError, match=f"--drop_path: {name} drops no paths: {remedy}"):
        build_model(args)


def test_a_teacher_needs_no_drop_path():
    args = parse("train", ["--model=DeiT_tiny_patch16_224", "--image_shape=3,32,32", "--drop_path=0.1"])
    build_model(args, "MobileNetV1_x0_25")


# ---------------------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--optimizer=adamw", "--l2_decay=1e-4"], "--l2_decay does nothing here"),
        (["--weight_decay=0.1"], "--weight_decay does nothing here"),
        (["--min_lr=1e-5"], "--min_lr does nothing here"),
        (["--optimizer=adamw", "--weight_decay=0.1", "--lr_strategy=cosine_decay", "--min_lr=1e-5"], ""),
    ],
)
def test_flags_without_effect_are_named(flags, said, capsys):
    check_train_flags(parse("train", flags))
    warnings = capsys.readouterr().err
    assert said in warnings and warnings.count("\n") == bool(said)


def test_the_last_rate_is_not_above_the_first():
    with pytest.raises(FlagError, match=r"--min_lr 0.2 is above --lr 0.1"):
        check_train_flags(parse("train", ["--lr_strategy=cosine_decay", "--lr=0.1", "--min_lr=0.2"]))


@pytest.mark.parametrize("flag", ["use_compile", "fuse_elewise_add_act_ops", "fuse_bn_act_ops"])
def test_flags_that_compile(flag, monkeypatch):
    """They compile the network before its first step, and nothing else does."""
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: calls.append(module))
    for given in (f"--{flag}=False", f"--{flag}=True"):
        args = parse("train", [given, "--model=MobileNetV1_x0_25", "--class_dim=5"])
        model = network("MobileNetV1_x0_25")
        build_train_step(args, model, torch.device("cpu"))
    assert calls == [model]
