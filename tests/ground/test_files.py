"""Files appear whole or not at all, and what cannot be written is a line that names the flag."""

from __future__ import annotations

import errno
import mmap
import os
import resource
from pathlib import Path

import pytest

from utils import files
from utils.errors import UserError
from utils.files import check_can_write, read_file, write_text, written_together, written_whole


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


def test_what_a_killed_run_left_is_not_taken(tmp_path, monkeypatch):
    """Its temporary folder stays, for nobody can remove it; the next run, or one at the same time, has its own."""
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
    for size, kind in ((0, bytes), (1000, bytes), (2 << 20, mmap.mmap)):
        (tmp_path / "x").write_bytes(bytes(size))
        content = read_file(tmp_path / "x")
        assert isinstance(content, kind) and bytes(content) == bytes(size)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing")


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
