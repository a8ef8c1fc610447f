"""Class folders into lists for training and validation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.reading.dataset import open_dataset
from utils.reading.numbering import known_names
from utils.reading.split import split_class_folders


def make(root: Path, **counts: int) -> None:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:03}.jpg").touch()


@pytest.mark.parametrize("below", ["", "train"])
def test_every_class_is_held_out_in_its_share(tmp_path, capsys, below):
    make(tmp_path / below, cat=50, dog=10, emu=2, fox=1, gnu=0)
    split_class_folders(str(tmp_path), 0.2, 0)
    said = capsys.readouterr()
    assert "classes with only one image, which goes to training (1): fox" in said.err and "skipped (1): gnu" in said.err
    assert f"train.py --data_dir={tmp_path} --class_dim=4" in said.out
    parts = [open_dataset(str(tmp_path), part, 4) for part in ("train", "val")]
    counts = [Counter(images.labels.tolist()) for images in parts]
    assert counts == [{0: 40, 1: 8, 2: 1, 3: 1}, {0: 10, 1: 2, 2: 1}]
    train, val = ({images.path(row) for row in range(len(images))} for images in parts)
    assert not train & val and all(Path(path).is_file() for path in train | val)
    assert list(known_names(parts[0], str(tmp_path))) == ["cat", "dog", "emu", "fox"]
    numbers = sorted(int(path[-7:-4]) for path in val if "cat" in path)
    assert numbers != list(range(10)) and numbers != list(range(40, 50))  # drawn, not cut off


def test_the_seed_draws_the_same_again(tmp_path):
    lists = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / name, cat=20, dog=20)
        split_class_folders(str(tmp_path / name), 0.3, seed)
        lists.append((tmp_path / name / "val_list.txt").read_text())
    assert lists[0] == lists[1] != lists[2]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("val/cat/1.jpg", "val already exists"),
        ("train_list.txt", "train_list.txt already exists"),
        ("cat/1.jpg", "has images in 1 folders"),
        ("cat/a\nb.jpg", "a line break"),
    ],
)
def test_what_cannot_be_split(tmp_path, there, said):
    make(tmp_path, **({} if there == "cat/1.jpg" else {"dog": 2}))
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"^--split: .*{said}"):
        split_class_folders(str(tmp_path), 0.2, 0)
    assert sorted(tmp_path.iterdir()) == before
