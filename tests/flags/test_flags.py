"""The flags that users' scripts rely on: names, older spellings, defaults, ways of writing values, refusals."""

import os
import subprocess
import sys

import pytest

from utils.flags import parse
from utils.flags.table import GROUPS

# Name -> default, as published; defaults of eval.py and infer.py where they differ.
TRAIN = {
    "use_gpu": True, "data_dir": "./data/ILSVRC2012/", "model_save_dir": "./output", "pretrained_model": None,
    "finetune_exclude_pretrained_params": None, "checkpoint": None, "print_step": 10, "save_step": 1,
    "model": "ResNet50", "total_images": 1281167, "class_dim": 1000, "image_shape": [3, 224, 224], "num_epochs": 120,
    "batch_size": 8, "test_batch_size": 16, "lr": 0.1, "lr_strategy": "piecewise_decay", "l2_decay": 1e-4,
    "momentum_rate": 0.9, "step_epochs": [30, 60, 90], "warm_up_epochs": 5.0, "decay_epochs": 2.4, "decay_rate": 0.97,
    "drop_connect_rate": 0.2, "padding_type": "SAME", "use_se": True, "use_dali": False, "lower_scale": 0.08,
    "lower_ratio": 3 / 4, "upper_ratio": 4 / 3, "resize_short_size": 256, "use_mixup": False, "mixup_alpha": 0.2,
    "use_aa": False, "reader_thread": 8, "reader_buf_size": 2048, "interpolation": None,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "validate": True, "use_fp16": False,
    "scale_loss": 1.0, "use_dynamic_loss_scaling": True, "data_format": "NCHW", "fuse_elewise_add_act_ops": False,
    "fuse_bn_act_ops": False, "use_label_smoothing": False, "label_smoothing_epsilon": 0.1, "use_ema": False,
    "ema_decay": 0.9999, "with_mem_opt": False, "with_inplace": True, "use_distill": False, "enable_ce": False,
    "random_seed": None, "is_profiler": False, "profiler_path": "./profiler_path/", "max_iter": 0, "same_feed": 0,
}  # fmt: skip
SHARED = (
    "use_gpu", "model", "class_dim", "image_shape", "padding_type", "use_se", "resize_short_size", "reader_buf_size",
    "interpolation", "image_mean", "image_std", "with_mem_opt", "with_inplace",
)  # fmt: skip
SHARED_DEFAULTS = {name: TRAIN[name] for name in SHARED}
EVAL = {
    **SHARED_DEFAULTS,
    "data_dir": "./data/ILSVRC2012/",
    "print_step": 1,
    "batch_size": 256,
    "deploy": False,
    "reader_thread": 8,
    "same_feed": 0,
    "save_json_path": None,
}
INFER = {
    **SHARED_DEFAULTS,
    "data_dir": "./data/ILSVRC2012/val/",
    "batch_size": 8,
    "reader_thread": 1,
    "save_inference": False,
    "topk": 1,
    "class_map_path": "./utils/tools/readable_label.txt",
    "image_path": None,
    "save_json_path": "test_res.json",
}
# The original's gpu_mem of 2000 was no limit: it took more where it had to.
PREDICT = {"gpu_id": 0}
REQUIRED = {
    "train": [],
    "eval": ["--pretrained_model=w"],
    "infer": ["--pretrained_model=w"],
    "predict": ["--model_file=m", "--params_file=p", "--image_path=i"],
    "ema_clean": ["--ema_model_dir=a", "--cleaned_model_dir=b"],
}


@pytest.mark.parametrize(
    ("script", "defaults"),
    [("train", TRAIN), ("eval", EVAL), ("infer", INFER), ("predict", PREDICT), ("ema_clean", {})],
)
def test_published_flags_have_their_published_defaults(script, defaults):
    args = vars(parse(script, REQUIRED[script]))
    assert {name: args[name] for name in defaults} == defaults


@pytest.mark.parametrize("word", ["True", "true", "1", "yes", "on"])
def test_words_for_true(word):
    assert parse("train", [f"--use_mixup={word}"]).use_mixup is True
    assert parse("train", ["--use_mixup", word]).use_mixup is True


@pytest.mark.parametrize("word", ["False", "false", "0", "no", "off"])
def test_words_for_false(word):
    assert parse("train", [f"--validate={word}"]).validate is False


@pytest.mark.parametrize("words", [["--image_shape", "3", "32", "48"], ["--image_shape=3,32,48"]])
def test_lists_take_spaces_and_commas(words):
    assert parse("train", words).image_shape == [3, 32, 48]


@pytest.mark.parametrize(
    ("old", "new"), [("fp16", "use_fp16"), ("is_distill", "use_distill"), ("profilier_path", "profiler_path")]
)
def test_older_spellings(old, new):
    value = "True" if old != "profilier_path" else "True/"
    args = parse("train", [f"--{old}={value}"])
    assert getattr(args, new) in (True, "True/")
    assert args.given == {new}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--use_mixup"], "use_mixup", True),
        (["--use_mixup", "--lr=0.1"], "use_mixup", True),
        (["--image_shape=[3,224,224]"], "image_shape", [3, 224, 224]),
        (["--step_epochs", "(30,", "60)"], "step_epochs", [30, 60]),
        (["--class_names", "(a)"], "class_names", ["(a)"]),
        (["--optimizer=AdamW"], "optimizer", "adamw"),
        (["--interpolation=bicubic"], "interpolation", 2),
        (["--data_dir=~/data"], "data_dir", os.path.expanduser("~/data")),
        (["--model_save_dir=./~/runs"], "model_save_dir", "./~/runs"),
    ],
)
def test_values_written_as_elsewhere(words, name, value):
    script = "infer" if name == "class_names" else "train"
    assert getattr(parse(script, [*REQUIRED[script], *words]), name) == value


def test_the_last_of_two_equal_flags_wins():
    assert parse("train", ["--lr=0.1", "--lr=0.2"]).lr == 0.2


def test_given_names_what_was_typed():
    assert parse("train", ["--use_gpu=True", "--lr=0.1"]).given == {"use_gpu", "lr"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lrr=1"], "--lrr: did you mean --lr?"),
        (["resnet"], "'resnet'"),
        (["--use_mixup=maybe"], "--use_mixup: 'maybe' is not a boolean"),
        (["--image_shape=3,224"], "--image_shape takes 3 values, got 2"),
        (["--class_dim=1"], "--class_dim: 1 is not allowed: it must be a whole number at least 2"),
        (["--lr=0"], "--lr: 0 is not allowed"),
        (["--lr=nan"], "--lr: nan is not allowed"),
        (["--batch_size=2.5"], "--batch_size: '2.5' is not a whole number"),
        (["--padding_type=full"], "--padding_type: 'full' is not one of SAME, VALID, DYNAMIC"),
        (["--lr", "=", "0.1"], "--lr: write --lr=VALUE, without blanks beside the ="),
        (["--lr=0,1"], "--lr: '0,1' is not a number above 0: write it with a point, and without commas"),
        (["--image_shape=224x224"], "--image_shape takes 3 values, got 1: 224x224, such as 3 224 224"),
        (["--interpolation=cubic"], "at most 4 (or nearest, bilinear, bicubic, area, lanczos)"),
        (["--device=0,1"], "start a process for each GPU, python -m torch.distributed.run"),
        (["--label_smoothing_epsilon=1.5"], "--label_smoothing_epsilon: 1.5 is not allowed"),
        (
            ["--label_smoothing_epsilon=1"],
            "--label_smoothing_epsilon: 1 is not allowed: it must be a number at least 0",
        ),
        (["--momentum_rate=1"], "--momentum_rate: 1 is not allowed: it must be a number at least 0 and below 1"),
        (["--decay_rate=1.01"], "--decay_rate: 1.01 is not allowed: it must be a number above 0 and at most 1"),
        (["--lower_ratio=75"], "--lower_ratio: 75 is not allowed"),
        (["--color_jitter=40"], "--color_jitter: 40 is not allowed"),
        (["--mixup_alpha=1e308"], "--mixup_alpha: 1e308 is not allowed"),
        (["--ra_num_ops=1000000000"], "--ra_num_ops: 1000000000 is not allowed"),
        (["--distill_temperature=1e-9"], "--distill_temperature: 1e-9 is not allowed"),
        (["--image_mean", "123.675", "116.28", "103.53"], "divide all values by 255, which gives 0.485"),
        (
            ["--image_mean=0.5,0.5,-0.5"],
            "--image_mean: -0.5 is not allowed: it must be a number at least 0 and at most 1",
        ),
        (["--image_std=58.395,57.12,57.375"], "divide all values by 255, which gives 0.229"),
        (["--image_std=1e3,1,1"], "--image_std: 1e3 is not allowed: it must be a number above 0 and at most 2"),
        (["--lr"], "--lr"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_code_2(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("train", words)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("script", ["infer", "predict", "ema_clean"])  # eval.py takes an exported network instead
def test_what_is_required(script, capsys):
    for missing in REQUIRED[script]:
        if missing.startswith(("--params_file", "--image_path")):
            continue  # predict.py looks beside the model, and may answer requests instead
        with pytest.raises(SystemExit):
            parse(script, [word for word in REQUIRED[script] if word != missing])
        assert f"{missing.split('=')[0]} is required" in capsys.readouterr().err


def test_no_name_is_declared_twice():
    for script in REQUIRED:
        names = [n for g in GROUPS.values() for f in g if script in f.scripts for n in (f.name, *f.aliases)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("script", REQUIRED)
def test_help_needs_no_pytorch(script):
    code = f"import sys; sys.argv = ['{script}.py', '--help']; import runpy\n"
    code += f"try: runpy.run_path('{script}.py', run_name='__main__')\n"
    code += "except SystemExit as stopped: assert not stopped.code\n"
    code += "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_what_was_typed_is_not_changed():
    args = parse("eval", ["--pretrained_model=w", "--image_shape=3,32,32"])
    for name in ("given", "script", "typed"):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(args, name, frozenset())
    args.image_shape = [3, 64, 64]
    assert args.given == {"pretrained_model", "image_shape"} and args.script == "eval"


def test_flags_of_other_scripts_hold_their_defaults():
    args = parse("eval", ["--pretrained_model=w"])
    assert args.use_fp16 is False and args.with_inplace is True and "use_ema" not in args.values()
