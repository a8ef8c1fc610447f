"""The DALI pipeline: the same batches as the OpenCV pipeline, to the rounding of another resampler."""

from __future__ import annotations

import importlib.util
import sys
import types

import cv2
import numpy as np
import pytest
import torch

from reader import DaliLoader, OpenCVLoader, train_loader, val_loader
from utils.errors import FlagError, UserError
from utils.flags import parse
from utils.reading.dataset import open_dataset
from utils.reading.transforms import EvalTransform, TrainTransform


def dali_is_installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


needs_dali = pytest.mark.skipif(not dali_is_installed(), reason="needs NVIDIA DALI, see requirements-dali.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """23 JPEG files of different sizes, one of them turned by its EXIF orientation, one grey, one progressive."""
    root = tmp_path_factory.mktemp("data")
    for part in ("train", "val"):
        (root / part / "ä class").mkdir(parents=True)
        (root / part / "other").mkdir()
    exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    for number in range(23):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        pixels = cv2.resize(pixels, (int(rng.integers(60, 200)), int(rng.integers(60, 200))))
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(number == 4)]
        data = cv2.imencode(".jpg", pixels[..., 0] if number == 3 else pixels, options)[1].tobytes()
        if number == 5:
            data = data[:2] + exif + data[2:]
        for part in ("train", "val"):
            (root / part / ("ä class" if number % 2 else "other") / f"{number} x.jpg").write_bytes(data)
    return root


def loaders(folder, training: bool, batch_size: int = 8, interpolation: int | None = None, **options):
    transform = (TrainTransform if training else EvalTransform)((48, 40), interpolation=interpolation)
    if not training:
        transform = EvalTransform((48, 40), 56, interpolation)
    images = open_dataset(str(folder), "train" if training else "val", 2)
    return [kind(images, transform, batch_size, training, workers=1, **options) for kind in (DaliLoader, OpenCVLoader)]


def compare(dali_batches, opencv_batches, mean: float) -> None:
    """The same images, crops and flips; pixels to a mean difference of `mean` levels."""
    dali_batches, opencv_batches = list(dali_batches), list(opencv_batches)
    assert len(dali_batches) == len(opencv_batches)
    for ours, theirs in zip(dali_batches, opencv_batches, strict=True):
        assert torch.equal(ours.indices, theirs.indices) and torch.equal(ours.labels, theirs.labels)
        assert ours.images.dtype == torch.uint8 and ours.images.shape == theirs.images.shape
        # A crop moved by one pixel or flipped the other way differs by more than 3.
        assert (ours.images.float() - theirs.images.float()).abs().mean((1, 2, 3)).max() < mean


@needs_dali
@pytest.mark.parametrize("interpolation", [None, 2, 4])
@pytest.mark.parametrize("training", [True, False])
def test_batches_are_those_of_the_opencv_pipeline(folder, training, interpolation):
    dali, opencv = loaders(folder, training, interpolation=interpolation, seed=3)
    assert len(dali) == len(opencv) == (2 if training else 3)
    for epoch in (0, 1):
        # Up to 0.7 where OpenCV decodes a large crop at a reduced size.
        compare(dali.epoch(epoch), opencv.epoch(epoch), 1.0)


@needs_dali
@pytest.mark.parametrize("flips", [(0.0, 0.0), (0.3, 0.6), (1.0, 1.0)])
def test_flips_are_those_of_the_opencv_pipeline(folder, flips):
    transform = TrainTransform((48, 40), flip_prob=flips[0], vertical_flip_prob=flips[1])
    images = open_dataset(str(folder), "train", 2)
    dali, opencv = (kind(images, transform, 8, True, workers=1) for kind in (DaliLoader, OpenCVLoader))
    for epoch in (0, 1):
        compare(dali.epoch(epoch), opencv.epoch(epoch), 1.0)


@needs_dali
@pytest.mark.parametrize("training", [True, False])
def test_resuming_giving_up_and_sharing(folder, training):
    dali, opencv = loaders(folder, training, batch_size=3)
    whole = [batch.images for batch in dali.epoch(1)]
    assert all(map(torch.equal, (batch.images for batch in dali.epoch(1, 2)), whole[2:]))
    given_up = dali.epoch(0)
    next(given_up)
    compare(dali.epoch(1), opencv.epoch(1), 1.0)
    with pytest.raises(RuntimeError, match="a later call of epoch"):
        list(given_up)
    parts = [loaders(folder, training, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    for part, expected in parts:
        compare(part.epoch(0), expected.epoch(0), 1.0)
    seen = torch.cat([batch.indices for part, _ in parts for batch in part.epoch(0)])
    assert len(seen.unique()) == len(seen) == (18 if training else 23)


@needs_dali
@pytest.mark.parametrize("pin_memory", [False, pytest.param(True, marks=pytest.mark.gpu)])
def test_a_batch_is_not_written_over_while_it_waits_to_be_copied(folder, pin_memory):
    """The next batches are made while the GPU is still at earlier work, behind which the copies are queued."""
    dali, _ = loaders(folder, training=True, batch_size=1, pin_memory=pin_memory)
    expected = [batch.images.cpu() for batch in dali.epoch(0)]
    if pin_memory:
        torch.cuda._sleep(10**9)  # about half a second
    waiting = [batch.images for batch in dali.epoch(0)]
    assert all(map(torch.equal, (images.cpu() for images in waiting), expected))


@needs_dali
@pytest.mark.parametrize("gpu", [False, True])
def test_dali_is_told_of_the_stream_that_copies(folder, monkeypatch, gpu):
    """A stand-in for DALI's tensor, since a copy on a GPU only goes wrong now and then."""
    from nvidia.dali.plugin import pytorch

    dali, _ = loaders(folder, training=False)
    tensor = types.SimpleNamespace(shape=lambda: [2, 48, 40, 3])
    dali._pipe = types.SimpleNamespace(run=lambda: [types.SimpleNamespace(as_tensor=lambda: tensor)])
    empty, calls = torch.empty, []
    monkeypatch.setattr(torch, "empty", lambda *a, device, **kw: calls.append(device) or empty(*a, **kw))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the current stream")
    monkeypatch.setattr(
        pytorch, "feed_ndarray", lambda source, out, cuda_stream: calls.append((source is tensor, cuda_stream)) or out
    )
    dali.pin_memory = gpu
    assert dali._run().shape == (2, 48, 40, 3)
    assert calls == (["cuda", (True, "the current stream")] if gpu else ["cpu", (True, None)])


@needs_dali
def test_list_files_and_flags(folder):
    lines = "".join(f"val/{'ä class' if i % 2 else 'other'}/{i} x.jpg {i % 2}\n" for i in range(23))
    (folder / "val_list.txt").write_text(lines, encoding="utf-8")
    flags = f"--data_dir {folder} --image_shape 3 48 40 --resize_short_size 56 --class_dim 2 --reader_thread 1".split()
    args = parse("train", [*flags, "--use_dali", "1"])
    assert isinstance(train_loader(args, 0), DaliLoader)
    dali = val_loader(args)
    args.use_dali = False
    compare(dali.epoch(0), val_loader(args).epoch(0), 1.0)
    assert dali.images.path(3).endswith("val/ä class/3 x.jpg")


@needs_dali
def test_an_unreadable_file_ends_the_run_with_its_name(folder, tmp_path):
    for name, content in (("0.jpg", None), ("1.jpg", b"no image")):
        (tmp_path / "list").mkdir(exist_ok=True)
        (tmp_path / "val_list.txt").write_text(f"list/{name} 0\n")
        if content:
            (tmp_path / "list" / name).write_bytes(content)
        images = open_dataset(str(tmp_path), "val", 2)
        with pytest.raises(UserError, match=r"--check") as caught:
            list(DaliLoader(images, EvalTransform((32, 32), 40), 4, training=False, workers=1).epoch(0))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--use_aa 1 --random_erasing 0.5", "leave out --use_aa, --random_erasing, or --use_dali"),
        ("--use_gridmask 1", "leave out --use_gridmask"),
        ("--interpolation 3", r"--interpolation 3"),
        ("--resize_backend pil", "give --resize_backend=cv2, or leave out --use_dali"),
        ("--decode_backend pil", "give --decode_backend=cv2, or leave out --use_dali"),
        ("--resize_mode pad --lower_scale 1", "--resize_mode=pad does not work with --use_dali"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(folder, flags, message):
    args = parse(
        "train", [*f"--use_dali 1 --image_shape 3 48 40 --class_dim 2 {flags}".split(), "--data_dir", str(folder)]
    )
    with pytest.raises(FlagError, match=message):
        train_loader(args, 0)


def test_other_ways_to_resize_are_refused(folder):
    args = parse("train", f"--use_dali 1 --resize_mode exact --image_shape 3 48 40 --data_dir {folder}".split())
    with pytest.raises(FlagError, match="--resize_mode=exact does not work with --use_dali"):
        val_loader(args)


@needs_dali
@pytest.mark.parametrize("training", [True, False])
def test_channels_in_the_other_order(folder, training):
    images = open_dataset(str(folder), "train", 2)
    kind = TrainTransform if training else EvalTransform
    rgb, bgr = (
        next(DaliLoader(images, kind((48, 40), channel_order=order), 4, training, workers=1).epoch(0)).images
        for order in ("rgb", "bgr")
    )
    # Its vectorised resampler rounds by a level where a channel stands elsewhere.
    assert (rgb.int() - bgr.flip(-1).int()).abs().max() <= 1 < (rgb.int() - bgr.int()).abs().max()


def test_without_the_package_the_command_to_install_it_is_given(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(FlagError, match="pip install nvidia-dali-cuda120"):
        loaders(folder, training=True)
