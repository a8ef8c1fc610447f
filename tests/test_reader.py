"""reader.py: lists of images, preprocessing, and the loader with its workers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from scipy import stats

import reader
from reader import Loader, OpenCVLoader
from utils import reader_workers
from utils.decode import decode
from utils.errors import FlagError, UserError
from utils.image_list import ImageList, open_dataset
from utils.transforms import EvalTransform, TrainTransform, normalize, random_crop_box

SIZE = (32, 32)


def save_picture(path, seed: int, height: int = 48, width: int = 64) -> None:
    """Writes a random image; its pixels depend on `seed`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    # cv2.imwrite takes no non-ASCII path on every system.
    path.write_bytes(cv2.imencode(path.suffix, cv2.resize(coarse, (width, height)))[1].tobytes())


@pytest.fixture
def folder(tmp_path):
    """37 images in list order 0.jpg ... 36.jpg, with the labels 0, 1, 2, 0, ..."""
    for number in range(37):
        save_picture(tmp_path / "val" / f"{number}.jpg", number)
    lines = "".join(f"val/{number}.jpg {number % 3}\n" for number in range(37))
    (tmp_path / "train_list.txt").write_text(lines)
    (tmp_path / "val_list.txt").write_text(lines)
    return tmp_path


def contents(loader: Loader, epoch: int = 0, start_step: int = 0) -> list[tuple]:
    return [
        (b.images.numpy().tobytes(), b.labels.tolist(), b.indices.tolist()) for b in loader.epoch(epoch, start_step)
    ]


def training(folder, batch_size: int = 8, workers: int = 0, **options) -> Loader:
    images = open_dataset(str(folder), "train", 3)
    return OpenCVLoader(images, TrainTransform(SIZE), batch_size, training=True, workers=workers, **options)


def evaluation(folder, batch_size: int = 8, workers: int = 0, **options) -> Loader:
    images = open_dataset(str(folder), "val", 3)
    return OpenCVLoader(images, EvalTransform(SIZE, 40), batch_size, training=False, workers=workers, **options)


# --------------------------------------------------------------------------------------------------------- lists


def list_of(tmp_path, text: str | bytes, class_dim: int | None = 10) -> ImageList:
    path = tmp_path / "some_list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return ImageList.from_list_file(str(path), "root", class_dim)


def entries(images: ImageList) -> list[tuple[str, int]]:
    return [(images.path(i), images.label(i)) for i in range(len(images))]


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


def test_list_paths_may_be_relative_to_the_split(folder):
    (folder / "val_list.txt").write_text("missing.jpg 0\n3.jpg 1\n")
    assert open_dataset(str(folder), "val", 3).path(1) == f"{folder}/val/3.jpg"


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        open_dataset(str(tmp_path / "nowhere"), "train", 3)
    with pytest.raises(UserError, match=r"neither train_list\.txt nor class folders train/NAME/"):
        open_dataset(str(tmp_path), "train", 3)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="no image"):
        open_dataset(str(tmp_path), "train", 3)
    with pytest.raises(UserError, match="no image"):
        ImageList.from_folder(str(tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        ImageList.from_folder(str(tmp_path / "nowhere"))


# ------------------------------------------------------------------------------------------------- preprocessing


def original_crop(height, width, rng):
    """The original's crop: area share, left, top and aspect ratio, before and after rounding to pixels."""
    aspect = np.sqrt(rng.uniform(3 / 4, 4 / 3))
    w, h = aspect, 1 / aspect
    bound = min((width / height) / w**2, (height / width) / h**2)
    area = height * width * rng.uniform(min(0.08, bound), min(1.0, bound))
    side = np.sqrt(area)
    w, h = int(side * w), int(side * h)
    return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w


@pytest.mark.parametrize("height, width", [(375, 500), (500, 300), (100, 900)])
def test_crops_are_distributed_as_the_originals(height, width):
    """Two-sample Kolmogorov-Smirnov tests on 100,000 draws."""
    draws = 100_000
    ours, originals = np.random.default_rng(1), np.random.default_rng(2)
    a = np.array([random_crop_box(height, width, ours) for _ in range(draws)])
    b = np.array([original_crop(height, width, originals) for _ in range(draws)])
    assert (a[:, 0] + a[:, 2] <= height).all() and (a[:, 1] + a[:, 3] <= width).all()

    def quantities(boxes):
        top, left, h, w = boxes.T.astype(float)
        # Where the crop is, as a share of the room that it has.
        return {"area": h * w, "aspect": w / h, "top": top, "left": left, "room": top / (height - h + 1), "width": w}

    theirs = quantities(b)
    for name, values in quantities(a).items():
        assert stats.ks_2samp(values, theirs[name]).pvalue > 1e-3, name


def test_crop_formula_by_hand():
    """The four draws at fixed values, worked out on paper."""

    class Draws:
        def __init__(self, *values):
            self.values = values

        def random(self, count):
            assert count == len(self.values)
            return self.values

    # Aspect ratio 1, the whole range of areas: side^2 = 100 * 200 * (0.08 + 0.5 * (min(1, 1 / 2) - 0.08)).
    ratio = (1 - 3 / 4) / (4 / 3 - 3 / 4)
    side = int(np.sqrt(20_000 * (0.08 + 0.5 * 0.42)))
    assert random_crop_box(100, 200, Draws(ratio, 0.5, 0.0, 0.999999)) == (0, 200 - side, side, side)
    # A share of 1 of a square image with aspect ratio 1 is the whole image.
    assert random_crop_box(64, 64, Draws(ratio, 1.0, 0.7, 0.7)) == (0, 0, 64, 64)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_crops_of_tiny_images_fit(size):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, height, width = random_crop_box(*size, rng)
        assert 0 <= top <= top + height <= size[0] and 0 <= left <= left + width <= size[1] and height and width


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (224, 224), (1000, 257), (40, 30)])
@pytest.mark.parametrize("interpolation, flag", [(None, cv2.INTER_LINEAR), (2, cv2.INTER_CUBIC), (3, cv2.INTER_AREA)])
def test_evaluation_is_plain_resize_and_centre_crop(shape, interpolation, flag):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    scale = 256 / min(shape)
    resized = cv2.resize(rgb, (round(shape[1] * scale), round(shape[0] * scale)), interpolation=flag)
    top, left = (resized.shape[0] - 224) // 2, (resized.shape[1] - 224) // 2
    result = EvalTransform((224, 224), 256, interpolation)(rgb)
    np.testing.assert_array_equal(result, resized[top : top + 224, left : left + 224])


@pytest.mark.parametrize("shape", [(2, 4001), (4000, 3), (1, 17)])
def test_evaluation_of_a_strip_takes_its_middle(shape):
    """A gradient along the strip: what the crop shows is the middle of it, as without the short cut."""
    rgb = np.linspace(0, 255, max(shape)).round().astype(np.uint8)
    rgb = np.repeat(np.repeat(rgb, min(shape)).reshape(max(shape), min(shape), 1), 3, axis=2)
    if shape[0] < shape[1]:
        rgb = rgb.transpose(1, 0, 2)
    transform = EvalTransform((56, 64), 64)
    image = transform(np.ascontiguousarray(rgb))
    assert image.shape == (56, 64, 3)
    scale = 64 / min(shape)
    resized = cv2.resize(rgb, (round(shape[1] * scale), round(shape[0] * scale)))
    top, left = (resized.shape[0] - 56) // 2, (resized.shape[1] - 64) // 2
    expected = resized[top : top + 56, left : left + 64]
    # Half a pixel of the strip, where a pixel is 255 / (length - 1) levels, and the rounding of both.
    assert np.abs(image.astype(int) - expected).max() <= 2 + 255 / (max(shape) - 1) / 2


def test_training_from_bytes_is_training_from_pixels():
    """Decoding a region changes nothing where the crop is not reduced: same draws, same pixels."""
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), (640, 480))
    data = cv2.imencode(".jpg", rgb)[1].tobytes()
    pixels = decode(data, "x")
    for interpolation in (None, 0, 3):
        transform = TrainTransform((400, 400), interpolation=interpolation)
        for seed in range(20):
            a, b = np.random.default_rng(seed), np.random.default_rng(seed)
            np.testing.assert_array_equal(transform.decode(data, "x", a), transform(pixels, b))


def test_large_crops_are_reduced_while_decoding():
    """Same crop to a fraction of a pixel, at 1/2, 1/4 and 1/8; averages instead of single pixels; same draws."""
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), (1280, 960))
    data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    pixels = decode(data, "x")
    for size in (50, 90, 200):
        transform = TrainTransform((size, size))
        for seed in range(20):
            a, b = np.random.default_rng(seed), np.random.default_rng(seed)
            reduced, full = transform.decode(data, "x", a), transform(pixels, b)
            assert np.abs(reduced.astype(float) - full).mean() < 1
            assert a.random() == b.random()


def test_flips_are_fair():
    """A picture with one bright half: which side it is on after the transform."""
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:, 16:] = 255
    transform = TrainTransform((16, 16), lower_scale=1.0, lower_ratio=1.0, upper_ratio=1.0)
    rng = np.random.default_rng(0)
    flipped = sum(transform(rgb, rng)[8, 0, 0] > 128 for _ in range(2000))
    assert stats.binomtest(flipped, 2000).pvalue > 1e-3


def test_impossible_transforms_are_refused():
    with pytest.raises(FlagError, match="--resize_short_size 200 is smaller than the image 224 x 224"):
        EvalTransform((224, 224), 200)
    with pytest.raises(FlagError, match=r"--lower_ratio 1\.5 is above --upper_ratio 1\.2"):
        TrainTransform((224, 224), lower_ratio=1.5, upper_ratio=1.2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize(memory_format):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    result = normalize(images, mean, std, memory_format)
    assert result.is_contiguous(memory_format=memory_format) and result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    half = normalize(images, mean, std, memory_format, torch.bfloat16)
    assert torch.equal(half, result.bfloat16())


# -------------------------------------------------------------------------------------------------------- loader


def test_batches_are_the_same_for_any_number_of_workers(folder):
    expected = contents(training(folder, seed=3), 5)
    assert [len(labels) for _, labels, _ in expected] == [8, 8, 8, 8]
    for workers in (1, 2):
        loader = training(folder, workers=workers, seed=3)
        assert contents(loader, 5) == expected
        loader.close()
        assert contents(loader, 5) == expected  # and after a restart of the workers
    assert contents(training(folder, seed=4), 5) != expected
    assert contents(training(folder, seed=3), 6) != expected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_resumes_at_any_step(folder, workers):
    loader = training(folder, batch_size=4, workers=workers)
    whole = contents(loader, 2)
    for step in (0, 1, 5, len(loader)):
        assert contents(loader, 2, start_step=step) == whole[step:]


def test_training_order(folder):
    """Shuffled, no image twice in an epoch, a full last batch, another order each epoch."""
    loader = training(folder)
    assert len(loader) == 4
    orders = []
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        indices = torch.cat([batch.indices for batch in batches]).tolist()
        assert len(indices) == len(set(indices)) == 32
        assert torch.cat([batch.labels for batch in batches]).tolist() == [index % 3 for index in indices]
        orders.append(indices)
    assert orders[0] != orders[1] != sorted(orders[1])


def test_global_batches_do_not_depend_on_the_number_of_processes(folder):
    whole = list(training(folder, batch_size=8).epoch(1))
    parts = [list(training(folder, batch_size=4, rank=rank, world_size=2).epoch(1)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part[step].indices for part in parts]), batch.indices)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_has_each_image_once(folder, workers, world_size):
    seen = []
    for rank in range(world_size):
        loader = evaluation(folder, workers=workers, rank=rank, world_size=world_size)
        batches = list(loader.epoch(0))
        assert len(batches) == len(loader)
        indices = torch.cat([batch.indices for batch in batches]).tolist()
        assert indices == sorted(indices)
        seen += indices
        transform = EvalTransform(SIZE, 40)
        for batch in batches:
            for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
                assert label == index % 3
                expected = transform(decode(loader.images.read(int(index)), loader.images.path(int(index))))
                np.testing.assert_array_equal(image.numpy(), expected)
    assert sorted(seen) == list(range(37))


def test_a_worker_that_does_not_come_up_is_replaced(folder, monkeypatch):
    """As a fork does that finds a lock of the interpreter held."""
    expected = contents(training(folder))
    forks = iter([True, False])
    state = {"stuck": False}
    os.register_at_fork(
        before=lambda: state.update(stuck=next(forks, False)), after_in_child=lambda: state["stuck"] and time.sleep(60)
    )
    monkeypatch.setattr(reader_workers, "PATIENCE", 1.0)
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context.ForkContext())
    start = time.monotonic()
    loader = training(folder, workers=1)
    assert contents(loader) == expected
    assert 1 <= time.monotonic() - start < 30
    loader.close()

    monkeypatch.setattr(reader_workers, "PATIENCE", 0.2)
    forks = iter([True] * 3)
    with pytest.raises(
        UserError, match=r"no reader worker came up within 0\.2 seconds, 3 times over: lower --reader_th"
    ):
        next(training(folder, workers=1).epoch(0))


def test_spawned_workers_share_the_list(folder, monkeypatch):
    expected = contents(training(folder))
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context.SpawnContext())
    loader = training(folder, workers=1)
    assert contents(loader) == expected
    assert entries(loader.images)[3] == (f"{folder}/val/3.jpg", 0)
    loader.close()


def test_list_pickles_only_towards_a_worker(folder):
    images = open_dataset(str(folder), "val", 3)
    if not hasattr(os, "memfd_create"):
        pytest.skip("needs memfd_create")
    copy = pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(images))
    assert entries(copy) == entries(images)


def test_batches_may_be_kept(folder):
    """Memory is lent: a batch that is kept keeps its pixels, however many are."""
    loader = training(folder, batch_size=2, workers=2, read_ahead_images=8)
    expected = contents(training(folder, batch_size=2))
    kept = list(loader.epoch(0))
    assert [batch.images.numpy().tobytes() for batch in kept] == [pixels for pixels, _, _ in expected]
    assert len(loader._lent) > 0
    del kept
    gc.collect()
    assert contents(loader, 1) == contents(training(folder, batch_size=2), 1)


def test_a_batch_is_the_workers_memory(folder):
    """No copy on the way: the tensor of a batch points into the shared slots."""
    loader = training(folder, workers=1)
    slots = loader._job.slots.array
    start = slots.ctypes.data
    for batch in loader.epoch(0):
        assert start <= batch.images.data_ptr() < start + slots.nbytes


def test_memory_waits_for_copies_to_the_gpu(folder, monkeypatch):
    """A freed batch's memory is used again only when the event behind its copy has come; with a stand-in for CUDA."""

    class Event:
        copied = False

        def record(self):
            pass

        def query(self):
            return Event.copied

    class Cuda:
        registered: list = []  # noqa: RUF012

        def cudaHostRegister(self, address, size, flags):
            self.registered.append((address, size))
            return 0

        def cudaHostUnregister(self, address):
            self.registered.remove(next(entry for entry in self.registered if entry[0] == address))

    cuda = Cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)

    loader = training(folder, batch_size=4, workers=1, read_ahead_images=12, pin_memory=True)
    expected = contents(training(folder, batch_size=4))

    def lent(loader: Loader, epoch: int) -> list[int]:
        """Which slots the batches of an epoch are in, as far as they are not copies."""
        slots = loader._job.slots.array
        addresses = [batch.images.data_ptr() - slots.ctypes.data for batch in loader.epoch(epoch)]
        return [address // slots[0].nbytes for address in addresses if 0 <= address < slots.nbytes]

    first = lent(loader, 0)
    assert len(cuda.registered) == 1 and cuda.registered[0][1] == loader._job.slots.array.nbytes
    assert len(first) == len(set(first)) == 2  # the third is the workers'
    assert lent(loader, 1) == []
    Event.copied = True
    assert len(lent(loader, 2)) > 3
    assert contents(loader) == expected
    loader.close()
    del loader
    gc.collect()
    assert not cuda.registered


def test_given_up_epochs_leave_nothing_behind(folder):
    loader = training(folder, workers=2)
    expected = contents(loader, 1)
    for stop in (1, 2, 4):
        for number, _ in enumerate(loader.epoch(0), 1):
            if number == stop:
                break
        assert contents(loader, 1) == expected
    older = loader.epoch(0)
    next(older)
    assert contents(loader, 1) == expected
    with pytest.raises(RuntimeError, match="ended by a later"):
        next(older)


def test_bad_sizes_are_refused(folder):
    with pytest.raises(UserError, match="--batch_size 38 is larger than the 37 training images"):
        training(folder, batch_size=38)
    with pytest.raises(UserError, match="--batch_size 40 is larger"):
        training(folder, batch_size=20, world_size=2)
    assert len(training(folder, batch_size=37)) == 1
    with pytest.raises(FlagError, match="--batch_size 10 does not divide evenly over 4 processes"):
        reader.share_of_batch("batch_size", 10, 4)


def test_workers_are_capped(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert reader.available_processors() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert reader.available_processors() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert reader.available_processors() == 1


# -------------------------------------------------------------------------------------------------------- faults


@pytest.fixture
def faulty(folder):
    """The 37 images, of which 5 are broken, each in its way."""
    whole = (folder / "val" / "0.jpg").read_bytes()
    (folder / "val" / "3.jpg").write_bytes(b"")
    (folder / "val" / "4.jpg").write_bytes(b"not an image at all")
    (folder / "val" / "10.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "val" / "20.jpg").unlink()
    (folder / "val" / "36.jpg").unlink()
    (folder / "val" / "36.jpg").mkdir()
    return folder


BROKEN = {3, 4, 10, 20, 36}
REASONS = {3: "empty", 4: "not an image", 10: "truncated", 20: "no such file", 36: "is a directory"}


def check_reasons(loader: Loader) -> None:
    assert loader.unreadable.keys() == {f"{loader.images.root}/val/{number}.jpg" for number in BROKEN}
    for number, reason in REASONS.items():
        assert reason in loader.unreadable[f"{loader.images.root}/val/{number}.jpg"]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_unreadable_images(faulty, workers):
    loader = evaluation(faulty, batch_size=2, workers=workers)
    seen = [index for batch in loader.epoch(0) for index in batch.indices.tolist()]
    assert seen == [number for number in range(37) if number not in BROKEN]
    check_reasons(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_unreadable_images(faulty, workers):
    loader = training(faulty, batch_size=37, workers=workers)
    (batch,) = loader.epoch(0)
    assert len(batch) == 37 and not BROKEN & set(batch.indices.tolist())
    assert batch.labels.tolist() == [index % 3 for index in batch.indices.tolist()]
    check_reasons(loader)
    assert contents(training(faulty, batch_size=37)) == contents(loader)


def test_training_with_a_single_readable_image(folder):
    for number in range(36):
        (folder / "val" / f"{number}.jpg").write_bytes(b"")
    (batch,) = training(folder, batch_size=37).epoch(0)
    assert set(batch.indices.tolist()) == {36}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [training, evaluation])
def test_nothing_readable_is_an_error(folder, kind, workers):
    for number in range(37):
        (folder / "val" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"(no readable image|none of the 37 images).*val/\d+\.jpg: the file is empty"):
        list(kind(folder, workers=workers).epoch(0))


def test_paths_with_blanks_and_other_scripts(tmp_path):
    names = ["a b/c d.jpg", "日本/画像 1.jpg", "ünï.png"]
    for number, name in enumerate(names):
        save_picture(tmp_path / name, number)
    (tmp_path / "val_list.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)), encoding="utf-8")
    loader = evaluation(tmp_path, workers=1)
    (batch,) = loader.epoch(0)
    assert batch.labels.tolist() == [0, 1, 2] and not loader.unreadable


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_killed_worker_ends_the_epoch_with_an_error(folder, when):
    loader = training(folder, batch_size=1, workers=2, read_ahead_images=4)
    batches = loader.epoch(0)
    next(batches)
    if when == "during":
        next(batches)
    victims = list(loader._processes)
    os.kill(victims[0].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"worker was killed by signal 9.*memory"):
        # The other worker may finish a whole epoch alone, if the dead one had nothing in hand.
        for _ in batches:
            pass
        for epoch in range(20):
            list(loader.epoch(epoch))
    assert time.monotonic() - started < 20
    assert not any(process.is_alive() for process in victims)
    assert len(list(loader.epoch(0))) == 37  # with new workers


def test_an_error_in_a_worker_is_shown(folder):
    loader = training(folder, workers=1)
    loader._job.transform = None
    with pytest.raises(RuntimeError, match="AttributeError"):
        list(loader.epoch(0))


class Collecting(EvalTransform):
    """Runs the garbage collector in the worker."""

    def decode(self, data, path, rng=None):
        gc.collect()
        return super().decode(data, path, rng)


def test_workers_do_not_collect_the_garbage_of_their_parent(folder, tmp_path):
    """An object with threads of its own would wait for ever for them."""

    class Owner:
        def __del__(self):
            (tmp_path / f"collected by {os.getpid()}").touch()

    gc.disable()
    try:
        owner = Owner()
        owner.cycle = owner
        del owner
        loader = OpenCVLoader(open_dataset(str(folder), "val", 3), Collecting(SIZE, 40), 8, False, workers=1)
        list(loader.epoch(0))
        assert not list(tmp_path.glob("collected*"))
        gc.collect()
        assert [path.name for path in tmp_path.glob("collected*")] == [f"collected by {os.getpid()}"]
    finally:
        gc.enable()


LOOP = """
import sys, time
import reader
loader = reader.OpenCVLoader(reader.open_dataset(sys.argv[1], "train", 3), reader.TrainTransform((32, 32)), 4, True, 2)
batches = loader.epoch(0)
next(batches)
print(*(process.pid for process in loader._processes), flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_process(folder, how):
    script = [sys.executable, "-c", LOOP, str(folder)]
    root = os.path.dirname(os.path.abspath(reader.__file__))
    with subprocess.Popen(
        script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root, start_new_session=True
    ) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers and all(map(alive, workers))
        os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
        process.wait(20)
    limit = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not any(map(alive, workers))
