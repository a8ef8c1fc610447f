"""The file of image features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from files import largest_file

from utils.errors import UserError
from utils.evaluation.features import FeatureFile, Features
from utils.evaluation.predictions import unescaped


def numbered(start: int, stop: int, channels: int = 3) -> list[Features]:
    """Features of images that are called by their numbers."""
    return [Features(str(number), np.full(channels, number, np.float32)) for number in range(start, stop)]


def assert_numbered(path: Path, count: int) -> None:
    """Both files hold what `numbered` made, and nothing else is left."""
    assert (np.load(path) == np.arange(count)[:, None]).all() and len(np.load(path)) == count
    assert path.with_suffix(".npy.txt").read_text().split() == [str(number) for number in range(count)]
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}.txt"}


def interrupted(path: Path, features: list[Features]) -> None:
    with pytest.raises(KeyboardInterrupt), FeatureFile(str(path)) as file:
        file.write(features)
        raise KeyboardInterrupt


def test_features_of_many_rows(tmp_path):
    path = tmp_path / "f.npy"
    with FeatureFile(str(path)) as file:
        for start in range(0, 3000, 7):
            file.write(numbered(start, min(start + 7, 3000)))
    assert np.load(path).shape == (3000, 3)
    assert_numbered(path, 3000)


def test_a_line_per_name_and_no_file_of_the_users_is_touched(tmp_path):
    names = ["a\nb.jpg", "c\r.jpg", "d\te\\n.jpg", "f.jpg"]
    (tmp_path / "photos.txt").write_text("dear to its owner")
    with FeatureFile(str(tmp_path / "photos.npy")) as file:
        file.write([Features(name, np.zeros(3, np.float32)) for name in names])
    with (tmp_path / "photos.npy.txt").open() as lines:
        assert [unescaped(line.rstrip("\n")) for line in lines] == names
    assert (tmp_path / "photos.txt").read_text() == "dear to its owner"
    with FeatureFile(str(tmp_path / "photos.npy"), resume=True) as file:
        assert set(file.done) == set(names)


@pytest.mark.parametrize("row_bytes", [0, 5, 12], ids=["no row", "part of a row", "a row"])
@pytest.mark.parametrize("name_bytes", [0, 1, 2], ids=["no name", "part of a name", "a name"])
def test_interrupted_features_are_resumed(tmp_path, row_bytes, name_bytes):
    """From the last image of which both the row and the name are whole; what was complete before stays till the end."""
    path = tmp_path / "f.npy"
    with FeatureFile(str(path)) as file:
        file.write(numbered(0, 2))
    interrupted(path, numbered(0, 5))
    assert len(np.load(path)) == 2
    rows, names = (tmp_path / "f.npy.unfinished", tmp_path / "f.npy.txt.unfinished")
    rows.write_bytes(rows.read_bytes()[: -12 + row_bytes or None])
    names.write_bytes(names.read_bytes()[: -2 + name_bytes or None])
    with FeatureFile(str(path), resume=True) as file:
        done = 5 if (row_bytes, name_bytes) == (12, 2) else 4
        assert set(file.done) == {str(number) for number in range(done)}
        file.write(numbered(done, 7))
    assert_numbered(path, 7)
    with FeatureFile(str(path), resume=True) as file:  # a complete file
        file.write(numbered(7, 8))
    assert_numbered(path, 8)


def test_a_run_without_resume_starts_over(tmp_path):
    interrupted(tmp_path / "f.npy", numbered(3, 9))
    with FeatureFile(str(tmp_path / "f.npy")) as file:
        assert not file.done
        file.write(numbered(0, 1))
    assert_numbered(tmp_path / "f.npy", 1)


def test_nothing_written_leaves_nothing(tmp_path):
    for resume in (False, True):
        with FeatureFile(str(tmp_path / "f.npy"), resume):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("array", [np.zeros((2, 3)), np.zeros(4, np.float32), None], ids=["float64", "1-D", "a text"])
def test_resume_refuses_other_files(tmp_path, array):
    path = tmp_path / "f.npy"
    path.write_text("dear to its owner") if array is None else np.save(path, array)
    (tmp_path / "f.npy.txt").touch()
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"^--features_path: .*f\.npy is not a file of features: give another one$"):
        FeatureFile(str(path), resume=True)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", [b"no", b"\x93NUMPY\x01\x00"])
def test_resume_refuses_other_files_without_names(tmp_path, content):
    path = tmp_path / "f.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a file of features"):
        FeatureFile(str(path), resume=True)
    np.save(path, np.zeros((2, 3), np.float32))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"f\.npy has no names of its images, .*f\.npy\.txt: give another one"):
        FeatureFile(str(path), resume=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_features_of_another_network_are_not_added(tmp_path):
    path = tmp_path / "f.npy"
    with FeatureFile(str(path)) as file:
        file.write(numbered(0, 2))
    message = "have 3 channels, but this network's have 4: give another --features_path"
    with pytest.raises(UserError, match=message), FeatureFile(str(path), resume=True) as file:
        file.write(numbered(2, 3, channels=4))
    with FeatureFile(str(path), resume=True) as file:
        assert set(file.done) == {"0", "1"}
    assert_numbered(path, 2)


def test_what_a_full_disk_left_is_resumed(tmp_path):
    message = r"^--features_path .*f\.npy: file too large$"
    with largest_file(200), pytest.raises(UserError, match=message), FeatureFile(str(tmp_path / "f.npy")) as file:
        for start in range(0, 100, 2):
            file.write(numbered(start, start + 2))
    with FeatureFile(str(tmp_path / "f.npy"), resume=True) as file:
        assert set(file.done) == set("012345")  # 128 bytes of header, 12 for a row
        file.write(numbered(6, 9))
    assert_numbered(tmp_path / "f.npy", 9)


def test_a_folder_in_the_way_of_the_finished_file(tmp_path):
    (tmp_path / "f.npy").mkdir()
    with (
        pytest.raises(UserError, match=r"^--features_path .*f.npy: is a directory$"),
        FeatureFile(str(tmp_path / "f.npy")) as file,
    ):
        file.write(numbered(0, 3))
