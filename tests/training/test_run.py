"""What a training run says, remembers and refuses: losses that are not finite, its end, taking up an earlier one."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import zlib
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from training import NETWORK, SMALL, assert_same_checkpoint, losses

import utils.training.guards
from utils.errors import run_script
from utils.training.checkpoint import find_checkpoint, read_state
from utils.training.curves import Curves, leave_out_peaks
from utils.training.journal import shown_time


def test_mixed_images_have_no_training_accuracy(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, use_mixup=True, use_label_smoothing=True)
    assert result.code == 0
    assert re.search(r"train batch 0\]  loss [\d.]+, lr ", result.out)
    assert re.search(r"\[End pass 0\]  train_loss [\d.]+, test_loss [\d.]+, test_acc1 ", result.out)


def test_max_iter_stops_and_saves(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, num_epochs=5, max_iter=4)
    assert result.code == 0
    assert len(losses(result.out)) == 4
    lines = re.findall(r"^\[.*train batch.* (epoch . of 5.*)$", result.out, re.MULTILINE)
    assert lines[0] == "epoch 1 of 5" and re.fullmatch(r"epoch 1 of 5, \d+ s left", lines[1])
    assert lines[-1] == "epoch 2 of 5" and re.search(r"\[End pass 0\].*, epoch 1 of 5, \d+ s left$", result.out, re.M)
    assert re.search(r"^saved in .*: latest, best_model \(test_acc1 [\d.]+\), curves.png$", result.out, re.MULTILINE)
    assert {"0", "step_4", "latest"} <= {path.name for path in (tmp_path / NETWORK).iterdir()}


def test_max_iter_counts_the_steps_of_all_its_runs(train_here, tiny_dataset, tmp_path):
    assert len(losses(train_here(tiny_dataset, tmp_path, max_iter=2, checkpoint="auto").out)) == 2
    again = train_here(tiny_dataset, tmp_path, max_iter=2, checkpoint="auto")
    assert again.code == 0 and not losses(again.out)
    assert "nothing is left to do: the run has reached --max_iter=2 steps" in again.out


def test_kpis_of_a_run_that_stops_within_an_epoch(train_here, tiny_dataset, tmp_path):
    """They are those of the last whole epoch."""
    result = train_here(tiny_dataset, tmp_path, num_epochs=2, max_iter=4, enable_ce=True, random_seed=None)
    (loss,) = re.findall(r"\[End pass 0\].* test_loss ([\d.]+)", result.out)
    assert f"kpis  test_cost_card1  {loss}\n" in result.out


def test_images_per_second_are_those_of_same_feed(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, same_feed=4, validate=False, max_iter=2)
    for seconds, rate in re.findall(r"elapse ([\d.]+) sec, ([\d.]+) img/s", result.out):
        assert float(seconds) * float(rate) == pytest.approx(4, rel=0.2)


def test_lines_go_to_a_file_though_there_is_a_bar(train_here, tiny_dataset, tmp_path, monkeypatch):
    """As in `python train.py > log` in a terminal: the bar is on stderr."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = train_here(tiny_dataset, tmp_path, validate=False)
    assert len(losses(result.out)) == 3 and "epoch 1 of 1" in result.err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    result = train_here(tiny_dataset, tmp_path / "terminal", validate=False)
    assert not losses(result.out) and "epoch 1 of 1" in result.err


# ----------------------------------------------------------------------------------------------------- what goes wrong


def test_a_loss_that_explodes_names_step_rate_and_images(train_here, tiny_dataset, tmp_path):
    """What was saved before stays, and can be resumed."""
    assert train_here(tiny_dataset, tmp_path).code == 0
    before = (tmp_path / NETWORK / "latest" / "state.pt").read_bytes()
    result = train_here(tiny_dataset, tmp_path, lr=1e30, l2_decay=0, num_epochs=2, checkpoint="auto")
    error = result.error
    # The step with the absurd rate still has a finite loss; the one after it has not.
    assert re.search(r"the loss of step 4 is not finite \(learning rate 1e\+30\)", error)
    assert len(re.findall(r"train/\w+/\d+\.jpg", error)) == 16
    assert (tmp_path / NETWORK / "latest" / "state.pt").read_bytes() == before
    assert find_checkpoint("auto", tmp_path / NETWORK).name == "latest"


def test_an_epoch_without_a_finite_loss_is_not_saved(train_here, tiny_dataset, tmp_path):
    """Float16 skips such steps, as the loss scale may mend them; it has not mended any of these."""
    flags = {"use_fp16": True, "amp_dtype": "float16", "validate": False, "batch_size": 48}
    assert train_here(tiny_dataset, tmp_path, **flags).code == 0
    before = (tmp_path / NETWORK / "latest" / "state.pt").read_bytes()
    result = train_here(tiny_dataset, tmp_path, **flags, lr=1e30, l2_decay=0, num_epochs=9, checkpoint="auto")
    assert "[End pass 1]" in result.out  # its first loss was finite
    assert "no loss of epoch 2 was finite (learning rate 1e+30, loss scale " in result.error
    assert "): lower --lr, or try --amp_dtype=bfloat16" in result.error
    assert not (tmp_path / NETWORK / "2").exists()
    assert (tmp_path / NETWORK / "0" / "state.pt").read_bytes() == before


FLOAT16 = {"use_fp16": True, "amp_dtype": "float16", "validate": False}


@pytest.mark.parametrize(
    ("limit", "share", "expected"),
    [
        (2, 0.05, "3 steps of epoch 0 were skipped because their gradients were not finite"),
        (3, 0.05, "every step of epoch 0 was skipped: no gradients were finite"),
        (0, 1.0, "every step of epoch 0 was skipped: no gradients were finite"),
    ],
)
def test_a_loss_scale_that_stays_too_high(train_here, tiny_dataset, tmp_path, monkeypatch, limit, share, expected):
    """Though the losses are finite, nothing would be trained."""
    monkeypatch.setattr(utils.training.guards, "HOPELESS_STEPS", limit)
    monkeypatch.setattr(utils.training.guards, "HOPELESS_SHARE", share)
    flags = FLOAT16 | {"scale_loss": 1e12, "use_dynamic_loss_scaling": False}
    result = train_here(tiny_dataset, tmp_path, **flags)
    assert result.code == 1 and f"{expected} (learning rate 0.01, loss scale 1e+12): lower --scale_loss" in result.error
    assert "loss scale 1e+12, skipped 1, epoch 1 of 1" in result.out
    assert not (tmp_path / NETWORK / "latest").exists()


def test_a_loss_scale_that_comes_down(train_here, tiny_dataset, tmp_path):
    """The skipped steps of the part before the interruption count too."""
    flags = FLOAT16 | {"scale_loss": 2.0**50}
    assert train_here(tiny_dataset, tmp_path, **flags, max_iter=2).code == 0
    result = train_here(tiny_dataset, tmp_path, **flags, checkpoint="auto")
    assert result.code == 0
    assert "warning: every step of epoch 0 was skipped: no gradients were finite" in result.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"lr": 1e30, "l2_decay": 0}, r"test_loss of epoch 0 is not finite \(learning rate 1e\+30\): lower --lr"),
        (
            {"lr": 1e300, "l2_decay": 0, "validate": False},
            r"parameters or batch norm statistics are not finite after step 0 \(learning rate 1e\+300\)",
        ),
    ],
    ids=["validation", "parameters"],
)
def test_a_network_that_is_lost_is_not_saved(train_here, tiny_dataset, tmp_path, flags, expected):
    """With one step an epoch no loss in training tells."""
    result = train_here(tiny_dataset, tmp_path, batch_size=48, **flags)
    assert result.code == 1 and re.search(expected, result.error)
    assert not list((tmp_path / NETWORK).glob("*/manifest.json"))


# ------------------------------------------------------------------------------------------------------ taking up a run


def test_resuming_in_this_process_changes_nothing(train_here, tiny_dataset, tmp_path):
    """Stopped within an epoch and at its very end, resumed: the same as in one go, to the last bit."""
    flags = {"num_epochs": 2, "use_ema": True, "use_mixup": True, "lr_strategy": "cosine_decay_warmup"}
    flags |= {"warm_up_epochs": 0.5}
    assert train_here(tiny_dataset, tmp_path / "whole", **flags).code == 0
    for steps in (2, 3):
        assert train_here(tiny_dataset, tmp_path / "parts", **flags, max_iter=steps, checkpoint="auto").code == 0
    result = train_here(tiny_dataset, tmp_path / "parts", **flags, checkpoint="auto")
    assert "resumed from" in result.out and len(losses(result.out)) == 3
    whole, parts = (tmp_path / name / NETWORK for name in ("whole", "parts"))
    for name in ("0", "1", "latest", "best_model"):
        assert_same_checkpoint(whole / name, parts / name)
    assert (whole / "curves.json").read_text() == (parts / "curves.json").read_text()
    again = train_here(tiny_dataset, tmp_path / "parts", **flags, checkpoint="auto")
    assert again.code == 0 and "nothing is left to do: the run has reached --num_epochs=2" in again.out


def rates(output: str) -> list[float]:
    """The learning rates of the training steps printed."""
    return [float(rate) for rate in re.findall(r", lr ([\d.]+)", output)]


def test_the_schedule_goes_on_by_epochs(train_here, tiny_dataset, tmp_path):
    """With another batch size after an epoch: and an interruption within the next one takes that size."""
    flags = {
        "num_epochs": 4,
        "lr_strategy": "piecewise_decay",
        "step_epochs": "2,3",
        "validate": False,
        "checkpoint": "auto",
    }
    first = train_here(tiny_dataset, tmp_path, **flags | {"num_epochs": 1}, batch_size=4)
    assert rates(first.out) == [0.01] * 12
    second = train_here(tiny_dataset, tmp_path, **flags, batch_size=16, max_iter=17)
    assert rates(second.out) == [0.01] * 3 + [0.001] * 2
    third = train_here(tiny_dataset, tmp_path, **flags, batch_size=16)
    assert rates(third.out) == [0.001] + [0.0001] * 3


def test_another_list_within_an_epoch(train_here, data, tmp_path):
    assert train_here(data, tmp_path / "out", max_iter=1).code == 0
    lines = (data / "train_list.txt").read_text().splitlines(keepends=True)
    (data / "train_list.txt").write_text("".join(lines[:-1]))
    error = train_here(data, tmp_path / "out", checkpoint="auto").error
    assert "is in the middle of an epoch of 48 images" in error and "has 47: resume with the same list" in error


def test_finetuning_is_resumed(train_here, finished, tiny_dataset, tmp_path):
    """--checkpoint=auto goes with --pretrained_model, which is looked at if there is nothing to resume."""
    weights = finished / NETWORK / "best_model"
    flags = {"checkpoint": "auto", "finetune_exclude_pretrained_params": "fc.weight, fc.bias"}
    first = train_here(tiny_dataset, tmp_path, **flags, pretrained_model=weights, max_iter=1)
    assert first.code == 0 and "nothing to resume" in first.out and str(weights) in first.out
    second = train_here(tiny_dataset, tmp_path, **flags, pretrained_model="/no/file", max_iter=2)
    assert second.code == 0 and "resumed from" in second.out


def test_a_second_run_in_the_folder(train_here, finished, tiny_dataset, tmp_path):
    """It says what becomes of the first one's checkpoints; auto goes on from its own, though they have fewer steps."""
    folder = Path(shutil.copytree(finished, tmp_path / "run")) / NETWORK
    second = train_here(tiny_dataset, tmp_path / "run", num_epochs=3, max_iter=1, lr=0.001)
    assert second.code == 0 and "best_model" not in second.out
    assert second.err == (
        f"warning: {folder} holds checkpoints of an earlier run, which --checkpoint=auto would continue: this run "
        "replaces them as it saves; --model_save_dir=OTHER keeps them\n"
    )
    third = train_here(tiny_dataset, tmp_path / "run", num_epochs=1, checkpoint="auto")
    assert third.err == "" and ": epoch 0, step 1 of it" in third.out
    best = read_state(folder / "best_model")["position"].best["best_model"]
    assert f"best_model (test_acc1 {best:.5f})" in third.out
    assert read_state(folder / "best_model")["training"]["step"] == 3


@pytest.mark.parametrize("best", ["0", "1"])
def test_going_back(train_here, finished, tiny_dataset, tmp_path, best):
    """From an earlier checkpoint: the steps from there on are what auto continues. The best one counts if it is not of
    those left behind."""
    folder = Path(shutil.copytree(finished, tmp_path / "run")) / NETWORK
    shutil.rmtree(folder / "best_model")
    shutil.copytree(folder / best, folder / "best_model")  # whichever was better on this processor
    flags = {"num_epochs": 2, "use_ema": True, "max_iter": 4, "keep_checkpoints": 3}
    result = train_here(tiny_dataset, tmp_path / "run", **flags, checkpoint=folder / "0")
    assert result.code == 0 and ("best_model" in result.out) == (best == "0")
    expected = "this run replaces them and deletes those beyond --keep_checkpoints=3 as it saves"
    assert f"warning: {folder} holds later checkpoints than {folder / '0'}: {expected}" in result.err
    result = train_here(tiny_dataset, tmp_path / "run", **flags | {"max_iter": 5}, checkpoint="auto")
    assert result.err == "" and "epoch 1, step 1 of it" in result.out


def test_checkpoints_of_other_runs_are_refused(train_here, tiny_dataset, tmp_path):
    assert train_here(tiny_dataset, tmp_path / "a", max_iter=1).code == 0
    saved = tmp_path / "a" / NETWORK / "latest"
    refused = {
        "was trained with --model=": {"model": "ResNet18"},
        "--batch_size=16": {"batch_size": 8},  # in the middle of an epoch
        "saved without an average": {"use_ema": True},
        "--lr_strategy and --optimizer ask for RMSProp": {"lr_strategy": "cosine_decay_RMSProp"},
    }
    for expected, flags in refused.items():
        assert expected in train_here(tiny_dataset, tmp_path / "b", checkpoint=saved, **flags).error
    (tmp_path / "weights_only").mkdir()
    shutil.copy(saved / "weights.safetensors", tmp_path / "weights_only")
    error = train_here(tiny_dataset, tmp_path / "b", checkpoint=tmp_path / "weights_only").error
    assert "--pretrained_model" in error


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
    assert "was trained with --class_dim=4, not 5" in error
    error = train_here(tiny_dataset, tmp_path / "x", **flags, checkpoint=run / "latest" / "state.pt").error
    assert "contains no complete training state" in error
    rewrite_state(run / "latest", lambda state: state["position"].update(of_the_future=1))
    error = train_here(tiny_dataset, tmp_path / "x", **flags, checkpoint=run / "latest").error
    assert "was written by another version of this program" in error and "of_the_future" in error


def of_another_shape(state: dict) -> None:
    for values in state["training"]["optimizer"]["state"].values():
        values["momentum_buffer"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_shape, "its momentum_buffer has shape [3], but the parameter [8, 3, 3, 3]"),
        (lambda state: state["training"].pop("optimizer"), "'optimizer'"),
        (lambda state: state["position"].update(random=[{"cpu": torch.zeros(3, dtype=torch.uint8)}]), "RNG state"),
        (lambda state: state.pop("notes"), "by another version of this program ('notes')"),
    ],
    ids=["shapes", "no optimizer", "random state", "no notes"],
)
def test_states_that_do_not_fit(train_here, finished, tiny_dataset, tmp_path, change, message):
    """With checksums that are right; the fused optimizers would write beyond the end of what is too short."""
    folder = shutil.copytree(finished / NETWORK / "latest", tmp_path / "checkpoint")
    rewrite_state(folder, change)
    result = train_here(tiny_dataset, tmp_path / "x", num_epochs=3, use_ema=True, checkpoint=folder)
    assert result.code == 1 and message in result.error


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


def test_times_are_told_in_two_units():
    told = {8: "8 s", 99: "99 s", 120: "2 min", 5999: "1 h 40 min", 172800: "2 d 0 h", 270000: "3 d 3 h"}
    assert {seconds: shown_time(seconds) for seconds in told} == told


def test_losses_far_out_do_not_flatten_the_rest():
    figure = Figure()
    axes, calm = figure.subplots(1, 2)
    axes.plot([20.0, 2.5, 2.2, 2.0, 1.9, 1.8])
    calm.plot([7.0, 4.0, 3.0, 2.5, 2.3, 2.2])
    for each in (axes, calm):
        each.set_title("loss")
        leave_out_peaks(each)
    assert axes.get_ylim()[1] < 3 and axes.get_title() == "loss (up to 20)"
    assert calm.get_ylim()[1] > 7 and calm.get_title() == "loss"


def test_curves_never_end_a_run(tmp_path, monkeypatch, capsys):
    """TensorBoard fails in a folder whose name is not in UTF-8; whatever Matplotlib raises, it is a warning, too."""
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", lambda folder: "\udcff".encode())
    monkeypatch.setattr("utils.training.curves.draw_curves", lambda history, file: 1 / 0)
    with Curves(tmp_path) as curves:
        for epoch in range(2):
            curves.epoch(epoch, {"train_loss": 1.0})
    assert json.loads((tmp_path / "curves.json").read_text())[1] == {"epoch": 1, "train_loss": 1.0}
    assert capsys.readouterr().err.count("are not complete: 'utf-8' codec can't encode") == 1
