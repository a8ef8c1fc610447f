"""Flags that do nothing with the others given are named, and no others are."""

from __future__ import annotations

import os
import re

import pytest

from utils import PIXELS_VARIABLE
from utils.flags import parse
from utils.flags.idle import CONDITIONS, OTHER_USES, note_idle_flags

ADAMW, ADAM = "--optimizer=adamw", "--lr_strategy=adam_decay"
TEACHER = "--use_distill=True"
WORDS = "--train_transforms=random_resized_crop"

# A flag of train.py, what makes it idle, what gives it an effect.
CASES = [
    ("--use_gpu=True", ["--device=cpu"], []),
    ("--min_lr=1e-5", [], ["--lr_strategy=cosine_decay"]),
    ("--step_epochs=3", ["--lr_strategy=cosine_decay"], []),
    ("--warm_up_epochs=2", ["--lr_strategy=cosine_decay"], ["--lr_strategy=cosine_decay_warmup"]),
    ("--warm_up_epochs=2", [], ["--lr_strategy=exponential_decay_warmup"]),
    ("--decay_epochs=2", ["--lr_strategy=cosine_decay_warmup"], ["--lr_strategy=exponential_decay_warmup"]),
    ("--decay_rate=0.9", [], ["--lr_strategy=exponential_decay_warmup"]),
    ("--plateau_patience=3", [], ["--lr_strategy=reduce_on_plateau"]),
    ("--plateau_threshold=0.1", [], ["--lr_strategy=reduce_on_plateau"]),
    ("--plateau_absolute=True", [], ["--lr_strategy=reduce_on_plateau"]),
    ("--plateau_cooldown=1", [], ["--lr_strategy=reduce_on_plateau"]),
    ("--plateau_mode=min", [], ["--lr_strategy=reduce_on_plateau"]),
    ("--total_images=100", ["--lr_strategy=default_decay"], []),
    ("--total_images=100", ["--multi_scale=64"], []),
    ("--multi_scale_factor=16", [], ["--multi_scale=64"]),
    ("--l1_decay=1e-4", [ADAMW], []),
    ("--l2_decay=1e-4", [ADAMW], []),
    ("--l2_decay=1e-4", [ADAM], [ADAM, "--optimizer=momentum"]),
    ("--momentum_rate=0.8", [ADAM], []),
    ("--momentum_rate=0.8", [ADAM, ADAMW], []),
    ("--weight_decay=0.1", [], [ADAMW]),
    ("--layer_decay=0.65", [], [ADAMW]),
    ("--warm_up_start_lr=1e-6", [], ["--lr_strategy=cosine"]),
    ("--lr_by_epoch=True", [], ["--lr_strategy=step"]),
    ("--lr_values=0.1,0.01", [], ["--lr_strategy=piecewise"]),
    ("--lr_power=2", [], ["--lr_strategy=linear"]),
    ("--lr_cycle=True", ["--lr_strategy=cosine"], ["--lr_strategy=linear"]),
    ("--decay_epochs=2", ["--lr_strategy=multi_step"], ["--lr_strategy=step"]),
    ("--nesterov=True", [ADAMW], []),
    ("--adam_betas=0.9,0.95", [], [ADAM]),
    ("--optimizer_epsilon=1e-6", [], ["--optimizer=rmsprop"]),
    ("--rmsprop_rho=0.9", [], ["--optimizer=rmsprop"]),
    ("--momentum_rate=0.8", ["--optimizer=sgd"], ["--optimizer=rmsprop"]),
    ("--ema_warm_up=True", [], ["--use_ema=True"]),
    ("--mixup_alpha=0.2", [], ["--use_mixup=True"]),
    ("--cutmix_alpha=0.2", ["--use_mixup=True"], ["--use_cutmix=True"]),
    ("--ra_num_ops=3", [], ["--use_ra=True"]),
    ("--ra_magnitude=3", ["--use_aa=True"], ["--use_ra=True"]),
    ("--cutout_length=16", [], ["--use_cutout=True"]),
    ("--resize_short_size=80", ["--resize_mode=pad"], ["--resize_mode=crop"]),
    ("--test_batch_size=8", ["--validate=False"], []),
    ("--amp_dtype=bfloat16", [], ["--use_fp16=True"]),
    ("--use_fp16_test=True", [], ["--use_fp16=True"]),
    ("--scale_loss=128", [], ["--use_fp16=True"]),
    ("--scale_loss=128", ["--use_fp16=True", "--amp_dtype=bfloat16"], ["--use_fp16=True", "--amp_dtype=float16"]),
    ("--use_dynamic_loss_scaling=True", [], ["--use_fp16=True"]),
    ("--start_epoch=3", ["--checkpoint=auto"], ["--checkpoint=output/ResNet50/2"]),
    ("--label_smoothing_epsilon=0.2", [], ["--use_label_smoothing=True"]),
    ("--use_label_smoothing=True", [TEACHER, "--distill_loss=js"], [TEACHER]),
    ("--class_weights=sqrt", [TEACHER, "--distill_loss=js"], [TEACHER]),
    ("--focal_gamma=2", [TEACHER, "--distill_loss=js"], [TEACHER]),
    ("--effective_beta=0.9", ["--class_weights=sqrt"], ["--class_weights=effective"]),
    ("--ema_decay=0.9", [], ["--use_ema=True"]),
    ("--teacher_model=ResNet50", [], [TEACHER]),
    ("--teacher_pretrained_model=w", [], [TEACHER]),
    ("--teacher_learns=True", [], [TEACHER]),
    ("--teacher_strides=2,2,2,2,2", [], [TEACHER]),
    ("--distill_loss=soft", [], [TEACHER]),
    ("--distill_temperature=2", [], [TEACHER]),
    ("--distill_weight=0.2", [TEACHER, "--distill_loss=js"], [TEACHER]),
    ("--distill_temperature=2", [TEACHER, "--distill_loss=kl:temperature=4"], [TEACHER]),
    ("--profiler_path=x", [], ["--is_profiler=True"]),
    ("--label_weights_by_ratio=True", [], ["--multi_label=True"]),
    ("--sum_over_labels=True", [], ["--multi_label=True"]),
    ("--threshold=0.4", [], ["--multi_label=True"]),
    ("--lower_scale=0.2", [WORDS], []),
    ("--lower_ratio=0.5", [WORDS], []),
    ("--upper_ratio=2", [WORDS], []),
    ("--flip_prob=0.2", [WORDS], []),
    ("--vertical_flip_prob=0.2", [WORDS], []),
    ("--use_aa=True", [WORDS], []),
    ("--use_ra=True", [WORDS], []),
    ("--random_rotation=10", [WORDS], []),
    ("--color_jitter=0.4", [WORDS], []),
    ("--use_cutout=True", [WORDS], []),
    ("--random_erasing=0.2", [WORDS], []),
    ("--use_hide_and_seek=True", [WORDS], []),
    ("--use_gridmask=True", [WORDS], []),
    ("--mixup_prob=0.2", [], ["--use_mixup=True"]),
    ("--cutmix_prob=0.2", [], ["--use_cutmix=True"]),
    ("--best_metric=acc1", ["--validate=False"], []),
    ("--eval_interval=2", ["--validate=False"], []),
    ("--start_eval_epoch=2", ["--validate=False"], []),
    ("--eval_topk=2", ["--multi_label=True"], []),
    ("--max_image_pixels=9", ["--use_dali=True"], []),
    ("--cache_dir=x", [], ["--data_dir=s3://bucket/set"]),
    ("--cache_dir=x", [], ["--val_dir=s3://bucket/set"]),
    ("--cache_size=9", [], ["--cache_dir=x", "--data_dir=s3://bucket/set"]),
]
OTHERS = [
    ("eval", "--with_mem_opt=True", []),
    ("eval", "--engine=pytorch", ["--model_file=m"]),
    ("eval", "--params_file=p", ["--model_file=m"]),
    ("eval", "--output_name=o", ["--model_file=m"]),
    ("predict", "--resume=True", ["--save_json_path=x"]),
    ("infer", "--with_mem_opt=True", []),
    ("eval", "--crop_sweep_path=x", ["--crop_sweep=32:64:32"]),
    ("eval", "--report_against=x.html", ["--report=x.html"]),
    ("eval", "--report_duplicates=True", ["--report=x.html"]),
    ("reader", "--check_path=x.csv", ["--check"]),
    ("reader", "--group_duplicates=True", ["--split=0.2"]),
    ("infer", "--inference_format=onnx", ["--save_inference=True"]),
    ("infer", "--calibration_images=9", ["--calibration_dir=x"]),
    ("reader", "--mixup_alpha=0.2", ["--use_mixup=True", "--show=x.png"]),
    ("infer", "--onnx_opset=13", ["--save_inference=True", "--inference_format=onnx"]),
    ("infer", "--onnx_external_data=True", ["--save_inference=True", "--inference_format=onnx"]),
    ("convert_model", "--batch_size=9", ["--calibration_dir=x", "--inference_format=onnx"]),
    ("convert_model", "--reader_thread=2", ["--calibration_dir=x", "--inference_format=onnx"]),
    ("convert_model", "--reader_buf_size=9", ["--calibration_dir=x", "--inference_format=onnx"]),
    ("convert_model", "--max_image_pixels=9", ["--calibration_dir=x", "--inference_format=onnx"]),
]
REQUIRED = {
    "predict": ["--model_file=m", "--image_path=i"],
    "infer": ["--pretrained_model=w"],
    "convert_model": ["--model_file=m", "--output=o"],
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """--max_image_pixels sets a variable, which later processes would inherit."""
    monkeypatch.setenv(PIXELS_VARIABLE, os.environ[PIXELS_VARIABLE])


def named(capsys, script, words) -> list[str]:
    """The flags that are said to do nothing."""
    note_idle_flags(parse(script, [*words, *REQUIRED.get(script, [])]))
    lines = capsys.readouterr().err.splitlines()
    found = [re.fullmatch(r"warning: --(\w+) has no effect: [^{}]+", line) for line in lines]
    assert all(found), lines
    return [match[1] for match in found]


@pytest.mark.parametrize(("flag", "idle", "active"), CASES, ids=str)
def test_a_flag_without_effect_is_named_once(flag, idle, active, capsys):
    name = flag.removeprefix("--").split("=")[0]
    assert named(capsys, "train", [flag, *idle]) == [name]
    assert named(capsys, "train", [flag, *active]) == []


@pytest.mark.parametrize(("script", "flag", "active"), OTHERS, ids=str)
def test_flags_of_other_scripts(script, flag, active, capsys):
    assert named(capsys, script, [flag]) == [flag.removeprefix("--").split("=")[0]]
    if active:
        assert named(capsys, script, [flag, *active]) == []


EXPORT, FEATURES, EXPORTED = "--save_inference=True", "--features_path=x.npy", "--model_file=m"
# A script, flags of one use of it, what makes them idle, what gives them an effect.
USES = [
    ("infer", "image_path=x save_json_path=x resume topk=2 attributes=person", EXPORT, ""),
    ("infer", "data_dir=x", EXPORT, ""),
    ("infer", "features_path=x.npy", EXPORT, ""),
    ("infer", "vis_dir=x grad_cam", EXPORT, ""),
    ("infer", "use_gpu", EXPORT, ""),
    ("infer", "device=cuda", EXPORT, ""),
    (
        "infer",
        "batch_size=4 reader_thread=2 reader_buf_size=9 max_image_pixels=9",
        EXPORT,
        EXPORT + " --calibration_dir=x",
    ),
    ("infer", "save_inference_dir=x", "", EXPORT),
    ("infer", "data_dir=x", "--image_path=x", ""),
    ("infer", "save_json_path=x topk=2 class_names=a,b class_map_path=x threshold=0.4", FEATURES, ""),
    ("infer", "multi_label attributes=person", FEATURES, ""),
    ("predict", "save_json_path=x attributes=person", FEATURES, ""),
    ("predict", "topk=2 class_map_path=x", FEATURES, f"{FEATURES} --serve_port=0"),
    ("predict", "topk=2 class_names=a,b class_map_path=x threshold=0.4", "--score_decimals=3", ""),
    ("predict", "multi_label attributes=person", "--score_decimals=3", ""),
    (
        "eval",
        "model=ResNet50 class_dim=9 pretrained_key=x strides=2,2,2,2,2 use_last_conv class_expand=9",
        EXPORTED,
        "",
    ),
    ("eval", "padding_type=SAME use_se deploy with_inplace", EXPORTED, ""),
    ("eval", "class_map_path=x", "", "--report=x.html"),
    ("train", "skip_misfits pretrained_key=x", "", "--pretrained_model=x"),
    ("train", "val_dir=x val_list=x use_fp16_test", "--validate=False --use_fp16", "--use_fp16"),
    (
        "reader",
        "batch_size=4 balance_classes=sqrt channel_order=bgr image_mean=0,0,0 image_std=1,1,1",
        "--check",
        "--show=x.png",
    ),
    ("reader", "interpolation=2 resize_backend=pil use_cutmix use_mixup use_dali", "--split=0.2", "--show=x.png"),
    ("reader", "multi_scale=32 train_transforms=flip", "--check", "--show=x.png"),
    (
        "reader",
        "progressive_sizes=32,64 lower_scale=0.2 lower_ratio=0.5 upper_ratio=2 flip_prob=0.2",
        "--check",
        "--show=x.png",
    ),
    ("reader", "vertical_flip_prob=0.2 use_aa use_ra random_rotation=9 color_jitter=0.4", "--check", "--show=x.png"),
    ("reader", "use_cutout random_erasing=0.2 use_hide_and_seek use_gridmask", "--check", "--show=x.png"),
    ("reader", "val_dir=x val_list=x", "--show=x.png", "--check"),
    ("reader", "class_dim=9 class_map_path=x image_shape=3,9,9 list_delimiter=, multi_label", "--split=0.2", "--check"),
    ("reader", "resize_mode=pad train_list=x unlabeled_list=x label_from=blur", "--split=0.2", "--check"),
]


@pytest.mark.parametrize(("script", "flags", "idle", "active"), USES, ids=str)
def test_flags_of_another_use_of_the_script(script, flags, idle, active, capsys):
    words, names = [f"--{flag}" for flag in flags.split()], {flag.split("=")[0] for flag in flags.split()}
    assert names <= set(named(capsys, script, [*words, *idle.split()]))
    assert not names & set(named(capsys, script, [*words, *active.split()]))


def test_the_device_counts_for_more_than_a_number_of_a_gpu(capsys):
    assert named(capsys, "predict", ["--gpu_mem=9"]) == []
    assert named(capsys, "predict", ["--gpu_mem=9", "--gpu_id=-1"]) == ["gpu_mem"]
    assert named(capsys, "predict", ["--gpu_mem=9", "--device=cpu"]) == ["gpu_mem"]
    assert named(capsys, "predict", ["--gpu_id=0"]) == []
    assert named(capsys, "predict", ["--gpu_id=0", "--device=cpu"]) == ["gpu_id"]


SERVER = ["serve_host", "serve_wait", "serve_requests", "serve_images", "serve_megabytes"]
LISTS = ["image_path", "save_json_path", "features_path", "resume", "reader_buf_size"]


def test_a_server_reads_no_list(capsys):
    server, lists = ([f"--{name}=1" for name in names] for names in (SERVER, LISTS))
    assert named(capsys, "predict", [*server, *lists]) == [*SERVER, "save_json_path"]  # features_path replaces it
    assert named(capsys, "predict", [*server, *lists, "--serve_port=0"]) == LISTS


def test_predict_has_none_of_the_others(capsys):
    words = ["--use_fp16=True", "--topk=3", "--batch_size=4", "--reader_thread=1", "--threshold=0.4"]
    assert named(capsys, "predict", words) == []


def test_statistics_over_one_process(capsys, monkeypatch):
    assert named(capsys, "train", ["--sync_bn=True", "--fsdp=True"]) == ["sync_bn", "fsdp"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert named(capsys, "train", ["--sync_bn=True", "--fsdp=True"]) == []


def test_an_export_is_in_float32(capsys):
    assert named(capsys, "infer", ["--save_inference=True", "--use_fp16=True"]) == ["use_fp16"]
    assert named(capsys, "infer", ["--use_fp16=True", "--amp_dtype=bfloat16"]) == []


def test_what_was_not_given_or_is_off_is_not_named(capsys):
    assert named(capsys, "train", []) == []
    assert named(capsys, "train", ["--sync_bn=False", "--use_dynamic_loss_scaling=False", "--with_mem_opt=True"]) == []


def test_the_number_of_labels_is_not_asked_for(capsys):
    assert named(capsys, "infer", ["--topk=2", "--multi_label=True"]) == ["topk"]
    assert named(capsys, "infer", ["--topk=2", "--threshold=0.4"]) == []


def test_every_condition_is_tested():
    tested = {flag.removeprefix("--").split("=")[0] for flag in (*(c[0] for c in CASES), *(o[1] for o in OTHERS))}
    assert {name for names, *_ in CONDITIONS for name in names} == tested | set(SERVER + LISTS) | {
        "sync_bn",
        "fsdp",
        "use_fp16",
        "topk",
        "gpu_id",
        "gpu_mem",
    }
    tested = {flag.split("=")[0] for _, flags, *_ in USES for flag in flags.split()}
    assert {name for names, *_ in OTHER_USES for name in names} == tested
