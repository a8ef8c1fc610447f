"""The record of a run: its flags, what was given, versions and commit; and what a resumed run says of it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from training import NETWORK, SMALL

from utils import __version__
from utils.flags import parse
from utils.training import record


def read(folder, number):
    return json.loads((folder / NETWORK / f"run_{number}.json").read_text())


def test_each_run_writes_its_flags(train_here, tiny_dataset, tmp_path):
    assert train_here(tiny_dataset, tmp_path, validate=False).code == 0
    first = read(tmp_path, 1)
    assert first["flags"].keys() == parse("train", []).values().keys()
    assert first["flags"]["lr"] == 0.01 and first["flags"]["total_images"] == 48, "what holds, settled"
    assert set(first["given"]) == {*SMALL, "data_dir", "model_save_dir", "validate"}
    assert first["command"].startswith("train.py --model=") and first["seed"] == 1 and first["processes"] == 1
    assert (
        first["version"] == __version__
        and first["versions"]["torch"] == torch.__version__
        and "opencv-python" in first["versions"]
    )
    assert first["device"].startswith("CPU") and first["resumed"] is None
    assert json.loads((tmp_path / NETWORK / "latest" / "manifest.json").read_text())["record"] == "run_1.json"


def test_a_resumed_run_says_which_flags_differ(train_here, tiny_dataset, tmp_path):
    train_here(tiny_dataset, tmp_path, validate=False)
    before = (tmp_path / NETWORK / "run_1.json").read_bytes()
    flags = {"validate": False, "checkpoint": "auto"}
    path = tmp_path / NETWORK / "run_1.json"
    changed = train_here(tiny_dataset, tmp_path, num_epochs=2, lr=0.005, **flags).out
    assert f"\nflags that differ from {path}: --num_epochs 2 (was 1), --lr 0.005 (was 0.01)\n" in changed
    assert path.read_bytes() == before
    assert read(tmp_path, 2)["resumed"] == str(tmp_path / NETWORK / "latest")
    same = train_here(tiny_dataset, tmp_path, num_epochs=2, lr=0.005, **flags).out
    assert f"\nthe flags are those of {tmp_path / NETWORK / 'run_2.json'}\n" in same


def test_the_flags_are_text_in_tensorboard(train_here, tiny_dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_here(tiny_dataset, tmp_path, validate=False, max_iter=1)
    events = EventAccumulator(str(tmp_path / NETWORK / "tensorboard")).Reload()
    (text,) = events.Tensors("run/text_summary")
    text = text.tensor_proto.string_val[0].decode()
    assert "| **--lr** | **0.01** |" in text and "| --l2_decay | 0.0001 |" in text and "| seed | 1 |" in text


def test_a_record_that_cannot_be_written(train_here, tiny_dataset, tmp_path, monkeypatch):
    write = record.write_text
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(record, "write_text", lambda path, *rest: write(tmp_path / "file" / path.name, *rest))
    result = train_here(tiny_dataset, tmp_path, validate=False)
    assert result.code == 0 and (tmp_path / NETWORK / "latest" / "manifest.json").exists()
    assert "warning: the flags of this run are not recorded: --model_save_dir: cannot write" in result.err


@pytest.mark.parametrize("damage", [None, "", "[]", '{"flags": 1}'])
def test_a_checkpoint_without_a_record(train_here, tiny_dataset, tmp_path, damage):
    train_here(tiny_dataset, tmp_path, validate=False)
    checkpoint = shutil.copytree(tmp_path / NETWORK / "latest", tmp_path / "copied")
    if damage is not None:
        (tmp_path / "run_1.json").write_text(damage)
    result = train_here(tiny_dataset, tmp_path / "b", validate=False, num_epochs=2, checkpoint=checkpoint)
    assert result.code == 0
    assert f"warning: {checkpoint} has no record of its flags, so" in result.err


def test_the_commit_is_that_of_the_projects_own_checkout(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)

    git("init")
    (tmp_path / "file").write_text("1")
    assert record.project_commit(tmp_path) is None, "nothing is committed"
    git("add", "file")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert record.project_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert record.project_commit(tmp_path) == f"{commit} + changes"
    (tmp_path / "project").mkdir()
    assert record.project_commit(tmp_path / "project") is None, "the checkout is somebody else's"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert record.project_commit() is None
