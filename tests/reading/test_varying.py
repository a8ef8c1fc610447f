"""Training images whose size changes: batch by batch, or through the run; and labels that a transform draws."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from loading import contents, numbered_images

from utils.errors import FlagError, UserError
from utils.flags import parse
from utils.reading.build import train_loader
from utils.reading.labelling import Blur, RandomRot90, motion_blur
from utils.reading.varying import Scales, scaled_batches, stage_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return numbered_images(tmp_path_factory.mktemp("images"))


def loader_of(folder: Path, words: str, rank: int = 0, world_size: int = 1, seed: int = 3):
    line = f"--data_dir={folder} --class_dim=3 --image_shape=3,32,32 --reader_thread=0 {words}"
    return train_loader(parse("train", shlex.split(line)), seed, rank, world_size)


MULTI = "--batch_size=4 --multi_scale 32 24 48x40 --multi_scale_factor=8"


def test_batches_have_as_many_pixels_as_at_the_first_size():
    sizes = [(224, 224), (160, 160), (192, 192), (288, 288), (320, 320), (100, 70)]
    # PaddleClas's MultiScaleSampler(scales=..., first_bs=500, divided_factor=32), its batch_list's sizes.
    assert scaled_batches(sizes, 32, 500) == [
        ((224, 224), 500), ((160, 160), 980), ((192, 192), 680), ((288, 288), 302), ((320, 320), 245), ((96, 64), 4083),
    ]  # fmt: skip
    assert scaled_batches([(33, 33), (320, 320)], 32, 1) == [((32, 32), 1), ((320, 320), 1)]


@pytest.mark.parametrize("workers", [0, 2])
def test_multi_scale_batches(folder, workers, monkeypatch):
    monkeypatch.setattr("utils.reading.loader.available_processors", lambda: workers)
    loader = loader_of(folder, f"{MULTI} --reader_thread={workers}")
    batches = list(loader.epoch(1))
    expected = {(32, 32): 4, (24, 24): 7, (48, 40): 2}
    assert len(batches) == len(loader)
    shapes = [tuple(batch.images.shape[1:3]) for batch in batches]
    assert len(set(shapes)) == 3
    assert [len(batch) for batch in batches] == [expected[shape] for shape in shapes]
    seen = np.concatenate([batch.indices.numpy() for batch in batches])
    assert sorted(seen[:37]) == list(range(37)) and list(seen[37:]) == list(seen[: len(seen) - 37])
    assert all(
        label == index % 3 for batch in batches for label, index in zip(batch.labels, batch.indices, strict=True)
    )
    # The sizes recur in every epoch, and an epoch goes on at any step as it was.
    again = list(loader.epoch(2))
    assert [tuple(batch.images.shape[1:3]) for batch in again] == shapes
    assert contents(loader, 1, 3) == contents(loader_of(folder, MULTI), 1)[3:]
    loader.close()


def test_multi_scale_in_several_processes(folder):
    shares = [list(loader_of(folder, f"{MULTI} --batch_size=8", rank, 2).epoch(0)) for rank in range(2)]
    assert [tuple(b.images.shape) for b in shares[0]] == [tuple(b.images.shape) for b in shares[1]]
    both = [
        np.concatenate(pair) for pair in zip(*([b.indices.numpy() for b in share] for share in shares), strict=True)
    ]
    seen = np.concatenate(both)
    assert set(seen) == set(range(37)) and len(set(seen[:37])) == 37


def test_sizes_are_drawn_evenly():
    scales = Scales((None,) * 4, (10, 20, 5, 40))
    chosen = scales.of_steps(0, 1, 100_000)
    assert np.bincount(chosen) / len(chosen) == pytest.approx(0.25, abs=0.02)
    sizes = np.array(scales.batch_sizes)[chosen]
    assert sizes.sum() >= 100_000 > sizes[:-1].sum()


def test_parts_of_a_run(folder):
    # PaddleClas: epochs 1 to 87, 88 to 175, 176 to 262, 263 to 350 of EfficientNetV2_S.
    stages = [stage_of(epoch, 350, 4) for epoch in range(350)]
    assert [stages.index(number) for number in range(4)] == [0, 87, 175, 262]
    words = "--batch_size=8 --num_epochs=4 --progressive_sizes 24 32x40 --progressive_magnitudes 0 10 "
    words += "--train_transforms 'random_resized_crop rand_augment_v2:magnitude=5'"
    loader = loader_of(folder, words)
    assert [next(loader.epoch(epoch)).images.shape[1:3] for epoch in range(4)] == [(24, 24)] * 2 + [(32, 40)] * 2
    assert [t.operations[1].magnitude for t in loader.transforms] == [0, 10]
    assert len(loader) == len(list(loader.epoch(3))) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_drawn_labels(folder, workers, monkeypatch):
    monkeypatch.setattr("utils.reading.loader.available_processors", lambda: workers)
    words = f"--batch_size=37 --class_dim=4 --label_from=random_rot90 --reader_thread={workers} --train_transforms "
    loader = loader_of(folder, words + "resize:size=32 random_rot90")
    (batch,) = loader.epoch(0)
    plain = loader_of(folder, "--batch_size=37 --train_transforms resize:size=32")
    (upright,) = plain.epoch(0)
    assert batch.indices.tolist() == upright.indices.tolist() and set(batch.labels.tolist()) == {0, 1, 2, 3}
    for turned, label, image in zip(batch.images.numpy(), batch.labels.tolist(), upright.images.numpy(), strict=True):
        np.testing.assert_array_equal(turned, np.rot90(image, label))
    (other,) = loader.epoch(1)
    first, second = (dict(zip(b.indices.tolist(), b.labels.tolist(), strict=True)) for b in (batch, other))
    assert first != second
    loader.close()


def test_lists_without_labels(folder, tmp_path):
    (tmp_path / "paths.txt").write_text("val/0.jpg\nval/1.jpg 7\n\nval/2.jpg\t1\n")
    words = "--class_dim=2 --label_from=blur --batch_size=3 --train_transforms 'blur random_resized_crop'"
    loader = loader_of(folder, f"{words} --train_list={tmp_path / 'paths.txt'}")
    assert [loader.images.name(row) for row in range(3)] == ["val/0.jpg", "val/1.jpg", "val/2.jpg"]
    assert set(next(loader.epoch(0)).labels.tolist()) <= {0, 1}


def test_blurred_images():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    made = [Blur().labelled(rgb, rng) for _ in range(200)]
    assert 70 < sum(label for _, label in made) < 130
    for image, label in made:
        assert image.dtype == np.uint8 and image.shape == rgb.shape
        assert (image is rgb) == (label == 0) and (label == 0 or image.std() < rgb.std())
    # Of a motion: the levels reach from 0 to 255.
    full = [image for image, label in made if label and (image.min(), image.max()) == (0, 255)]
    assert 20 < len(full) < 80
    assert Blur(probability=0).labelled(rgb, rng)[1] == 0 and Blur(probability=1).labelled(rgb, rng)[1] == 1
    # A kernel that is a line: the image is averaged along the diagonal.
    spot = np.zeros((31, 31, 3), np.uint8)
    spot[15, 15] = 200
    rows, columns = np.nonzero(motion_blur(spot, 7, 0)[..., 0])
    np.testing.assert_array_equal(rows, columns)
    assert len(rows) == 7
    assert not np.array_equal(motion_blur(rgb, 7, 30), motion_blur(rgb, 7, -30))


def test_turned_images():
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    rng = np.random.default_rng(0)
    made = [RandomRot90().labelled(rgb, rng) for _ in range(400)]
    assert np.bincount([label for _, label in made]).min() > 70
    image = next(image for image, label in made if label == 1)
    np.testing.assert_array_equal(image, cv2.rotate(rgb, cv2.ROTATE_90_COUNTERCLOCKWISE))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{MULTI} --progressive_sizes 24 32", "--multi_scale and --progressive_sizes both set the training sizes"),
        (f"{MULTI} --use_dali=True", "--multi_scale does not work with --use_dali"),
        ("--multi_scale 24 --multi_scale_factor=32", "--multi_scale 24x24 is below --multi_scale_factor 32: lower it"),
        (f"{MULTI} --train_transforms random_resized_crop:size=32",
         "--multi_scale 24x24: the words of --train_transforms make images of 32x32: leave out size="),
        ("--progressive_magnitudes 1 2", "--progressive_magnitudes has 2 values, and --progressive_sizes 0"),
        ("--progressive_sizes 24 32 --progressive_magnitudes 1 2", "needs RandAugment: give --use_ra=True or a word"),
        ("--label_from=blur", "--label_from=blur needs --train_transforms with the word blur"),
        ("--label_from=blur --train_transforms random_resized_crop", "--label_from=blur needs exactly one word blur"),
        ("--label_from=blur --train_transforms blur random_resized_crop",
         "--label_from=blur makes 2 classes, but --class_dim is 3: give --class_dim=2"),
        ("--label_from=blur --multi_label=True", "--label_from=blur sets a single label: leave out --multi_label"),
        ("--train_transforms resize:size=32x24 random_rot90", "it needs square images, not 32x24, to keep"),
        ("--list_delimiter=, --multi_label=True", "--list_delimiter is for lists with one label per image"),
    ],
)  # fmt: skip
def test_refused(folder, words, message):
    with pytest.raises(FlagError) as raised:
        loader_of(folder, words)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg;1;more\n b, c.jpg ; 0\n\n", ""),
        ("a.jpg 1\n", "line 1: 'a.jpg 1' does not contain the --list_delimiter ;"),
        ("a.jpg;1\na.jpg;3\n", "line 2: 'a.jpg;3' has the label '3', but labels must be 0..2 (--class_dim 3)"),
        (";1\n", "line 1: ';1' has"),
        ("\n", "is empty"),
    ],
)
def test_list_delimiter(tmp_path, line, message):
    (tmp_path / "train_list.txt").write_text(line)
    words = f"--data_dir={tmp_path} --class_dim=3 --batch_size=1 --reader_thread=0 --list_delimiter=;"
    args = parse("train", words.split())
    if message:
        with pytest.raises(UserError) as raised:
            train_loader(args, 0)
        assert message in str(raised.value)
        return
    images = train_loader(args, 0).images
    assert [(images.name(row), images.label(row)) for row in range(2)] == [("a.jpg", 1), ("b, c.jpg", 0)]
