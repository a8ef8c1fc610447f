"""train.py on a small data set: what it writes, what it says, and how it answers bad input."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from training import NETWORK, ROOT, environment, losses

import models
from utils.weights import load_pretrained, read_input_notes

# ------------------------------------------------------------------------------------------------- a run's results


def test_a_run_writes_checkpoints_curves_and_lines(train_here, tiny_dataset, tmp_path):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train_here.draws_curves = True
    result = train_here(tiny_dataset, tmp_path, num_epochs=2, use_ema=True, save_iter=2)
    assert result.code == 0 and result.err == ""
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers

    folder = tmp_path / NETWORK
    names = {path.name for path in folder.iterdir()}
    steps, best = {"step_4", "step_6"}, {"best_model", "best_model_ema"}  # the newest two of the steps
    assert (
        names == {"0", "1", "latest", "tensorboard", "curves.json", "curves.png", "run_1.json", ".lock"} | best | steps
    )
    files = {"weights.safetensors", "ema_weights.safetensors", "state.pt", "manifest.json"}
    for name in names & {"0", "1", "latest", "best_model"} | steps:
        assert {path.name for path in (folder / name).iterdir()} == files
    assert [path.name for path in (folder / "best_model_ema").iterdir()] == ["weights.safetensors"]
    assert json.loads((folder / "1" / "manifest.json").read_text())["step"] == 6
    with safe_open(folder / "1" / "weights.safetensors", "pt") as file:
        assert set(file.keys()) == set(models.build(NETWORK, class_dim=4).state_dict())
        assert file.metadata()["model"] == NETWORK
    assert read_input_notes(folder / "1")["image_shape"] == [3, 32, 32]
    assert any(path.name.startswith("events.out") for path in (folder / "tensorboard").iterdir())
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    curves = json.loads((folder / "curves.json").read_text())
    assert [epoch["epoch"] for epoch in curves] == [0, 1]

    # The lines that scripts parse, and the figures in them.
    number, seconds = r"\d+\.\d{5}", r"\d+\.\d{4} sec"
    accuracies = rf"acc1 {number}, acc4 {number}"
    train_line = re.compile(
        rf"\[Pass (\d), train batch (\d)\]  loss {number}, {accuracies}, lr 0.01000, elapse {seconds}"
    )
    test_line = re.compile(rf"\[Pass \d, test  batch \d\]  loss {number}, {accuracies}, elapse {seconds}")
    lines = result.out.splitlines()
    found = [match.groups() for line in lines if (match := train_line.match(line))]
    assert found == [(epoch, step) for epoch in "01" for step in "012"]
    assert sum(test_line.fullmatch(line) is not None for line in lines) == 2
    ends = [line for line in lines if line.startswith("[End pass ")]
    parts = [", ".join(f"{kind}_{field} {number}" for field in ("loss", "acc1", "acc4")) for kind in ("train", "test")]
    for epoch, line in enumerate(ends):
        assert re.match(rf"\[End pass {epoch}\]  {', '.join(parts)}, test_ema_loss", line), line
        assert f"train_loss {curves[epoch]['train_loss']:.5f}, train_acc1 {curves[epoch]['train_acc1']:.5f}" in line
    per_step = losses(result.out)
    assert curves[0]["train_loss"] == pytest.approx(np.mean(per_step[:3]), abs=1e-5)


def test_kpis_of_enable_ce_repeat(train_here, tiny_dataset, tmp_path):
    kpis = []
    for name in "ab":
        result = train_here(tiny_dataset, tmp_path / name, enable_ce=True, random_seed=None)
        assert result.code == 0
        kpis.append(dict(re.findall(r"^kpis  (\w+)_card1  ([\d.]+)$", result.out, re.MULTILINE)))
    names = [f"{kind}_{field}" for kind in ("train", "test") for field in ("cost", "acc1", "acc5")]
    assert list(kpis[0]) == [*names, "train_speed"]
    assert [kpis[0][name] for name in names] == [kpis[1][name] for name in names]


def test_same_feed_feeds_one_image(train_here, tiny_dataset, tmp_path):
    """Batch norm of equal images leaves its offsets, and so the same logits for each: all right or all wrong."""
    result = train_here(tiny_dataset, tmp_path, same_feed=8, num_epochs=1, validate=False)
    assert result.code == 0
    assert set(re.findall(r"train batch \d\]  loss [\d.]+, acc1 ([\d.]+)", result.out)) <= {"0.00000", "1.00000"}


def test_pretrained_weights_of_other_classes(train_here, tiny_dataset, tmp_path):
    """A classifier of 7 classes is left out by name; all other weights are taken."""
    source = models.build(NETWORK, class_dim=7)
    torch.save(source.state_dict(), tmp_path / "seven.pth")
    flags = {"pretrained_model": tmp_path / "seven.pth", "lr": 1e-30, "l2_decay": 0}
    result = train_here(tiny_dataset, tmp_path / "a", **flags)
    remedy = "--finetune_exclude_pretrained_params=fc.weight,fc.bias"
    assert (
        "its classifier (fc.weight,fc.bias) has 7 classes, but the network has 4" in result.error
        and remedy in result.error
    )

    result = train_here(tiny_dataset, tmp_path / "a", **flags, finetune_exclude_pretrained_params="fc.weight,fc.bias")
    assert result.code == 0
    trained = models.build(NETWORK, class_dim=4)
    load_pretrained(trained, tmp_path / "a" / NETWORK / "latest")
    before = dict(source.named_parameters())
    for name, parameter in trained.named_parameters():
        if parameter.shape == before[name].shape:
            torch.testing.assert_close(parameter, before[name], rtol=0, atol=1e-20, msg=name)


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        ({"model": "ResNet50_vb"}, 2, "ResNet50_vd"),
        ({"batch_size": 49}, 1, "--batch_size 49 is larger than the 48 training images"),
        ({"checkpoint": "x", "pretrained_model": "x"}, 2, "--checkpoint=auto, which"),
        ({"pretrained_model": "/no/such/file"}, 1, "/no/such/file"),
        ({"checkpoint": "/no/such/folder"}, 1, "/no/such/folder does not exist"),
        ({"image_shape": "1,32,32"}, 2, "--image_shape"),
        ({"resize_short_size": 16}, 2, "--resize_short_size"),
        ({"step_epochs": "30,20"}, 2, "--step_epochs"),
        ({"use_distill": True}, 2, "--teacher_model"),
        ({"unlabeled_list": "x.txt"}, 2, "--use_distill"),
        ({"finetune_exclude_pretrained_params": "fc"}, 2, "--pretrained_model"),
        ({"bach_size": 16}, 2, "--batch_size"),
        ({"lr": "fast"}, 2, "--lr"),
        ({"model_save_dir": "/dev/null/x"}, 1, "--model_save_dir"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_flags_are_one_line(train_here, tiny_dataset, tmp_path, flags, code, expected):
    result = train_here(tiny_dataset, tmp_path / "out", **flags)
    assert expected in result.error
    assert result.code == code
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, use_gpu=True)
    assert result.code == 2
    assert "--use_gpu=True" in result.error and "--use_gpu=False" in result.error


@pytest.mark.parametrize(
    ("line", "expected"),
    [("train/red/00.jpg", "no label"), ("train/red/00.jpg 4", "0..3"), ("train/red/00.jpg x", "not a whole number")],
)
def test_bad_list_lines_are_named(train_here, data, tmp_path, line, expected):
    path = data / "train_list.txt"
    path.write_text(path.read_text() + line + "\n")
    result = train_here(data, tmp_path / "out")
    assert "train_list.txt line 49" in result.error and expected in result.error
    assert not (tmp_path / "out").exists()


def test_a_missing_list(train_here, tmp_path):
    (tmp_path / "data").mkdir()
    assert "has neither train_list.txt nor class folders" in train_here(tmp_path / "data", tmp_path).error
    assert "/no/such/folder: no such folder" in train_here(Path("/no/such/folder"), tmp_path).error


def test_unreadable_images_are_skipped_counted_and_named(train_here, data, tmp_path):
    (data / "train" / "red" / "00.jpg").write_bytes(b"")
    (data / "train" / "grey" / "01.jpg").write_bytes(b"no image at all")
    (data / "val" / "blue" / "02.jpg").unlink()
    result = train_here(data, tmp_path)
    assert result.code == 0
    (warning,) = result.err.splitlines()
    assert "3 unreadable image files" in warning
    for name in ("train/red/00.jpg", "train/grey/01.jpg", "val/blue/02.jpg"):
        assert name in warning
    assert "End pass 0" in result.out


def test_no_readable_image_at_all(train_here, data, tmp_path):
    for path in (data / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    result = train_here(data, tmp_path)
    assert "no readable image" in result.error and ".jpg" in result.error


def test_no_readable_image_to_validate_on(train_here, data, tmp_path):
    for path in (data / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    result = train_here(data, tmp_path)
    assert "none of the 16 images can be read; the first: " in result.error and "val/blue/00.jpg" in result.error


def test_help_needs_no_torch():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as exit: assert exit.code == 0\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert result.returncode == 0
    assert "--lr_strategy" in result.stdout


# ------------------------------------------------------------------------------------------------------ distillation


@pytest.mark.parametrize("loss", ["soft", "js"])
def test_distillation_from_itself(train_here, tiny_dataset, tmp_path, loss):
    """A student beside its teacher; js takes images without labels, and is at most log 2."""
    torch.manual_seed(0)
    torch.save(models.build(NETWORK, class_dim=4).state_dict(), tmp_path / "teacher.pth")
    unlabeled = [line.split()[0] for line in (tiny_dataset / "val_list.txt").read_text().splitlines()]
    (tmp_path / "extra.txt").write_text("\n".join(unlabeled))
    flags = {"is_distill": True, "teacher_model": NETWORK, "teacher_pretrained_model": tmp_path / "teacher.pth"}
    if loss == "js":
        flags["unlabeled_list"] = tmp_path / "extra.txt"
    result = train_here(tiny_dataset, tmp_path, **flags, distill_loss=loss, num_epochs=2)
    assert result.code == 0
    steps = losses(result.out)
    assert len(steps) == (8 if loss == "js" else 6)  # 48 images, and 16 without labels
    assert all(np.isfinite(steps))
    if loss == "js":
        assert max(steps) < np.log(2)  # the largest divergence there is
