"""Bad input and faults that no other file of tests tries: one clear line and an exit code, and nothing is lost.

docs/robustness.md lists them together with those of the other files.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training import NETWORK, ROOT, Result, environment

import models
from utils.errors import LESS_MEMORY, run_script

INPUT = ["--model=" + NETWORK, "--class_dim=4", "--image_shape=3,32,32", "--resize_short_size=32", "--reader_thread=0"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls another script's main in this process, as the command line does."""

    def call(script: str, *words: object) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_script(importlib.import_module(script).main, LESS_MEMORY)
        captured = capsys.readouterr()
        return Result(end.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(models.build(NETWORK, class_dim=4).state_dict(), path)
    return path


# ------------------------------------------------------------------------------------------------------------ flags


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        ({"num_epochs": 0}, 2, "--num_epochs: 0 is not allowed: it must be a whole number at least 1"),
        ({"batch_size": "9" * 400}, 1, "out of memory: lower --batch_size"),
        ({"random_seed": 2**64}, 2, "at most 9223372036854775807"),
        ({"image_shape": "3,1000000000,1000000000", "resize_short_size": None}, 1, "out of memory"),
        ({"class_dim": 10**12}, 1, "out of memory"),
        ({"model": "VGG11", "image_shape": "3,16,16", "resize_short_size": None}, 2, "too small for VGG11"),
        ({"batch_size": 1}, 2, "--batch_size: a batch norm of MobileNetV1_x0_25 gets a single value per channel"),
        ({"accumulate_steps": 16}, 2, "--accumulate_steps"),
        (
            {"use_distill": True, "teacher_model": "ResNet51", "teacher_pretrained_model": "x"},
            2,
            "--teacher_model: unk",
        ),
        ({"use_distill": True, "teacher_model": NETWORK, "teacher_pretrained_model": "/no/file"}, 1, "/no/file does"),
        ({"color_jitter": "1,2"}, 2, "--color_jitter 1 2: give one value, or"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_flags_of_training(train_here, tiny_dataset, tmp_path, flags, code, expected):
    if "9" * 400 in flags.values():
        expected = "is larger than the 48 training images"
    result = train_here(tiny_dataset, tmp_path / "out", **flags)
    assert expected in result.error and result.code == code
    assert not (tmp_path / "out" / NETWORK / "latest").exists()


def test_images_too_small_for_other_scripts(command, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(models.build("VGG11", class_dim=4).state_dict(), "vgg.pth")
    words = ["--model=VGG11", "--class_dim=4", "--image_shape=3,16,16", "--pretrained_model=vgg.pth"]
    for script, more in (("infer", ["--save_inference=True"]), ("eval", ["--batch_size=4"])):
        result = command(script, *words, *more, f"--data_dir={tiny_dataset}", "--reader_thread=0")
        assert result.code == 2 and "too small for VGG11" in result.err, script
    assert not list(tmp_path.glob("VGG11/*"))


@pytest.mark.parametrize("script", ["infer", "predict", "ema_clean"])
def test_a_required_flag_left_empty(script, command):
    """As from a shell variable that is not set."""
    flags = {"infer": "pretrained_model", "predict": "model_file", "ema_clean": "ema_model_dir"}
    result = command(script, "--image_path=x" if script == "predict" else f"--{flags[script]}=", f"--{flags[script]}=")
    assert result.code == 2 and f"--{flags[script]} is required" in result.err


def test_an_unknown_strategy_is_a_warning(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, lr_strategy="cosin", max_iter=1)
    assert result.code == 0
    assert (
        "warning: --lr_strategy: unknown strategy 'cosin', so the rate stays at 0.01; did you mean cosine?"
        in result.err
    )


def test_a_batch_larger_than_the_data(command, weights, tiny_dataset):
    """Evaluation does without; only what memory cannot hold is refused."""
    flags = [*INPUT, f"--pretrained_model={weights}", f"--data_dir={tiny_dataset}"]
    assert command("eval", *flags, "--batch_size=1000").code == 0
    result = command("eval", *flags, "--batch_size=1000000000000000")
    assert result.code == 1 and "out of memory: lower --batch_size" in result.err


# ------------------------------------------------------------------------------------------------------------ lists


def test_fewer_class_folders_than_the_default_of_class_dim(train_here, data, tmp_path):
    for part in ("train", "val"):
        (data / f"{part}_list.txt").unlink()
    flags = {"max_iter": 1, "validate": False}
    result = train_here(data, tmp_path / "all", class_dim=None, **flags)
    assert result.code == 0
    assert "warning: --class_dim not given: using 1000, of which only 4 have a folder in --data_dir" in result.err
    assert "give --class_dim=4" in result.err
    for class_dim in (4, 5):
        assert "--class_dim" not in train_here(data, tmp_path / "some", class_dim=class_dim, **flags).err


def test_what_is_there_no_image(command, weights):
    words = [*INPUT, f"--pretrained_model={weights}", "--image_path=/no/such.jpg"]
    result = command("infer", *words)
    assert result.code == 1 and "/no/such.jpg: no such file or folder" in result.err


# ----------------------------------------------------------------------------------------------------------- images


def test_damaged_bytes_never_end_a_run(command, tiny_dataset, weights, tmp_path):
    """Photographs with a few wrong bytes, and every other fault, in one folder: classified, or left out and counted."""
    source = (tiny_dataset / "val/red/00.jpg").read_bytes()
    for number in range(60):
        random = np.random.RandomState(number)
        spoilt = bytearray(source)
        for place in random.randint(0, len(source), 4):
            spoilt[place] = random.randint(256)
        (tmp_path / f"{number}.jpg").write_bytes(spoilt)
    (tmp_path / "empty.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "pixel.png"), np.zeros((1, 1, 3), np.uint8))
    out = tmp_path / "results.txt"
    result = command(
        "infer", *INPUT, f"--pretrained_model={weights}", f"--data_dir={tmp_path}", f"--save_json_path={out}"
    )
    assert result.code == 0
    left_out = int(re.search(r"warning: (\d+) unreadable image files were left out", result.err)[1])
    assert left_out >= 1 and len(out.read_text().splitlines()) == 62 - left_out


# ---------------------------------------------------------------------------------------------------------- exports


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_std", [0, 0, 0], "its description cannot be read"),
        ("image_mean", None, "its description cannot be read"),
        ("image_mean", [123.675, 116.28, 103.53], "is not for pixels scaled to 0..1: export the network again"),
        ("interpolation", 77, "its description cannot be read"),
        ("params_bytes", "many", "its description cannot be read"),
        ("params_name", "../../x", "--params_file"),
        ("class_names", ["one", 2], "its description cannot be read"),
        ("class_names", list("abcde"), "its description cannot be read"),
        ("class_dim", 5, "the model has 4 classes, but its description says 5"),
        ("resize_short_size", 5, "--resize_short_size: 5 is smaller"),
    ],
)
def test_descriptions_of_exports(command, exported, tiny_dataset, tmp_path, name, value, message):
    shutil.copy(exported / "params", tmp_path)
    with zipfile.ZipFile(exported / "model") as source, zipfile.ZipFile(tmp_path / "model", "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            if entry.endswith("description.json"):
                content = json.dumps(json.loads(content) | {name: value})
            target.writestr(entry, content)
    image = f"--image_path={tiny_dataset}/val/red/00.jpg"
    result = command("predict", f"--model_file={tmp_path}/model", image, "--gpu_id=-1")
    assert result.code in (1, 2) and message in result.err and result.err.count("\n") == 1


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["infer.py", *INPUT, f"--pretrained_model={weights}", "--save_inference=True"])
        importlib.import_module("infer").main()
    return folder / NETWORK


# --------------------------------------------------------------------------------------------- files and environment


def test_a_stage_full_of_odd_names(tiny_dataset, weights, tmp_path):
    """Blanks and other scripts in every path, a bad OMP_NUM_THREADS, and a reader of the output that leaves early."""
    folder = tmp_path / "d a t ä 画像"
    shutil.copytree(tiny_dataset / "val", folder / "val")
    shutil.copy(weights, folder / "w – 重.pth")
    (folder / os.fsdecode(b"val/in no encoding \xff.jpg")).write_bytes((folder / "val/red/00.jpg").read_bytes())
    results = folder / "ergebnis ß.txt"
    flags = [*INPUT, "--use_gpu=False", f"--data_dir={folder}/val", f"--pretrained_model={folder}/w – 重.pth"]
    words = [sys.executable, str(ROOT / "infer.py"), *flags, f"--save_json_path={results}"]
    shell = f"set -o pipefail; {shlex.join(words)} | cat"
    settings = environment() | {"OMP_NUM_THREADS": "many", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    done = subprocess.run(["bash", "-c", shell], env=settings, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    lines = results.read_bytes().splitlines()
    assert len(lines) == 17 and any(line.startswith(b"in no encoding \xff.jpg\t{") for line in lines)
    done = subprocess.run(["bash", "-c", f"{shlex.join(words)} | head -n 1"], env=settings, capture_output=True)
    assert done.stdout.count(b"\n") == 1 and b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full, of Linux")
def test_output_on_a_full_disk(weights, tiny_dataset, tmp_path):
    words = [sys.executable, str(ROOT / "infer.py"), *INPUT, f"--pretrained_model={weights}"]
    words += [f"--data_dir={tiny_dataset}/val", f"--save_json_path={tmp_path}/results.txt"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "infer.py: error: no space left on device\n")


def test_files_of_results_are_tried_first(command, weights, tiny_dataset, tmp_path):
    """Before the evaluation, not after it; folders are made."""
    flags = [*INPUT, f"--pretrained_model={weights}", f"--data_dir={tiny_dataset}", "--batch_size=16"]
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for flag in ("save_json_path", "per_class_path", "confusion_path"):
        for path in (tmp_path / "folder.csv", tmp_path / "file" / "x.csv"):
            result = command("eval", *flags, f"--{flag}={path}")
            assert result.code == 1 and f"--{flag}: cannot write {path}" in result.err
            assert result.out == ""
    result = command("eval", *flags, f"--save_json_path={tmp_path}/new/results.json")
    assert result.code == 0 and (tmp_path / "new/results.json").exists()


@pytest.mark.parametrize("missing", ["matplotlib.figure", "torch.utils.tensorboard"])
def test_training_without_packages_for_curves(train_here, tiny_dataset, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    train_here.draws_curves = True
    result = train_here(tiny_dataset, tmp_path)
    assert result.code == 0 and (tmp_path / NETWORK / "latest").exists()
    (warning,) = result.err.splitlines()
    assert "the curves in" in warning and missing in warning


def test_a_missing_package_is_named(command, weights, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    flags = [*INPUT, f"--pretrained_model={weights}", f"--data_dir={tiny_dataset}", "--batch_size=16"]
    result = command("eval", *flags, f"--confusion_path={tmp_path}/c.png")
    assert result.code == 1 and "matplotlib.figure is not installed: pip install -r requirements.txt" in result.err


def test_recipes_without_pytorch():
    settings = {**environment(), "PYTHON": "/bin/false"}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/launch.sh"), "--model=x"], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 1 and "run.sh setup" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["cifar10", "ILSVRC2012", "digits"])
def test_preparing_from_nothing_useful(tmp_path, name):
    shutil.copy(ROOT / "data" / name / "prepare.py", tmp_path)
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"junk" * 1000)
    (tmp_path / "train").write_text("a file where a folder should be")
    words = [sys.executable, "prepare.py", *(["junk.tar"] if name == "cifar10" else [])]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("prepare.py: error: ") and done.stderr.count("\n") == 1
