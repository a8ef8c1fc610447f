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
import socket
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training import NETWORK, ROOT, SMALL, Result, environment

import models
from utils.checkpoint import find_checkpoint, read_state
from utils.distributed import process_group
from utils.errors import UserError, run_script
from utils.weights import load_pretrained

INPUT = ["--model=" + NETWORK, "--class_dim=4", "--image_shape=3,32,32", "--resize_short_size=32", "--reader_thread=0"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls another script's main in this process, as the command line does."""

    def call(script: str, *words: object) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_script(importlib.import_module(script).main)
        captured = capsys.readouterr()
        return Result(end.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(models.build(NETWORK, class_dim=4).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def finished(tiny_dataset, tmp_path_factory) -> Path:
    """A run of two epochs, to be copied."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        words = {**SMALL, "num_epochs": 2, "data_dir": tiny_dataset, "model_save_dir": out, "use_ema": True}
        patch.setattr(sys, "argv", ["train.py", *(f"--{name}={value}" for name, value in words.items())])
        run_script(importlib.import_module("train").main)
    assert end.value.code == 0
    return out


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
        ({"batch_size": 1}, 2, "--batch_size: a batch-norm of MobileNetV1_x0_25 has a single value per channel"),
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
    result = train_here(tiny_dataset, tmp_path, lr_strategy="cosine", max_iter=1)
    assert result.code == 0
    assert "warning: --lr_strategy: unknown strategy 'cosine', the rate stays at 0.01; known: piecewise" in result.err


def test_a_run_too_short_to_profile(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, is_profiler=True, profiler_path=tmp_path / "profile", validate=False)
    assert result.code == 0 and not (tmp_path / "profile").exists()
    assert "warning: --is_profiler: the run was too short, nothing was profiled: lower --print_step" in result.err


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
    assert "warning: --class_dim not given: 1000, of which only 4 have a folder in --data_dir" in result.err
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


# ---------------------------------------------------------------------------------------------------------- weights


def test_counters_in_half_precision_are_left_out(weights, tmp_path):
    state = torch.load(weights)
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pth")
    model = models.build(NETWORK, class_dim=4)
    load_pretrained(model, tmp_path / "half.pth")
    torch.testing.assert_close(model.fc.weight.detach(), state["fc.weight"].half().float(), rtol=0, atol=0)


def test_weights_that_are_not_finite_are_reported(weights, tmp_path, capsys):
    state = torch.load(weights)
    state["fc.bias"][2] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    load_pretrained(models.build(NETWORK, class_dim=4), tmp_path / "nan.pth")
    assert "1 tensors hold values that are not finite, such as fc.bias" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path, recwarn):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    recwarn.clear()
    with pytest.raises(UserError, match="a TorchScript archive, which holds code"):
        load_pretrained(models.build(NETWORK, class_dim=4), tmp_path / "script.pt")
    assert not recwarn.list


# ------------------------------------------------------------------------------------------------------ checkpoints


def rewrite_state(folder: Path, change) -> None:
    """Changes the saved state of a checkpoint, and its checksum."""
    state = torch.load(folder / "state.pt", weights_only=True)
    change(state)
    (folder / "state.pt").unlink()  # a hard link, perhaps
    torch.save(state, folder / "state.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["crc32"]["state.pt"] = zlib.crc32((folder / "state.pt").read_bytes())
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_every_checkpoint_damaged_is_no_reason_to_start_over(train_here, finished, tiny_dataset, tmp_path):
    """Starting afresh would write over what could still be saved."""
    run = Path(shutil.copytree(finished, tmp_path / "run")) / NETWORK
    for manifest in run.glob("*/manifest.json"):
        manifest.unlink()
        manifest.write_text('{"step": 1e999}')
    before = sorted(path.name for path in run.iterdir())
    result = train_here(tiny_dataset, tmp_path / "run", checkpoint="auto", num_epochs=3, use_ema=True)
    assert result.code == 1 and "every checkpoint in" in result.error and "--model_save_dir" in result.error
    assert sorted(path.name for path in run.iterdir()) == before


def test_checkpoints_of_other_versions_and_classes(train_here, finished, tiny_dataset, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run")) / NETWORK
    flags = {"num_epochs": 3, "use_ema": True}
    error = train_here(tiny_dataset, tmp_path / "run", **flags, checkpoint="auto", class_dim=5).error
    assert "is of --class_dim=4, not 5" in error
    error = train_here(tiny_dataset, tmp_path / "x", **flags, checkpoint=run / "latest" / "state.pt").error
    assert "holds no complete training state" in error
    rewrite_state(run / "latest", lambda state: state["position"].update(of_the_future=1))
    error = train_here(tiny_dataset, tmp_path / "x", **flags, checkpoint=run / "latest").error
    assert "is of another version of this program" in error and "of_the_future" in error


def of_another_shape(state: dict) -> None:
    for values in state["training"]["optimizer"]["state"].values():
        values["momentum_buffer"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_shape, "its momentum_buffer is [3] for a tensor of [8, 3, 3, 3]"),
        (lambda state: state["training"].pop("optimizer"), "'optimizer'"),
        (lambda state: state["position"].update(random=[{"cpu": torch.zeros(3, dtype=torch.uint8)}]), "RNG state"),
        (lambda state: state.pop("notes"), "of another version of this program ('notes')"),
    ],
    ids=["shapes", "no optimizer", "random state", "no notes"],
)
def test_states_that_do_not_fit(train_here, finished, tiny_dataset, tmp_path, change, message):
    """With checksums that are right; the fused optimizers would write beyond the end of what is too short."""
    folder = shutil.copytree(finished / NETWORK / "latest", tmp_path / "checkpoint")
    rewrite_state(folder, change)
    result = train_here(tiny_dataset, tmp_path / "x", num_epochs=3, use_ema=True, checkpoint=folder)
    assert result.code == 1 and message in result.error


def test_clocks_do_not_matter(finished, tmp_path):
    """The newest checkpoint is the one of the most steps, though the clock jumped back while it was written."""
    run = Path(shutil.copytree(finished, tmp_path / "run")) / NETWORK
    for name in ("latest", "best_model"):
        shutil.rmtree(run / name)
    for name, time in (("0", 4e9), ("1", 1.0)):
        for path in (*(run / name).iterdir(), run / name):
            os.utime(path, (time, time))
    assert find_checkpoint("auto", run) == run / "1"


def test_more_processes_than_saved(train_here, finished, tiny_dataset, tmp_path):
    """A run goes on with another number of processes: one that has no random state in the checkpoint draws its own."""
    run = Path(shutil.copytree(finished, tmp_path / "run")) / NETWORK
    rewrite_state(run / "latest", lambda state: state["position"].update(random=[]))
    result = train_here(tiny_dataset, tmp_path / "run", checkpoint=run / "latest", num_epochs=3, use_ema=True)
    assert result.code == 0 and read_state(run / "latest")["position"].epoch == 3


def test_other_things_in_the_folder_of_a_run(train_here, finished, tiny_dataset, tmp_path):
    """Nothing of the user's is taken for a checkpoint, nor deleted; curves that cannot be written are left out."""
    run = Path(shutil.copytree(finished, tmp_path / "run")) / NETWORK
    (run / "step_notes").mkdir()
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").write_text("mine")
    (run / "curves.json").unlink()
    (run / "curves.json").mkdir()
    flags = {"checkpoint": "auto", "num_epochs": 3, "use_ema": True, "keep_checkpoints": 1, "save_iter": 1}
    result = train_here(tiny_dataset, tmp_path / "run", **flags)
    assert result.code == 0
    assert len(re.findall("warning: the curves in .* are not complete", result.err)) == 1
    assert (run / "step_notes").is_dir() and (run / "tensorboard").read_text() == "mine"
    assert (run / "2").is_dir() and not (run / "1").exists()


# ---------------------------------------------------------------------------------------------------------- exports


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_std", [0, 0, 0], "its description cannot be read"),
        ("image_mean", None, "its description cannot be read"),
        ("interpolation", 77, "its description cannot be read"),
        ("params_bytes", "many", "its description cannot be read"),
        ("params_name", "../../x", "--params_file"),
        ("class_names", ["one"], "4 classes and names for 1"),
        ("resize_short_size", 5, "--resize_short_size 5 is smaller"),
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


# -------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR expected"),
        ({"MASTER_PORT": None}, "MASTER_PORT expected"),
        ({"MASTER_PORT": "x"}, "invalid literal"),
        ({"RANK": None}, "RANK expected"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({"MASTER_PORT": "in use"}, "address already in use"),
    ],
    ids=str,
)
def test_processes_that_cannot_meet(monkeypatch, changes, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | changes
        if settings["MASTER_PORT"] == "in use":
            settings["MASTER_PORT"] = str(taken.getsockname()[1])
        for name, value in settings.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=re.escape(message)) as caught, process_group(torch.device("cpu")):
            pass
    assert "python -m torch.distributed.run" in str(caught.value) and "\n" not in str(caught.value)


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
    for flag in ("save_json_path", "per_class_path", "confusion_path"):
        for path in (tmp_path, tmp_path / "file" / "x"):
            result = command("eval", *flags, f"--{flag}={path}")
            assert result.code == 1 and f"--{flag}: cannot write {path}" in result.err
            assert result.out == ""
    result = command("eval", *flags, f"--save_json_path={tmp_path}/new/results.json")
    assert result.code == 0 and (tmp_path / "new/results.json").exists()


@pytest.mark.parametrize("missing", ["matplotlib.figure", "torch.utils.tensorboard"])
def test_training_without_packages_for_curves(train_here, tiny_dataset, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
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
