"""Which class a number stands for: what data say of it, and parts of them that number classes by different rules."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.errors import UserError
from utils.reading.class_names import imagenet_names, imagenet_synsets
from utils.reading.dataset import open_dataset
from utils.reading.image_list import ImageList
from utils.reading.numbering import Clash, check_parts, classes_seen, first_clash, folders_of_classes, known_names

ANIMALS = ("cat", "dog", "fox")


def write_folders(root: Path, part: str, names: tuple[str, ...] = ANIMALS) -> None:
    for name in names:
        (root / part / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / part / name / "1.png")


def write_list(root: Path, part: str, lines: dict[str, int]) -> None:
    (root / f"{part}_list.txt").write_text("".join(f"{path} {label}\n" for path, label in lines.items()))


def write_shard(path: Path, samples: dict[str, int]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, label in samples.items():
            for name, content in ((f"{key}.jpg", b"x"), (f"{key}.cls", b"%d" % label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def in_folders(part: str, names: tuple[str, ...] = ANIMALS) -> dict[str, int]:
    return {f"{part}/{name}/{image}.png": label for label, name in enumerate(names) for image in range(2)}


def parts(root: Path) -> tuple[ImageList, ImageList]:
    """The parts as train.py opens them, compared."""
    train = open_dataset(str(root), "train", 9)
    val = open_dataset(str(root), "val", 9, class_names=known_names(train, str(root)))
    check_parts(train, val, str(root))
    return train, val


# ------------------------------------------------------------------------------------------------- names that are known


def names_of_list(lines: dict[str, int], root: Path) -> list[str | None]:
    write_list(root, "train", lines)
    return list(known_names(open_dataset(str(root), "train"), str(root)))


def test_the_names_of_a_list_are_those_of_its_folders(tmp_path):
    assert names_of_list(in_folders("train", ("zebra", "ant")), tmp_path) == ["zebra", "ant"]
    assert names_of_list({"a/cat/1.jpg": 0, "b/cat/2.jpg": 0, "b/dog/1.jpg": 2}, tmp_path) == ["cat", None, "dog"]


@pytest.mark.parametrize(
    "lines",
    [
        {"images/1.jpg": 0, "images/2.jpg": 1},
        {"1.jpg": 0, "2.jpg": 1},
        {"day1/1.jpg": 0, "day2/2.jpg": 1, "day2/3.jpg": 0},
        {"cat/1.jpg": 0, "kitten/2.jpg": 0, "dog/3.jpg": 1},
        {"cat/1.jpg": 0, "cat/2.jpg": 0},
    ],
)
def test_folders_that_are_no_classes_name_none(lines, tmp_path):
    assert names_of_list(lines, tmp_path) == []


def test_a_file_of_names_beside_a_list(tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("0 Katze\n1 Hund\n2 Fuchs\n")
    write_list(tmp_path, "train", in_folders("train"))
    images = open_dataset(str(tmp_path), "train")
    assert known_names(images, str(tmp_path)) == ["Katze", "Hund", "Fuchs"]
    assert known_names(images, str(tmp_path), 3) == ["Katze", "Hund", "Fuchs"]
    assert classes_seen(images) == 3
    assert not capsys.readouterr().err
    assert known_names(images, str(tmp_path), 4) == ["cat", "dog", "fox"]
    assert "labels.txt has 3 names for 4 classes: ignoring the file" in capsys.readouterr().err
    for text, warning in (
        ("a\nb\n", "labels.txt has 2 names for 3 classes: ignoring the file"),
        ("dog\ncat\nfox\n", "names class 0 dog, but class 1 is in a folder dog: ignoring the file"),
        ("cat 2\ndog 0\nfox 1\n", "the numbers follow the names"),
    ):
        (tmp_path / "labels.txt").write_text(text)
        assert known_names(images, str(tmp_path)) == ["cat", "dog", "fox"]
        assert warning in capsys.readouterr().err


def test_the_names_of_shards_are_those_of_their_keys(tmp_path):
    write_shard(tmp_path / "train-0.tar", {"dog/1": 1, "cat/1": 0})
    write_shard(tmp_path / "train-1.tar", {"dog/2": 1})
    assert known_names(open_dataset(str(tmp_path), "train"), str(tmp_path)) == ["cat", "dog"]
    write_shard(tmp_path / "train-1.tar", {"2": 1})
    assert known_names(open_dataset(str(tmp_path), "train"), str(tmp_path)) == ()


def test_of_a_long_list_some_images_are_looked_at(monkeypatch):
    """The first and the last of each class are among them, and a class without images has no name."""
    monkeypatch.setattr("utils.reading.numbering.LOOKED_AT", 10)
    labels = np.repeat([0, 3, 1], 1000)
    paths = [f"{'abcd'[label]}/{number}.jpg" for number, label in enumerate(labels)]
    assert folders_of_classes(ImageList.from_paths(paths, labels)) == ["a", "b", None, "d"]
    for row in (0, 999, 1000, 2999):
        assert not folders_of_classes(ImageList.from_paths([*paths[:row], "x/y.jpg", *paths[row + 1 :]], labels))
    unlabeled = ImageList.from_paths([*paths, "x/y.jpg"], [*labels, -1])
    assert folders_of_classes(unlabeled) == ["a", "b", None, "d"]


# ------------------------------------------------------------------------------------------------------ orders of names


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (["a", "b"], ["a", "b"], None),
        (["a", "b"], ["a"], None),
        (["a", "b"], ["x", "y"], None),
        (["a", "b"], ["b", "a"], Clash("a", 0, 1)),
        (["a", "b"], ["b"], Clash("b", 1, 0)),
        (["a", None, "c"], [None, "a"], Clash("a", 0, 1)),
        (["crane", "a", "crane"], ["crane", "a", "crane"], None),
        ([], ["a"], None),
    ],
)
def test_names_that_two_orders_have_for_different_classes(first, second, clash):
    assert first_clash(first, second) == clash


# ---------------------------------------------------------------------------------------------- training and validation


def test_lists_that_agree(tmp_path):
    write_list(tmp_path, "train", in_folders("train"))
    write_list(tmp_path, "val", {"val/dog/7.png": 1, "val/x.png": 0})
    parts(tmp_path)


def test_lists_in_different_orders(tmp_path):
    write_list(tmp_path, "train", in_folders("train"))
    write_list(tmp_path, "val", in_folders("val", ("dog", "cat")))
    with pytest.raises(UserError, match=r"cat is class 0 in .*train_list.txt but class 1 in .*val_list.txt: number"):
        parts(tmp_path)


def test_a_class_that_training_never_has(tmp_path):
    write_list(tmp_path, "train", {f"{label}.png": label for label in range(5)})
    write_list(tmp_path, "val", {f"{label}.png": label for label in range(1, 6)})
    with pytest.raises(UserError, match=r"val_list.txt has images of class 5, such as .*/5.png, but .*train_list"):
        parts(tmp_path)


def test_training_in_a_list_and_validation_in_folders(tmp_path):
    """The folders of the list's paths, or a file of names, say what number a folder has."""
    write_folders(tmp_path, "val")
    write_list(tmp_path, "train", in_folders("train", ("fox", "cat", "dog")))
    _, val = parts(tmp_path)
    assert {val.folder(row): val.label(row) for row in range(3)} == {"fox": 0, "cat": 1, "dog": 2}
    write_list(tmp_path, "train", {f"{label}.png": label for label in range(3)})
    with pytest.raises(
        UserError, match=r"class folders, but .*train_list.txt has numbers.* such as cat are unknown: give"
    ):
        parts(tmp_path)
    with pytest.raises(UserError, match="class folders, but"):  # as eval.py opens it
        open_dataset(str(tmp_path), "val", 9)
    (tmp_path / "labels.txt").write_text("dog\nfox\ncat\n")
    _, val = parts(tmp_path)
    assert {val.folder(row): val.label(row) for row in range(3)} == {"dog": 0, "fox": 1, "cat": 2}


def test_training_in_folders_and_validation_in_a_list(tmp_path):
    write_folders(tmp_path, "train")
    write_list(tmp_path, "val", in_folders("val"))
    parts(tmp_path)
    write_list(tmp_path, "val", in_folders("val", ("fox", "cat", "dog")))
    with pytest.raises(UserError, match=r"cat is class 0 in .*/train but class 1 in .*val_list.txt"):
        parts(tmp_path)
    write_list(tmp_path, "val", {"a.png": 0, "b.png": 1})
    with pytest.raises(
        UserError, match=r"it is unknown whether 0 is cat: give folders or lists for both, or the class names"
    ):
        parts(tmp_path)
    (tmp_path / "label_names.txt").write_text("cat\ndog\nfox\n")
    parts(tmp_path)


def test_shards_and_folders(tmp_path):
    write_folders(tmp_path, "val")
    write_shard(tmp_path / "train-0.tar", {"1": 0, "2": 1, "3": 2})
    with pytest.raises(UserError, match=r"/val has class folders, but .*train-0.tar has numbers"):
        parts(tmp_path)
    write_shard(tmp_path / "train-0.tar", {"dog/1": 0, "fox/2": 1, "cat/3": 2})
    _, val = parts(tmp_path)
    assert {val.folder(row): val.label(row) for row in range(3)} == {"dog": 0, "fox": 1, "cat": 2}


def test_shards_and_a_list(tmp_path):
    write_shard(tmp_path / "train-0.tar", {"dog/1": 0, "fox/2": 1})
    write_list(tmp_path, "val", {"val/a.png": 0})
    parts(tmp_path)
    write_list(tmp_path, "val", {"val/fox/a.png": 0, "val/dog/b.png": 1})
    with pytest.raises(UserError, match=r"dog is class 0 in .*train-0.tar but class 1 in .*val_list.txt"):
        parts(tmp_path)


def test_validation_folders_are_numbered_as_training_was(tmp_path):
    """By the names that are given (of weights), also those of ImageNet; by their own only where nothing is known."""
    write_folders(tmp_path, "val", ("dog", "fox"))
    assert open_dataset(str(tmp_path), "val", 9).labels.tolist() == [0, 1]
    assert open_dataset(str(tmp_path), "val", 9, class_names=["cat", "dog", "fox"]).labels.tolist() == [1, 2]
    assert open_dataset(str(tmp_path), "val", 9, class_names=["Katze", "Hund", "Fuchs"]).labels.tolist() == [0, 1]
    write_folders(tmp_path / "imagenet", "val", ("n02102040", "n03888257"))
    labels = open_dataset(str(tmp_path / "imagenet"), "val", 1000, class_names=imagenet_names()).labels.tolist()
    assert labels == [217, 701] == [imagenet_synsets().index(name) for name in ("n02102040", "n03888257")]
    assert open_dataset(str(tmp_path / "imagenet"), "val", 1000).labels.tolist() == labels
    assert open_dataset(str(tmp_path / "imagenet"), "val", 2).labels.tolist() == [0, 1]
    write_folders(tmp_path, "train", ("cat", "dog"))
    with pytest.raises(UserError, match="has a class folder fox, which the training images lack"):
        open_dataset(str(tmp_path), "val", 9)
    with pytest.raises(UserError, match="has a class folder dog, but the training has no class of that name"):
        open_dataset(str(tmp_path), "val", 9, class_names=["fox", "Dog"])
