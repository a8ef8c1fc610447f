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
from training import NETWORK, SMALL, assert_same_checkpoint, losses

from utils.checkpoint import find_checkpoint, read_state
from utils.errors import run_script


def test_mixed_images_have_no_training_accuracy(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, use_mixup=True, use_label_smoothing=True)
    assert result.code == 0
    assert re.search(r"train batch 0\]  loss [\d.]+, lr ", result.out)
    assert re.search(r"\[End pass 0\]  train_loss [\d.]+, test_loss [\d.]+, test_acc1 ", result.out)


def test_max_iter_stops_and_saves(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, num_epochs=5, max_iter=4)
    assert result.code == 0
    assert len(losses(result.out)) == 4
    assert re.search(r"^saved in .*: latest, best_model \(test_acc1 [\d.]+\), curves.png$", result.out, re.MULTILINE)
    assert {"0", "step_4", "latest"} <= {path.name for path in (tmp_path / NETWORK).iterdir()}


def test_a_loss_that_explodes_names_step_rate_and_images(train_here, tiny_dataset, tmp_path):
    """What was saved before stays, and can be resumed."""
    assert train_here(tiny_dataset, tmp_path).code == 0
    before = (tmp_path / NETWORK / "latest" / "state.pt").read_bytes()
    result = train_here(tiny_dataset, tmp_path, lr=1e30, num_epochs=2, checkpoint="auto")
    error = result.error
    # The step with the absurd rate still has a finite loss; the one after it has not.
    assert re.search(r"the loss of step 4 is not finite \(learning rate 1e\+30\)", error)
    assert len(re.findall(r"train/\w+/\d+\.jpg", error)) == 16
    assert (tmp_path / NETWORK / "latest" / "state.pt").read_bytes() == before
    assert find_checkpoint("auto", tmp_path / NETWORK).name == "latest"


def test_an_epoch_without_a_finite_loss_is_not_saved(train_here, tiny_dataset, tmp_path):
    """Float16 skips such steps, as the loss scale may mend them; it has not mended any of these."""
    flags = {"use_fp16": True, "amp_dtype": "float16", "validate": False}
    assert train_here(tiny_dataset, tmp_path, **flags).code == 0
    before = (tmp_path / NETWORK / "latest" / "state.pt").read_bytes()
    result = train_here(tiny_dataset, tmp_path, **flags, lr=1e30, num_epochs=9, checkpoint="auto")
    assert "[End pass 1]" in result.out  # its first loss was finite
    assert "no loss of epoch 2 was finite (learning rate 1e+30): lower --lr" in result.error
    assert not (tmp_path / NETWORK / "2").exists()
    assert (tmp_path / NETWORK / "0" / "state.pt").read_bytes() == before


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
    assert again.code == 0 and "nothing is left to do: the run has its --num_epochs=2" in again.out


def test_checkpoints_of_other_runs_are_refused(train_here, tiny_dataset, tmp_path):
    assert train_here(tiny_dataset, tmp_path / "a", max_iter=1).code == 0
    saved = tmp_path / "a" / NETWORK / "latest"
    refused = {
        "is of --model=": {"model": "ResNet18"},
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
