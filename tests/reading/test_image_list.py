"""Lists of images: list files, class folders, plain folders, tar shards."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from archives import tar_of
from loading import entries, numbered_images, save_picture

from reader import OpenCVLoader
from utils.errors import UserError
from utils.reading.dataset import open_dataset
from utils.reading.decode import UnreadableImage
from utils.reading.image_list import ImageList
from utils.reading.shared_array import SharedArray
from utils.reading.tar_shards import TarShards
from utils.reading.transforms import EvalTransform, TrainTransform


@pytest.fixture
def folder(tmp_path):
    return numbered_images(tmp_path)


# ----------------------------------------------------------------------------------------------------------- list files


def list_of(tmp_path, text: str | bytes, class_dim: int | None = 10) -> ImageList:
    path = tmp_path / "some_list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return ImageList.from_list_file(str(path), "root", class_dim)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.jpg 0\nb.jpg 9\n", [("root/a.jpg", 0), ("root/b.jpg", 9)]),
        ("a.jpg 0\nb.jpg 9", [("root/a.jpg", 0), ("root/b.jpg", 9)]),
        ("a.jpg\t1\r\n\r\n  b.jpg   2  \r\n\n", [("root/a.jpg", 1), ("root/b.jpg", 2)]),
        ("with a blank 7.jpg 3\n", [("root/with a blank 7.jpg", 3)]),
        ("/absolute/a.jpg 007\n", [("/absolute/a.jpg", 7)]),
        ("\ufeff画像/é.jpg 4\n", [("root/画像/é.jpg", 4)]),
        ("5 6\n", [("root/5", 6)]),
    ],
)
def test_list_lines(tmp_path, text, expected):
    assert entries(list_of(tmp_path, text)) == expected


def test_list_paths_that_are_not_utf8(tmp_path):
    images = list_of(tmp_path, b"caf\xe9.jpg 1\n")
    assert os.fsencode(images.path(0)) == b"root/caf\xe9.jpg"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a.jpg 1\n\nb.jpg\n", "line 3: 'b.jpg' has no label"),
        ("17\n", "line 1: '17' has no label"),
        ("a.jpg cat\n", "line 1: label 'cat' of 'a.jpg cat' is not a whole number"),
        ("a.jpg 1.5\n", "label '1.5'"),
        ("a.jpg x1\n", "label 'x1'"),
        ("a.jpg -1\n", "label -1 of 'a.jpg -1' is not in 0..9"),
        ("a.jpg 1\nb.jpg 10\n", "line 2: label 10 of 'b.jpg 10' is not in 0..9"),
        ("a.jpg 99999999999999999999\n", "label 99999999999999999999"),
        ("", "is empty"),
        ("\n \n", "is empty"),
    ],
)
def test_bad_lists_are_named_with_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        list_of(tmp_path, text)
    assert str(tmp_path / "some_list.txt") in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_long_lists_are_parsed_in_blocks(tmp_path):
    """The list is longer than a block, whose end falls inside a line."""
    names = [f"folder_{i % 97}/image number {i}.jpg" for i in range(500_000)]
    images = list_of(tmp_path, "".join(f"{name} {i % 1000}\n" for i, name in enumerate(names)), 1000)
    assert len(images) == len(names)
    assert all(images.path(i) == f"root/{names[i]}" for i in range(0, len(names), 997))
    np.testing.assert_array_equal(images.labels, np.arange(len(names)) % 1000)
    with open(tmp_path / "some_list.txt", "a") as file:
        file.write("bad\n")
    with pytest.raises(UserError, match="line 500001: 'bad'"):
        ImageList.from_list_file(str(tmp_path / "some_list.txt"), "root")


def read_list(tmp_path: Path, content: bytes) -> ImageList:
    (tmp_path / "list.txt").write_bytes(content)
    return ImageList.from_list_file(str(tmp_path / "list.txt"), str(tmp_path), 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg 1\n".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
        (b"a.jpg,1\n", "line 1: 'a.jpg,1' has no label"),
        (b"x" * 100_000, "has no label"),
        (bytes(range(1, 256)) * 9, "line 1"),
    ],
)
def test_files_that_are_no_lists(tmp_path, content, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_list(tmp_path, content)
    assert len(str(caught.value)) < 2000 and "\n" not in str(caught.value)


def test_odd_but_valid_lists(tmp_path):
    image = tmp_path / "a.jpg"
    image.write_bytes(b"x")
    assert len(read_list(tmp_path, b"a.jpg 1\n")) == 1
    assert [read_list(tmp_path, b"a.jpg 1\na.jpg 1\na.jpg 2").label(i) for i in range(3)] == [1, 1, 2]
    assert read_list(tmp_path, f"{image} 1\n".encode()).read(0) == b"x"
    for name in (b"a\0b.jpg", b"x" * 5000, b"."):
        with pytest.raises(UnreadableImage):
            read_list(tmp_path, name + b" 1\n").read(0)


def test_lists_without_labels_are_text_as_those_with_labels(tmp_path):
    path = tmp_path / "photos.txt"
    path.write_bytes(b"\xef\xbb\xbfa b.jpg 1\r\n\nc.jpg\n")
    assert entries(ImageList.find(str(path))) == [(f"{tmp_path}/a b.jpg", -1), (f"{tmp_path}/c.jpg", -1)]
    for order in ("utf-16", "utf-16-be"):
        path.write_bytes("\ufeffa.jpg\n".encode(order))
        with pytest.raises(UserError, match=r"photos\.txt is in UTF-16: save it as UTF-8"):
            ImageList.find(str(path))
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        ImageList.find(str(tmp_path / "none.txt"))


# -------------------------------------------------------------------------------------------------------------- folders


def test_class_folders(tmp_path):
    for name in ("zebra/1.JPEG", "ant/deep/er/3.png", "ant/2.jpg", "ant/notes.txt", ".hidden/4.jpg"):
        save_picture(tmp_path / "train" / name, 0) if not name.endswith("txt") else (
            tmp_path / "train" / name
        ).write_text("no image")
    images = open_dataset(str(tmp_path), "train", 2)
    root = str(tmp_path / "train")
    assert entries(images) == [(f"{root}/ant/2.jpg", 0), (f"{root}/ant/deep/er/3.png", 0), (f"{root}/zebra/1.JPEG", 1)]
    assert images.class_names == ["ant", "zebra"]
    with pytest.raises(UserError, match="2 class folders, more than --class_dim 1"):
        open_dataset(str(tmp_path), "train", 1)


def test_folder_without_labels(tmp_path):
    save_picture(tmp_path / "b.jpg", 0)
    save_picture(tmp_path / "sub" / "a.png", 0)
    assert entries(ImageList.from_folder(str(tmp_path))) == [(f"{tmp_path}/b.jpg", -1), (f"{tmp_path}/sub/a.png", -1)]


def test_listing_looks_at_a_folder_once(tmp_path, monkeypatch):
    """A million files make a million calls of anything that is done for each."""
    for number in range(20):
        (tmp_path / f"{number % 2}/deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{number % 2}/deep/{number}.jpg").touch()
    calls = []
    relpath = os.path.relpath
    monkeypatch.setattr(os.path, "relpath", lambda *paths: calls.append(paths) or relpath(*paths))
    assert len(ImageList.from_class_folders(str(tmp_path))) == 20
    assert len(calls) == 2


def test_list_paths_may_be_relative_to_the_split(folder):
    (folder / "val_list.txt").write_text("missing.jpg 0\n3.jpg 1\n")
    assert open_dataset(str(folder), "val", 3).path(1) == f"{folder}/val/3.jpg"


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no such folder$"):
        open_dataset(str(tmp_path / "nowhere"), "train", 3)
    (tmp_path / "data.zip").touch()
    with pytest.raises(UserError, match=r"data\.zip is a file: give the folder of the images, and unpack an archive"):
        open_dataset(str(tmp_path / "data.zip"), "train", 3)
    with pytest.raises(UserError, match=r"neither train_list\.txt nor class folders train/NAME/"):
        open_dataset(str(tmp_path), "train", 3)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="no image"):
        open_dataset(str(tmp_path), "train", 3)
    with pytest.raises(UserError, match="no image"):
        ImageList.from_folder(str(tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        ImageList.from_folder(str(tmp_path / "nowhere"))


def test_validation_classes_have_the_numbers_of_training(data):
    for part in ("train", "val"):
        (data / f"{part}_list.txt").unlink()
    shutil.rmtree(data / "val" / "blue")
    images = open_dataset(str(data), "val", 4)
    assert {(images.name(i).split(os.sep)[0], images.label(i)) for i in range(len(images))} == {
        ("green", 1),
        ("grey", 2),
        ("red", 3),
    }
    (data / "val" / "red").rename(data / "val" / "reed")
    with pytest.raises(UserError, match="has a class folder reed, which the training images lack"):
        open_dataset(str(data), "val", 4)


def test_links_that_lead_back(data):
    (data / "train_list.txt").unlink()
    for name in ("one", "two"):
        (data / "train" / "red" / name).symlink_to("..")
        (data / "train" / "blue" / name).symlink_to("../red")
    images = open_dataset(str(data), "train", 4)
    assert 48 <= len(images) <= 48 * 4


# ----------------------------------------------------------------------------------- in the memory of several processes


def test_list_pickles_only_towards_a_worker(folder):
    images = open_dataset(str(folder), "val", 3)
    if not hasattr(os, "memfd_create"):
        pytest.skip("needs memfd_create")
    copy = pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(images))
    assert entries(copy) == entries(images)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
def test_batches_are_not_in_dev_shm():
    """In a container that has 64 MB."""
    shared = SharedArray((4, 1 << 20), np.uint8)
    assert os.readlink(f"/proc/self/fd/{shared._memory}").startswith("/memfd:")


# ----------------------------------------------------------------------------------------------------------- tar shards


LONG = "a long folder name " * 8  # longer than a plain tar header holds


def jpeg(number: int) -> bytes:
    rng = np.random.default_rng(number)
    return cv2.imencode(".jpg", cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (50, 40)))[1].tobytes()


def write_shard(path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))


@pytest.fixture
def sharded(tmp_path):
    """40 images in 4 shards, beside other members; the same images as class folders."""
    for shard in range(4):
        members = {}
        for number in range(10 * shard, 10 * shard + 10):
            key = f"{LONG if number == 7 else 'ä'}/{number}"
            members |= {f"{key}.cls": str(number % 4).encode(), f"{key}.jpg": jpeg(number), f"{key}.seg.png": b"other"}
        write_shard(tmp_path / "shards" / f"train-{shard:04}.tar", members)
    for number in range(40):
        path = tmp_path / "loose" / "train" / f"{number % 4}" / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return tmp_path


def test_shards_hold_the_same_images_as_files(sharded):
    shards, files = open_dataset(str(sharded / "shards"), "train", 4), open_dataset(str(sharded / "loose"), "train", 4)
    assert isinstance(shards, TarShards) and len(shards) == len(files) == 40
    assert sorted((shards.label(i), shards.read(i)) for i in range(40)) == sorted(
        (files.label(i), files.read(i)) for i in range(40)
    )
    assert shards.path(7) == str(sharded / "shards" / "train-0000.tar" / LONG / "7.jpg")


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_shards_in_order(sharded, workers):
    (sharded / "shards" / "val").mkdir()
    for shard in (sharded / "shards").glob("train*.tar"):
        shard.rename(sharded / "shards" / "val" / shard.name)
    images = open_dataset(str(sharded / "shards"), "val", 4)
    loader = OpenCVLoader(images, EvalTransform((32, 32), 36), 16, training=False, workers=workers)
    batches = list(loader.epoch(0))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [number % 4 for number in range(40)]


def test_training_order_is_shuffled_in_a_window(sharded, monkeypatch):
    monkeypatch.setattr(TarShards, "WINDOW", 4)
    images = open_dataset(str(sharded / "shards"), "train", 4)
    orders = [images.shuffled(0, epoch) for epoch in range(50)]
    for order in orders:
        assert sorted(order) == list(range(40))
        # Going through the shards one by one, an image comes at most three places from its own.
        firsts = list(dict.fromkeys(order // 10))
        in_order = np.concatenate([np.arange(10 * shard, 10 * shard + 10) for shard in firsts])
        place = np.argsort(order, kind="stable")[in_order]
        assert np.abs(place - np.arange(40)).max() <= 3
    assert len({tuple(order) for order in orders}) == 50
    assert {order[0] // 10 for order in orders} == {0, 1, 2, 3}
    np.testing.assert_array_equal(images.shuffled(0, 3), orders[3])


def test_training_resumes_and_does_not_depend_on_workers(sharded):
    images = open_dataset(str(sharded / "shards"), "train", 4)

    def batches(workers: int, start_step: int = 0) -> list[tuple]:
        loader = OpenCVLoader(images, TrainTransform((32, 32)), 8, training=True, workers=workers, seed=1)
        return [(b.images.numpy().tobytes(), b.indices.tolist()) for b in loader.epoch(2, start_step)]

    whole = batches(0)
    assert len(whole) == 5
    assert batches(2) == whole
    assert batches(1, start_step=3) == whole[3:]


def test_a_shard_that_became_shorter_is_noticed(sharded):
    images = open_dataset(str(sharded / "shards"), "train", 4)
    shard = sharded / "shards" / "train-0002.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    loader = OpenCVLoader(images, EvalTransform((32, 32), 36), 40, training=False, workers=0)
    (batch,) = loader.epoch(0)
    assert len(batch) < 40
    assert all("train-0002.tar" in path and "truncated" in reason for path, reason in loader.unreadable.items())


@pytest.mark.parametrize(
    "members, message",
    [
        ({"a.jpg": b"x"}, "sample a has no label"),
        ({"a.cls": b"1", "b.cls": b"1", "b.jpg": b"x"}, "sample a has no image"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, "a.cls holds b'cat'"),
        ({"a.jpg": b"x", "a.cls": b"4"}, "train-0.tar/a.jpg: label 4 is not in 0..3"),
        ({}, "contain no image"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"1"}, "the sample a has two images, a.jpg and a.png"),
    ],
)
def test_bad_shards_are_named(tmp_path, members, message):
    write_shard(tmp_path / "train-0.tar", members)
    with pytest.raises(UserError, match=r"train-0\.tar") as caught:
        open_dataset(str(tmp_path), "train", 4)
    assert message in str(caught.value)


def test_a_shard_with_an_absurd_label(tmp_path):
    (tmp_path / "train.tar").write_bytes(tar_of({"a.jpg": b"x", "a.cls": b"9" * 20}))
    with pytest.raises(UserError, match="not the number of a class"):
        open_dataset(str(tmp_path), "train", 4)


def test_what_is_no_tar_file_is_named(tmp_path):
    (tmp_path / "train.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(UserError, match=r"train\.tar: not a complete tar file"):
        open_dataset(str(tmp_path), "train", 4)


def test_a_second_list_is_refused(sharded):
    with pytest.raises(UserError, match="--unlabeled_list"):
        open_dataset(str(sharded / "shards"), "train", 4).with_unlabeled(["a.jpg"])
