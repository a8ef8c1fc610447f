"""Flags as users of other programs type them, and --device."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from utils import devices
from utils.devices import choose_device
from utils.errors import FlagError
from utils.flags import habits, parse
from utils.flags.table import GROUPS, SCRIPTS, flags_of

REQUIRED = {"infer": ["--pretrained_model=w"], "predict": ["--model_file=m", "--image_path=i"]}
NAMES = {flag.name for flags in GROUPS.values() for flag in flags} | {"config", "override"}


@pytest.mark.parametrize(
    ("script", "word", "said"),
    [
        ("train", "--num_classes=10", "unknown flag --num_classes: use --class_dim"),
        ("train", "--arch=resnet50", "unknown flag --arch: use --model"),
        ("train", "--img-size=224", "unknown flag --img-size: use --image_shape"),
        ("train", "--batch-size=8", "unknown flag --batch-size: use --batch_size"),
        ("train", "--seed=1", "use --random_seed"),
        ("train", "--workers=1", "use --reader_thread"),
        ("train", "-j", "use --reader_thread"),
        ("train", "--output=x", "use --model_save_dir"),
        ("infer", "--output=x", "use --save_json_path"),
        ("train", "--resume=x", "use --checkpoint"),
        ("train", "--epochs=3", "use --num_epochs"),
        ("train", "--pretrained", "use --pretrained_model"),
        ("train", "--patience=3", "use --early_stop"),
        ("infer", "--source=x", "use --image_path"),
        ("predict", "--use_gpu=1", "use --device"),
        ("convert_weights", "--device=cpu", "this script computes on the CPU"),
        ("train", "--lrr=1", "did you mean --lr?"),
        ("train", "resnet50", "(--data_dir=FOLDER for a dataset)"),
        ("predict", "b.jpg", "(--image_path='photos/*.jpg', in quotes, for several images)"),
        ("eval", "--checkpoint=x", "use --pretrained_model"),
        ("eval", "--aa=rand-m9", "unknown flag --aa (see --help)"),  # no advice of flags that it has not
        ("train", "-j8", "unknown flag -j8: use --reader_thread"),
        ("train", "-class_dim=10", "unknown flag -class_dim: use --class_dim"),  # no -c with the file lass_dim
        ("train", "--Batch_Size=8", "use --batch_size"),
        ("train", "--no-validate", "unknown flag --no-validate: give --validate=False"),
        ("train", "--trainer.max_epochs=3", "unknown flag --trainer.max_epochs: use --num_epochs"),
        ("train", "epochs=3", "unknown flag epochs: use --num_epochs"),
        ("train", "--report=x.html", "unknown flag --report: a flag of eval.py\n"),  # not --sort
        (
            "predict",
            "--pretrained_model=w",
            "unknown flag --pretrained_model: a flag of train.py, eval.py and infer.py\n",
        ),
        ("eval", "--topk=3", "unknown flag --topk: use --eval_topk"),
        ("train", "--progressive=9", "did you mean --progressive_sizes or --progressive_magnitudes or --progressive_d"),
        ("reader", "--use_swin=True", "unknown flag --use_swin (see --help)"),
        ("train", "\u2014model=ResNet50", "a flag begins with two hyphens: --model"),
    ],
)
def test_flags_of_other_programs(script, word, said, capsys):
    with pytest.raises(SystemExit) as end:
        parse(script, [*REQUIRED.get(script, []), word])
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "--data-dir data --model ResNet50 -b 128 --opt adamw --lr 0.1 --amp",  # timm
            "unknown flags --data-dir: use --data_dir; -b: use --batch_size; --opt: use --optimizer; "
            "--amp: use --use_fp16",
        ),
        (
            "-j8 --sched cosine -class_dim=3",
            "unknown flags -j8: use --reader_thread; --sched: use --lr_strategy; -class_dim: use --class_dim",
        ),
        (
            "classify train data=mnist epochs=3",  # ultralytics
            "unexpected argument 'classify': write flags as --name=value (--data_dir=FOLDER for a dataset) (see "
            "--help); data: use --data_dir; epochs: use --num_epochs",
        ),
    ],
)
def test_all_unknown_flags_are_named_in_one_line(line, said, capsys):
    with pytest.raises(SystemExit):
        parse("train", line.split())
    assert capsys.readouterr().err == f"train.py: error: {said}\n"


def test_answers_that_the_document_has(capsys):
    text = (Path(__file__).resolve().parents[2] / "docs/other_programs.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| [^|]+ \| `(\w+)\.py ([^|]+)` \| (.+) \|$", text.partition("Commands that were tried")[2], re.M
    )
    assert len(rows) >= 30
    for script, line, answer in rows:
        if same := re.fullmatch(r"the same as `\w+\.py (.+)`", answer):
            assert parse(script, line.split()) == parse(script, same[1].split())
            continue
        with pytest.raises(SystemExit) as end:
            parse(script, line.split())
        assert (end.value.code, capsys.readouterr().err) == (2, f"{script}.py: error: {answer}\n")


def test_every_flag_of_the_table_is_one_here():
    for words, targets in habits.HABITS:
        assert all(target.startswith("-> ") or target in NAMES for target in targets), (words, targets)
    typed = [word for words, _ in habits.HABITS for word in words.split()]
    assert len(typed) == len(set(typed)), "a word with two meanings"


def test_scripts_that_are_named_exist():
    root = Path(__file__).resolve().parents[2]
    for _, here in habits.SCRIPTS_ELSEWHERE:
        for word in here.replace(",", "").split():
            if word.endswith(".py"):
                assert (root / word).is_file(), word
            elif word.startswith("--"):
                flags = {flag.name for script in SCRIPTS for group in flags_of(script).values() for flag in group}
                assert word[2:].split("=")[0] in flags, word


# ------------------------------------------------------------------------------------------------------- --device


@pytest.mark.parametrize(
    ("typed", "name"),
    [("cpu", "cpu"), ("CPU", "cpu"), ("cuda", "cuda"), ("gpu:1", "cuda:1"), ("0", "cuda:0"), ("mps", "mps")],
)
def test_ways_to_write_a_device(typed, name):
    assert parse("train", [f"--device={typed}"]).device == name


@pytest.mark.parametrize("typed", ["tpu", "cuda:x", "cuda:", "cpu:0", "-1"])
def test_what_is_no_device(typed, capsys):
    with pytest.raises(SystemExit):
        parse("train", [f"--device={typed}"])
    assert "is not a device: give cpu, cuda, cuda:N or mps" in capsys.readouterr().err


@pytest.fixture
def gpus(monkeypatch):
    """Has PyTorch find two GPUs, and keeps the one that is made current."""
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_the_device_that_is_named(gpus, monkeypatch):
    def chosen(name: str) -> torch.device:
        return choose_device(Namespace(device=name, use_gpu=True, given=frozenset()))

    assert chosen("cpu") == torch.device("cpu") and not gpus
    assert chosen("cuda:1") == torch.device("cuda", 1) == gpus[-1]
    assert chosen("cuda") == torch.device("cuda", 0) == gpus[-1]
    with pytest.raises(FlagError, match="--device cuda:2: this machine has 2 usable GPUs; give --device=cpu"):
        chosen("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(FlagError, match="--device mps: PyTorch finds no Apple GPU on this machine"):
        chosen("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert chosen("mps") == torch.device("mps")
    assert devices.sum_type(chosen("mps")) == torch.float32 and devices.sum_type(chosen("cpu")) == torch.float64
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("cuda:1", "mps"):
        with pytest.raises(FlagError, match=f"--device {name}.* several processes"):
            chosen(name)


def test_a_gpu_that_predict_does_not_find(monkeypatch):
    predict = pytest.importorskip("predict")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    args = parse("predict", ["--model_file=m", "--image_path=i", "--device=cuda"])
    with pytest.raises(FlagError, match="--device cuda: this machine has 0 usable GPUs"):
        predict.choose_device(args)
    args = parse("predict", ["--model_file=m", "--image_path=i", "--device=cpu", "--gpu_mem=5"])
    assert predict.choose_device(args) == torch.device("cpu")
