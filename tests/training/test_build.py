"""From flags to objects: the network and its input, and which flags do nothing or cannot go together."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from networks import network
from torch import nn

import train
from models.layers import DropPath
from utils.errors import FlagError
from utils.flags import parse
from utils.reading.build import eval_transform, train_transform
from utils.training.build import (
    build_schedule,
    build_train_step,
    check_train_flags,
    settle_total_images,
    settle_update_freq,
)
from utils.training.journal import shown_rate
from utils.weights.network import build_model, resolve_input

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


NOTED = {
    "image_shape": [3, 32, 32],
    "resize_short_size": 40,
    "interpolation": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "resize_mode": "crop",
    "resize_backend": "pil",
    "decode_backend": "pil",
    "channel_order": "bgr",
}


def test_input_of_the_training_counts_where_no_flag_is_given(capsys):
    words = ["--model=ResNet50", "--pretrained_model=best"]
    args = parse("infer", words)
    resolve_input(args, NOTED)
    assert {name: getattr(args, name) for name in NOTED} == NOTED
    assert capsys.readouterr().out == (
        "using the input that best was trained with: --image_shape 3 32 32, --resize_short_size 40, "
        "--interpolation 2, --image_mean 0.5 0.5 0.5, --image_std 0.25 0.25 0.25, --resize_mode crop, "
        "--resize_backend pil, --decode_backend pil, --channel_order bgr\n"
    )
    args = parse("infer", [*words, "--image_shape=3,64,64", "--interpolation=0", "--image_std=1,1,1"])
    resolve_input(args, NOTED)  # the crop keeps its share of the image, 32 / 40 of a side
    assert capsys.readouterr().out == (
        "using --resize_short_size 80 for --image_shape 3 64 64\n"
        "using the input that best was trained with: --image_mean 0.5 0.5 0.5, --resize_mode crop, "
        "--resize_backend pil, --decode_backend pil, --channel_order bgr\n"
    )
    assert (args.image_shape, args.resize_short_size, args.interpolation) == ([3, 64, 64], 80, 0)
    assert (args.image_mean, args.image_std) == ([0.5] * 3, [1, 1, 1])
    args = parse("infer", ["--model=DeiT_tiny_patch16_224", "--pretrained_model=best"])
    resolve_input(args, NOTED)
    assert build_model(args).pos_embed.shape[1] == 1 + (32 // 16) ** 2  # built for that size


def test_published_input_that_was_noted_is_not_worth_a_word(capsys):
    args = parse("infer", ["--model=ResNet50", "--pretrained_model=best"])
    resolve_input(args)
    usual = {name: getattr(args, name) for name in NOTED}
    args = parse("infer", ["--model=ResNet50", "--pretrained_model=best"])
    resolve_input(args, usual)
    assert {name: getattr(args, name) for name in NOTED} == usual and "image_shape" not in args.given
    assert capsys.readouterr().out == ""


def test_pixels_are_those_of_the_network():
    """What decodes and resizes, and the channels' order, unless a flag says otherwise."""
    flags = ("resize_mode", "resize_backend", "decode_backend", "channel_order")
    for name, values in (
        ("ResNet50", ("short", "cv2", "cv2", "rgb")),
        ("DeiT_tiny_patch16_224", ("short", "pil", "cv2", "rgb")),
        ("StarNet_S1", ("short", "pil", "pil", "rgb")),
        ("MobileViT_XS", ("short", "pil", "cv2", "bgr")),
        ("EfficientNetV2_S", ("crop", "cv2", "cv2", "rgb")),
    ):
        args = parse("train", [f"--model={name}"])
        resolve_input(args)
        assert tuple(getattr(args, flag) for flag in flags) == values
        transform = train_transform(args)
        assert tuple(getattr(transform, flag) for flag in flags) == values
        assert tuple(getattr(eval_transform(args), flag) for flag in flags) == values
    words = ["--resize_backend=cv2", "--channel_order=rgb", "--resize_mode=exact", "--decode_backend=pil"]
    args = parse("train", ["--model=MobileViT_XS", *words])
    resolve_input(args)
    assert tuple(getattr(args, flag) for flag in flags) == ("exact", "cv2", "pil", "rgb")


def test_a_short_side_for_what_the_shape_needs():
    words = ["--model=ResNet18", "--image_shape", "3", "32", "160"]
    args = parse("train", [*words, "--resize_short_size=32"])
    resolve_input(args)
    assert args.resize_short_size == 32
    # Not given, it is in proportion to the short side: photographs as long as the shape are not cut to a sixth.
    args = parse("train", words)
    resolve_input(args)
    assert args.resize_short_size == 37
    with pytest.raises(FlagError, match="--resize_short_size: 31 is smaller than the crop"):
        resolve_input(parse("train", [*words, "--resize_short_size=31"]))
    resolve_input(parse("train", [*words, "--resize_short_size=31", "--resize_mode=pad"]))


def test_masks_and_frames_are_grey_to_the_network():
    args = parse("train", ["--image_mean=0.2,0.4,0.6", "--channel_order=bgr", "--use_cutout=True"])
    transform = train_transform(args)
    assert transform.fill == transform.operations[0].fill == eval_transform(args).fill == (153, 102, 51)


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
    args = parse("infer", ["--pretrained_model=x", "--image_path=x", "--class_dim=7", *words])
    resolve_input(args)
    return args


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("3,224,256", "--image_shape: DeiT_tiny_patch16_224 takes square images only, not 224 x 256"),
        ("3,100,100", "--image_shape: a transformer with patches of 16 x 16 takes images whose size is a multiple of"),
    ],
)
def test_sizes_that_a_network_cannot_have(shape, reason):
    with pytest.raises(FlagError, match=re.escape(reason)):
        build_model(arguments("--model=DeiT_tiny_patch16_224", f"--image_shape={shape}"))


def test_only_square_networks_ask_for_squares():
    args = arguments("--model=MobileNetV1_x0_25", "--image_shape=3,32,64")
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
    ("name", "remedy"),
    [
        ("ResNet18", "has no stochastic depth: leave the flag out"),
        ("EfficientNetB0", "has --drop_connect_rate instead: give that"),
    ],
)
def test_drop_path_of_a_network_without(name, remedy):
    args = parse("train", [f"--model={name}", "--drop_path=0.1"])
    with pytest.raises(FlagError, match=f"--drop_path: {name} {remedy}"):
        build_model(args)


def test_a_teacher_needs_no_drop_path():
    args = parse("train", ["--model=DeiT_tiny_patch16_224", "--image_shape=3,32,32", "--drop_path=0.1"])
    build_model(args, "MobileNetV1_x0_25")


# ---------------------------------------------------------------------------------------------------------------- flags


def test_the_last_rate_is_not_above_the_first():
    with pytest.raises(FlagError, match=r"--min_lr 0.2 is above --lr 0.1"):
        check_train_flags(parse("train", ["--lr_strategy=cosine_decay", "--lr=0.1", "--min_lr=0.2"]))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--lr_strategy=cosine_decay_warmup", "--num_epochs=5"],
            "--warm_up_epochs 5 does not end within --num_epochs 5",
        ),
        (
            ["--lr_strategy=exponential_decay_warmup", "--num_epochs=2", "--warm_up_epochs=2.5"],
            "--lr 0.1 is never reached",
        ),
        (["--lr_strategy=cosine_decay_warmup", "--num_epochs=6"], ""),
        (["--lr_strategy=cosine_decay", "--num_epochs=5"], ""),
        (["--num_epochs=2"], "--lr 0.1 never decays within --num_epochs 2: --step_epochs 30 is not reached"),
        (["--step_epochs", "30", "60", "--num_epochs=60"], "--step_epochs 60 is not reached within --num_epochs 60"),
        (["--num_epochs=31"], ""),
        (["--lr_strategy=exponential_decay_warmup", "--num_epochs=7"], "never decays within --num_epochs 7"),
        (["--lr_strategy=exponential_decay_warmup", "--num_epochs=8"], ""),
        (["--lr_strategy=cosine_decay", "--num_epochs=1"], "--lr_strategy=linear_decay changes every step"),
    ],
)
def test_a_schedule_that_does_not_act_within_the_run(flags, said, capsys):
    args = parse("train", flags)
    check_train_flags(args)
    warnings = capsys.readouterr().err
    assert said in warnings and warnings.count("\n") == bool(said)
    # What is said of the decay is what the schedule does.
    schedule = dataclasses.replace(build_schedule(args), steps_per_epoch=100)
    decays = schedule(100 * args.num_epochs - 1) < args.lr
    assert decays == ("never decays" not in warnings)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lr=10", "--l2_decay=0.1"], "--l2_decay 0.1 at --lr 10 reduces weights to 0 or beyond"),
        (["--optimizer=adamw", "--weight_decay=10"], "--weight_decay 10 at --lr 0.1 reduces weights to 0"),
        (["--accumulate_steps=9"], "--accumulate_steps 9 is more than the images in a batch"),
    ],
)
def test_numbers_that_only_together_are_out_of_their_unit(flags, said):
    with pytest.raises(FlagError, match=said):
        check_train_flags(parse("train", flags))


def test_cutout_of_whole_images():
    args = parse("train", ["--image_shape=3,32,48", "--use_cutout=True", "--interpolation=1"])
    with pytest.raises(
        FlagError, match="--cutout_length 112 hides whole images of 32 x 48: lower it, for example to 16"
    ):
        train_transform(args)


def test_a_flag_of_the_student_alone_is_not_missed_in_its_teacher(capsys):
    args = parse("train", ["--model=EfficientNetB0", "--drop_connect_rate=0.1", "--class_dim=5"])
    with torch.device("meta"):
        build_model(args)
        build_model(args, "MobileNetV1_x0_25")
        assert capsys.readouterr().err == ""
        args.model = "MobileNetV1_x0_25"
        build_model(args)
    assert capsys.readouterr().err.startswith("warning: --drop_connect_rate has no effect: MobileNetV1_x0_25 has no")


@pytest.mark.parametrize("flag", ["use_compile", "fuse_elewise_add_act_ops", "fuse_bn_act_ops"])
def test_no_checkpointing_in_a_compiled_network(flag):
    with pytest.raises(
        FlagError, match=r"--with_mem_opt does not work in a compiled network: leave it out, or --use_compile"
    ):
        check_train_flags(parse("train", [f"--{flag}=True", "--with_mem_opt=True"]))
    check_train_flags(parse("train", [f"--{flag}=False", "--with_mem_opt=True"]))


@pytest.mark.parametrize("flag", ["use_compile", "fuse_elewise_add_act_ops", "fuse_bn_act_ops"])
def test_flags_that_compile(flag, monkeypatch):
    """They compile the network before its first step, for this processor, and nothing else does."""
    calls = []
    monkeypatch.setattr("utils.training.build.keep_compiled_code_by_processor", lambda: calls.append("apart"))
    monkeypatch.setattr(nn.Module, "compile", lambda module: calls.append(module))
    for given in (f"--{flag}=False", f"--{flag}=True"):
        args = parse("train", [given, "--model=MobileNetV1_x0_25", "--class_dim=5"])
        model = network("MobileNetV1_x0_25")
        build_train_step(args, model, torch.device("cpu"))
    assert calls == ["apart", model]


# ------------------------------------------------------------------------------------------------------- the schedule


@pytest.mark.parametrize(
    ("words", "images", "steps"),
    [
        (["--batch_size=32"], 48, 1),  # as an epoch of the reader
        (["--batch_size=16"], 48, 3),
        (["--batch_size=32", "--total_images=48"], 48, 2),  # the original's
        (["--batch_size=8", "--total_images=30"], 48, 4),
        (["--batch_size=256"], 1281167, 5005),
    ],
)
def test_steps_of_an_epoch_of_the_schedule(words, images, steps):
    args = parse("train", words)
    settle_total_images(args, images)
    assert build_schedule(args).steps_per_epoch == steps


def test_a_total_of_other_data_is_named(capsys):
    settle_total_images(parse("train", ["--total_images=1281167"]), 48)
    assert "--total_images 1281167 sets the schedule's epochs" in capsys.readouterr().err
    settle_total_images(parse("train", ["--total_images=1281167"]), 1281166)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("rate", "shown"), [(0.1, "0.10000"), (0.0, "0.00000"), (4e-6, "4e-06"), (0.00056789, "0.0005679")]
)
def test_small_rates_keep_their_figures(rate, shown):
    assert shown_rate(rate) == shown


def test_layer_decay_needs_layers():
    args = parse("train", ["--model=MobileNetV1_x0_25", "--class_dim=4", "--optimizer=adamw", "--layer_decay=0.65"])
    with pytest.raises(
        FlagError, match=r"^--layer_decay: MobileNetV1Net does not number its layers: leave the flag out"
    ):
        build_train_step(args, build_model(args), torch.device("cpu"))


def test_an_epoch_of_the_schedule_has_the_smaller_batch():
    args = parse("train", ["--batch_size=16", "--drop_last=False"])
    settle_total_images(args, 50)
    assert build_schedule(args).steps_per_epoch == 4


def test_epochs_that_are_validated():
    args = parse("train", ["--num_epochs=8", "--eval_interval=3", "--start_eval_epoch=4"])
    assert [epoch for epoch in range(8) if train.is_validated(args, epoch)] == [5, 7]
    args = parse("train", ["--num_epochs=3"])
    assert [epoch for epoch in range(3) if train.is_validated(args, epoch)] == [0, 1, 2]


def test_batches_whose_gradients_are_averaged(capsys):
    args = parse("train", ["--batch_size=32", "--update_freq=4", "--accumulate_steps=2"])
    settle_update_freq(args)
    assert (args.batch_size, args.accumulate_steps, args.update_freq) == (128, 8, 1)
    assert "--update_freq 4: --batch_size=128 in --accumulate_steps=8 parts" in capsys.readouterr().out
