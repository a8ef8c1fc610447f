"""Checkpoints: written whole or not at all, found again, checked before they are trusted."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import NETWORK, environment

import models
from utils.errors import UserError
from utils.training import checkpoint
from utils.training.checkpoint import Position, RunFolder, find_checkpoint, holds_others, is_past, read_state


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run's folder with the checkpoints step_1, step_2 and latest (= step_2)."""
    model = models.build(NETWORK, class_dim=4)
    with RunFolder(tmp_path / "run") as run_folder:
        for step in (1, 2):
            assert run_folder.save([f"step_{step}", "latest"], model, Position(8), {"step": step}, None, {})
    return tmp_path / "run"


def save_again(folder: Path) -> None:
    with RunFolder(folder) as run_folder:
        run_folder.save(["step_3", "latest"], models.build(NETWORK, class_dim=4), Position(8), {"step": 3}, None, {})


@pytest.mark.parametrize("function", ["save_weights", "sync", "_checksum", "_put_in_place"])
@pytest.mark.parametrize("call", [1, 2])
def test_killed_during_a_save(folder, monkeypatch, function, call):
    """Wherever a save breaks off, a complete checkpoint is found, of this step or the one before."""
    original = getattr(checkpoint, function)
    calls = []

    class Killed(BaseException):
        """No handler of the program sees it, as none sees SIGKILL."""

    def killing(*args):
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return original(*args)

    monkeypatch.setattr(checkpoint, function, killing)
    try:
        save_again(folder)
    except Killed:
        assert find_checkpoint("auto", folder) is not None
        assert read_state(find_checkpoint("auto", folder))["training"]["step"] in (2, 3)
    else:
        assert function == "save_weights"  # it is called once only
    monkeypatch.undo()
    save_again(folder)
    assert read_state(folder / "latest")["training"]["step"] == 3
    assert not list(folder.glob(".*/")), "left behind"


def test_killed_between_the_renames(folder, monkeypatch):
    rename = os.replace

    class Killed(BaseException):
        pass

    def killing(source, target):
        if Path(source).name == ".latest.tmp":
            raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "replace", killing)
    with pytest.raises(Killed):
        save_again(folder)
    assert not (folder / "latest").exists()
    assert read_state(find_checkpoint("auto", folder))["training"]["step"] == 3


def test_a_file_of_a_checkpoint_and_the_folder_of_all_runs(folder):
    for path in (folder / "latest" / "state.pt", folder.parent):
        with pytest.raises(UserError, match=f"contains no complete training state; give {folder / 'latest'}$"):
            find_checkpoint(str(path), folder)


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(folder, capsys, damage, name):
    shutil.rmtree(folder / "latest")
    path = folder / "step_2" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-9] if damage == "cut" else content)
    assert find_checkpoint("auto", folder) == folder / "step_1"
    if not (name == "manifest.json" and damage == "missing"):  # without one it never was a checkpoint
        assert "step_2" in capsys.readouterr().err
    if (folder / "step_2" / "manifest.json").exists():
        with pytest.raises(UserError, match="step_2"):
            find_checkpoint(str(folder / "step_2"), folder)


def test_a_hostile_state_runs_no_code(folder, tmp_path):
    class Code:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"position": Code()}, folder / "latest" / "state.pt")
    with pytest.raises(UserError, match=r"state\.pt cannot be read"):
        read_state(folder / "latest")
    assert not (tmp_path / "ran").exists()


def test_old_checkpoints_are_deleted(tmp_path):
    model = models.build(NETWORK, class_dim=4)
    with RunFolder(tmp_path, keep=2) as run_folder:
        for epoch in range(12):
            run_folder.save([str(epoch), "latest"], model, Position(8), {"step": epoch}, None, {})
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"10", "11", "latest"}


def test_another_run_deletes_the_oldest(tmp_path):
    """By the order of the saves: never what was just written."""
    model = models.build(NETWORK, class_dim=4)
    for names in ("0", "1", "2", "step_16", "step_18"), ("0", "1", "step_3", "step_8"):
        with RunFolder(tmp_path, keep=2) as run_folder:
            for step, name in enumerate(names):
                run_folder.save([name], model, Position(8), {"step": step}, None, {})
                assert (tmp_path / name).is_dir()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"0", "1", "step_3", "step_8"}


def test_a_folder_that_is_being_deleted_is_no_checkpoint(tmp_path, monkeypatch):
    """Killed in the middle of it, the next run goes on with it."""
    model = models.build(NETWORK, class_dim=4)
    with RunFolder(tmp_path, keep=1) as run_folder, monkeypatch.context() as patch:
        run_folder.save(["0"], model, Position(8), {"step": 3}, None, {})
        patch.setattr(shutil, "rmtree", lambda path, **_: (path / "manifest.json").unlink(missing_ok=True))
        run_folder.save(["1"], model, Position(8), {"step": 6}, None, {})
    assert not (tmp_path / "0").exists() and (tmp_path / ".0.deleted" / "state.pt").exists()
    with RunFolder(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".holder", ".lock", "1"}


def test_what_was_saved_before(folder):
    assert is_past(folder / "step_1", folder / "step_2") and is_past(folder / "step_1", folder / "step_1")
    assert not is_past(folder / "step_2", folder / "step_1")
    assert not is_past(folder / "best_model", folder / "step_2")


def test_the_newest_is_the_one_written_last(folder):
    """Another run's, though it has fewer steps."""
    shutil.rmtree(folder / "latest")
    assert find_checkpoint("auto", folder) == folder / "step_2"
    assert holds_others(folder, None) and holds_others(folder, folder / "step_1")
    assert not holds_others(folder, folder / "step_2")
    with RunFolder(folder) as run_folder:
        run_folder.save(["step_1"], models.build(NETWORK, class_dim=4), Position(8), {"step": 1}, None, {})
    assert find_checkpoint("auto", folder) == folder / "step_1"
    assert holds_others(folder, folder / "step_2") and not holds_others(folder, folder / "step_1")
    assert not holds_others(folder / "step_1", None)


def test_clocks_do_not_matter(folder):
    """The newest checkpoint is the one of the last save, though the clock jumped back while it was written."""
    shutil.rmtree(folder / "latest")
    for name, time in (("step_1", 4e9), ("step_2", 1.0)):
        for path in (*(folder / name).iterdir(), folder / name):
            os.utime(path, (time, time))
    assert find_checkpoint("auto", folder) == folder / "step_2"


# Holds a folder, and has a child as training has reader workers: it ends a little later.
HOLDER = """
import os, sys, time
from pathlib import Path
from utils.training.checkpoint import RunFolder

folder = RunFolder(Path(sys.argv[1]))
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(0.5)
    os._exit(0)
print("taken", flush=True)
time.sleep(60)
"""


def test_one_run_at_a_time_in_a_folder(train_here, tiny_dataset, tmp_path, monkeypatch):
    """The other one is named; when it is killed, the folder is free."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / NETWORK)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "taken\n"
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "LOCK_PATIENCE", 0.0)
            error = train_here(tiny_dataset, tmp_path).error
        other.kill()
        other.wait()
        assert train_here(tiny_dataset, tmp_path).code == 0
    assert f"another run (process {other.pid} on {socket.gethostname()}) is writing to {tmp_path / NETWORK}" in error
    assert {path.name for path in (tmp_path / NETWORK).iterdir()} >= {"0", "latest"}


def test_a_file_system_without_locks(train_here, tiny_dataset, tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    result = train_here(tiny_dataset, tmp_path)
    assert result.code == 0
    assert "cannot be locked" in result.err


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("position", "epoch", -1),
        ("position", "epoch", "1"),
        ("position", "step_in_epoch", None),
        ("position", "seed", "x"),
        ("position", "best", None),
        ("training", "step", -5),
        (None, "notes", None),
        ("notes", "class_dim", torch.ones(2)),
        ("notes", "class_names", ["a", torch.ones(2)]),
        (None, "training", []),
    ],
)
def test_a_state_of_values_that_none_has(folder, part, key, value):
    state = torch.load(folder / "latest" / "state.pt", weights_only=True)
    (state[part] if part else state)[key] = value
    torch.save(state, folder / "latest" / "state.pt")
    with pytest.raises(UserError, match=r"state\.pt (cannot be read|was written by another version)"):
        read_state(folder / "latest")


def test_saves_that_a_killed_run_did_not_end(tmp_path):
    """They go with the next run; one that only lacked its name stays, as it can be resumed from."""
    half, whole = tmp_path / ".step_7.tmp", tmp_path / ".step_9.tmp"
    for path in (half, whole):
        path.mkdir()
        (path / "state.pt").touch()
    (whole / "manifest.json").write_text('{"save": 1, "step": 9, "crc32": {}}')
    with RunFolder(tmp_path):
        assert not half.exists() and whole.exists()
