"""What is said of a list none of whose paths exists."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from loading import save_picture

from utils.errors import UserError
from utils.reading.dataset import open_dataset
from utils.reading.image_list import ImageList


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        save_picture(root / "images" / "猫 cat" / f"{number}.png", number)
    return root


LINES = {
    "backslashes": ("images\\猫 cat\\{}.png {}", "write / for \\"),
    "quotes": ('"images/猫 cat/{}.png" {}', "remove the quotes"),
    "commas": ("'images/猫 cat/{}.png', {}", "remove the quotes"),
    "several labels": (
        "images/猫 cat/{}.png 0 {}",
        "each line has several labels: keep one, or ",
    ),
    "a folder too few": ("猫 cat/{}.png {}", "add a leading images/"),
    "another machine": ("/home/me/data/images/猫 cat/{}.png {}", "remove the leading /home/me/data/"),
    "a drive": ("D:\\data\\images\\猫 cat\\{}.png {}", "write / for \\; remove the leading D:/data/"),
    "capitals": ("Images/猫 Cat/{}.PNG {}", "does: correct the capitals (0.png for 0.PNG)"),
    "a suffix": ("images/猫 cat/{}.jpg {}", "does: write the suffix .png instead of .jpg"),
    "no suffix": ("images/猫 cat/{} {}", "does: write the suffix .png instead of none"),
}


@pytest.mark.parametrize("case", LINES)
def test_what_does_not_fit_is_said(tmp_path, pictures, case):
    line, said = LINES[case]
    root = shutil.copytree(pictures, tmp_path / "data")
    (root / "train_list.txt").write_text("".join(line.format(number, number) + "\n" for number in range(3)))
    with pytest.raises(UserError) as caught:
        open_dataset(str(root), "train", 3)
    message = str(caught.value)
    assert message.startswith(f"{root}/train_list.txt: none of its paths exists, such as ") and said in message
    assert f"but {root}/images/猫 cat/0.png does: " in message
    # A list without labels, or whose labels are left out.
    with pytest.raises(UserError, match=re.escape(said.split(": keep")[0].removeprefix("does: ")) if said else ""):
        ImageList.find(str(root / "train_list.txt"))


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "shift_jis"])
def test_encodings(tmp_path, pictures, encoding):
    root = shutil.copytree(pictures, tmp_path / "data")
    (root / "images" / "猫 cat").rename(root / "images" / "日本 中")
    lines = "".join(f"images\\日本 中\\{number}.png {number}\n" for number in range(3))
    (root / "train_list.txt").write_bytes(lines.encode(encoding))
    with pytest.raises(UserError, match=re.escape(f"save it as UTF-8 (it is in {encoding.upper()})")):
        open_dataset(str(root), "train", 3)


def test_relative_to_the_folder_that_one_is_in(tmp_path, pictures, monkeypatch):
    root = shutil.copytree(pictures, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    (root / "train_list.txt").write_text("data/images/猫 cat/0.png 0\n")
    with pytest.raises(UserError, match="remove the leading data/"):
        open_dataset("data", "train", 3)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "photos.txt").write_text("data/images/猫 cat/0.png\n")
    with pytest.raises(UserError, match=r"add a leading \.\./"):
        ImageList.find("lists/photos.txt")


def test_lists_of_files_that_are_nowhere_are_left_to_the_reader(tmp_path, pictures):
    root = shutil.copytree(pictures, tmp_path / "data")
    (root / "train_list.txt").write_text("".join(f"train/{number}.jpg 0\n" for number in range(1000, 1100)))
    assert len(open_dataset(str(root), "train", 3)) == 100
    # One file of the same name says nothing of the others, and one that is there says that paths are right.
    save_picture(root / "images" / "1000.jpg", 0)
    assert len(open_dataset(str(root), "train", 3)) == 100
    (root / "train_list.txt").write_text("a\\0.png 0\nimages/猫 cat/0.png 0\nb\\0.png 0\n")
    assert len(open_dataset(str(root), "train", 3)) == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.png,1", "line 1: 'a.png,1' has no label: write `relative/path label`: write a blank instead of the comma"),
        ("a.png 0,1", "line 1: 'a.png 0,1' has several labels, 0,1: "),
    ],
)
def test_lines_of_other_kinds(tmp_path, line, said):
    (tmp_path / "train_list.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=re.escape(said)):
        open_dataset(str(tmp_path), "train", 3)
