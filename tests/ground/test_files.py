"""Files appear whole or not at all, and what cannot be written is a line that names the flag."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from utils import files
from utils.console import warn
from utils.errors import UserError
from utils.files import (
    check_can_write,
    check_can_write_into,
    read_file,
    similar_path,
    write_text,
    written_together,
    written_whole,
)

ROOT = Path(__file__).resolve().parents[2]


def test_text_replaces_what_was_there(tmp_path):
    path = tmp_path / "new folder" / "results.json"
    for text in ("zwölf\n", "dreizehn\n"):
        write_text(path, text, "--save_json_path")
        assert path.read_bytes() == text.encode()
    assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")

    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=f"--save_json_path: cannot write {path}: No space left on device"):
        write_text(path, "new", "--save_json_path")
    assert path.read_text() == "old" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("is_folder", [False, True])
def test_an_interrupted_block_leaves_nothing(tmp_path, is_folder):
    path = tmp_path / "weights"
    with pytest.raises(KeyboardInterrupt), written_whole(path, "--output") as temporary:
        if is_folder:
            temporary.mkdir()
            (temporary / "part").write_text("half")
        else:
            temporary.write_text("half")
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["file/below", "n" * 300])
def test_impossible_places(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    for write in (check_can_write, lambda path, flag: write_text(path, "text", flag)):
        with pytest.raises(UserError, match="--per_class_path: cannot write"):
            write(tmp_path / name, "--per_class_path")
    assert os.listdir(tmp_path) == ["file"]


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path):
    path = tmp_path / "table.csv"
    check_can_write(path, "--per_class_path")
    assert not path.exists()
    path.write_text("kept")
    check_can_write(path, "--per_class_path")
    assert path.read_text() == "kept"


def test_two_runs_that_write_the_same(tmp_path, monkeypatch):
    """A run at the same time has a temporary folder of its own, and leaves that of the first alone."""
    path = tmp_path / "weights"
    lent = []
    with written_whole(path, "--output") as temporary:
        lent.append(temporary)
        temporary.mkdir()
        (temporary / "old").write_text("left")
        with written_whole(path, "--output") as other:
            lent.append(other)
            assert not other.exists()
            other.mkdir()
            (other / "new").write_text("whole")
        assert os.listdir(path) == ["new"]
        (path / "new").unlink()
    assert lent[0] != lent[1]
    assert os.listdir(path) == ["old"] and os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_written_out_before_the_rename_and_readable_as_any_new_file(tmp_path, monkeypatch, is_folder):
    done = []
    monkeypatch.setattr(files, "sync", lambda path: done.append(path.name))
    monkeypatch.setattr(os, "replace", lambda a, b, replace=os.replace: (done.append("renamed"), replace(a, b)))
    path, plain = tmp_path / "out" / "weights", tmp_path / "plain"
    with written_whole(path, "--output") as temporary:
        if is_folder:
            temporary.mkdir()
            (temporary / "a").write_text("text")
            plain.mkdir()
        else:
            temporary.write_text("text")
            plain.touch()
    assert done == ["weights", *(["a"] if is_folder else []), "renamed", "out"]
    assert path.stat().st_mode == plain.stat().st_mode


def test_files_that_belong_together_appear_together(tmp_path):
    folder = tmp_path / "ResNet50"
    with pytest.raises(KeyboardInterrupt), written_together(folder, "--save_inference") as temporary:
        (temporary / "model").write_text("half")
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)
    for text in ("first", "second"):
        with written_together(folder, "--save_inference") as temporary:
            (temporary / "model").write_text(text)
            (temporary / "params").write_text(text)
            assert text == "first" or (folder / "model").read_text() == "first"
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"model": text, "params": text}


def test_files_are_read_or_mapped_by_their_size(tmp_path):
    for size, kind in ((0, bytes), (1000, bytes), (1001, mmap.mmap)):
        (tmp_path / "x").write_bytes(bytes(size))
        content = read_file(tmp_path / "x", 1000)
        assert isinstance(content, kind) and bytes(content) == bytes(size)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("'{}/photo.png'", "photo.png"),
        ("{}/photo.png ", "photo.png"),
        ("\u201c{}/photo.png\u201d", "photo.png"),
        ("{}\\photo.png", "photo.png"),
        ("{}/Photo.PNG", "photo.png"),
        ("{}/photo", "photo.png"),
        ("{}/ph0to.png", "photo.png"),
        ("{}/other.jpg", ""),
        ("{}/nowhere/photo.png", ""),
        ("0", ""),
        ("", ""),
    ],
)
def test_a_path_that_was_probably_meant(tmp_path, monkeypatch, typed, meant):
    (tmp_path / "photo.png").touch()
    monkeypatch.chdir(tmp_path)
    assert similar_path(typed.format(tmp_path)) == (f"; did you mean {tmp_path / meant}?" if meant else "")


def test_a_folder_may_have_more_files_than_a_process_may_open(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).write_bytes(bytes(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, max(map(int, os.listdir("/dev/fd"))) + 50), hard))
    try:
        contents = [read_file(path) for path in tmp_path.iterdir()]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(contents) == 100


def test_a_device_is_written_to_and_a_link_stays_one(tmp_path):
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    link.symlink_to(file)
    for path in (pipe, link):
        check_can_write(path, "--save_json_path")
        write_text(path, "text", "--save_json_path")
    assert os.read(reader, 10) == b"text" and stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink() and file.read_text() == "text"
    os.close(reader)


def test_looking_whether_a_folder_can_be_written_into_changes_nothing(tmp_path):
    check_can_write_into(tmp_path / "new", "--vis_dir")
    assert not os.listdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--vis_dir: cannot write .*file: File exists"):
        check_can_write_into(tmp_path / "file", "--vis_dir")


def test_what_killed_runs_left_is_deleted_or_named(tmp_path, capsys):
    """That of this machine, unless somebody still holds it, goes with the next run; another machine's is named."""
    left = tmp_path / f".unfinished.{socket.gethostname()}.abc"
    other = tmp_path / ".unfinished.elsewhere.abc"
    for folder in (left, other):
        folder.mkdir()
        (folder / "half").touch()
    write_text(tmp_path / "x", "text", "--output")
    assert sorted(os.listdir(tmp_path)) == [other.name, "x"]
    assert f"{other} belongs to a process on another machine: delete it" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_while_it_writes(tmp_path, number):
    """The process ends of the signal, and leaves nothing."""
    path = tmp_path / "new" / "weights"
    pid = os.fork()
    if not pid:
        signal.signal(number, signal.SIG_DFL)
        with written_whole(path, "--output") as temporary:
            temporary.touch()
            os.kill(os.getpid(), number)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == number
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_full_disk_under_a_library_that_has_errors_of_its_own(tmp_path, library):
    with (
        pytest.raises(UserError, match=r"--output: cannot write .*x: .*No space left on device"),
        written_whole(tmp_path / "x", "--output"),
    ):
        if library == "safetensors":
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        with open("/dev/full", "wb") as file:
            torch.save({"x": torch.zeros(100_000)}, file)
    assert not os.listdir(tmp_path)


def test_closed_streams_are_opened(tmp_path):
    """As of cron jobs and daemons: what is opened next must not become the standard output."""
    code = "import utils, sys; sys.stderr.write(str(sys.stdin.read())); print(1, flush=True); open('x', 'w').write('2')"
    words = ["sh", "-c", f'exec "{sys.executable}" -c "{code}" <&- >&- 2>&-']
    assert subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}).returncode == 0
    assert (tmp_path / "x").read_text() == "2"


def test_nobody_hears_a_warning(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        warn("lost")
        monkeypatch.undo()
        with pytest.raises(OSError):
            full.close()
