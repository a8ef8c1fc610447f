"""Tar shards: the same loader over images that lie inside tar files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from archives import tar_of

from reader import OpenCVLoader
from utils.errors import UserError
from utils.image_list import TarShards, open_dataset
from utils.transforms import EvalTransform, TrainTransform

LONG = "a long folder name " * 8  # longer than a plain tar header holds


def jpeg(number: int) -> bytes:
    rng = np.random.default_rng(number)
    return cv2.imencode(".jpg", cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (50, 40)))[1].tobytes()


def write_shard(path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))


@pytest.fixture
def folder(tmp_path):
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


def test_shards_hold_the_same_images_as_files(folder):
    shards, files = open_dataset(str(folder / "shards"), "train", 4), open_dataset(str(folder / "loose"), "train", 4)
    assert isinstance(shards, TarShards) and len(shards) == len(files) == 40
    assert sorted((shards.label(i), shards.read(i)) for i in range(40)) == sorted(
        (files.label(i), files.read(i)) for i in range(40)
    )
    assert shards.path(7) == str(folder / "shards" / "train-0000.tar" / LONG / "7.jpg")


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_shards_in_order(folder, workers):
    (folder / "shards" / "val").mkdir()
    for shard in (folder / "shards").glob("train*.tar"):
        shard.rename(folder / "shards" / "val" / shard.name)
    images = open_dataset(str(folder / "shards"), "val", 4)
    loader = OpenCVLoader(images, EvalTransform((32, 32), 36), 16, training=False, workers=workers)
    batches = list(loader.epoch(0))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [number % 4 for number in range(40)]


def test_training_order_is_shuffled_in_a_window(folder, monkeypatch):
    monkeypatch.setattr(TarShards, "WINDOW", 4)
    images = open_dataset(str(folder / "shards"), "train", 4)
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


def test_training_resumes_and_does_not_depend_on_workers(folder):
    images = open_dataset(str(folder / "shards"), "train", 4)

    def batches(workers: int, start_step: int = 0) -> list[tuple]:
        loader = OpenCVLoader(images, TrainTransform((32, 32)), 8, training=True, workers=workers, seed=1)
        return [(b.images.numpy().tobytes(), b.indices.tolist()) for b in loader.epoch(2, start_step)]

    whole = batches(0)
    assert len(whole) == 5
    assert batches(2) == whole
    assert batches(1, start_step=3) == whole[3:]


def test_a_shard_that_became_shorter_is_noticed(folder):
    images = open_dataset(str(folder / "shards"), "train", 4)
    shard = folder / "shards" / "train-0002.tar"
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
        ({}, "hold no image"),
    ],
)
def test_bad_shards_are_named(tmp_path, members, message):
    write_shard(tmp_path / "train-0.tar", members)
    with pytest.raises(UserError, match=r"train-0\.tar") as caught:
        open_dataset(str(tmp_path), "train", 4)
    assert message in str(caught.value)


def test_what_is_no_tar_file_is_named(tmp_path):
    (tmp_path / "train.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(UserError, match=r"train\.tar: not a whole tar file"):
        open_dataset(str(tmp_path), "train", 4)


def test_a_second_list_is_refused(folder):
    with pytest.raises(UserError, match="--unlabeled_list"):
        open_dataset(str(folder / "shards"), "train", 4).with_unlabeled(["a.jpg"])
