"""`python reader.py`: the picture of a batch, the check of a dataset; and the loaders as the scripts build them."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import reader
from reader import OpenCVLoader, train_loader, val_loader
from utils.errors import FlagError, UserError
from utils.flags import parse
from utils.reading.augment import AutoAugment

ROOT = Path(reader.__file__).resolve().parent
COLOURS = {0: (200, 30, 30), 1: (30, 200, 30), 2: (30, 30, 200)}


@pytest.fixture
def folder(tmp_path):
    """12 plain pictures, one colour per class."""
    lines = ""
    for number in range(12):
        picture = np.full((60 + number, 100, 3), COLOURS[number % 3], np.uint8)
        (tmp_path / f"{number}.png").write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        lines += f"{number}.png {number % 3}\n"
    for part in ("train", "val"):
        (tmp_path / f"{part}_list.txt").write_text(lines)
    return tmp_path


def run(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["reader.py", *flags])
    reader.main()


def test_show_writes_what_the_network_sees(folder, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "grid.png"
    flags = f"--data_dir={folder} --class_dim=3 --image_shape 3 32 32 --batch_size=12 --reader_thread=0".split()
    run(monkeypatch, *flags, f"--show={picture}")
    assert "12 images" in capsys.readouterr().out
    grid = cv2.imread(str(picture))[..., ::-1]
    columns = grid.shape[1] // 36
    tiles = [grid[56 * (n // columns) :, 36 * (n % columns) :][:32, :32] for n in range(12)]
    expected = [COLOURS[int(label)] for label in next(train_loader(parse("train", flags), 0).epoch(0)).labels]
    for tile, colour in zip(tiles, expected, strict=True):
        np.testing.assert_allclose(tile.reshape(-1, 3), np.tile(colour, (1024, 1)), atol=1)
    run(monkeypatch, *flags, f"--show={picture}", "--use_mixup=True", "--mixup_alpha=100")
    mixed = cv2.imread(str(picture))[:32, :32].max()
    assert mixed < 200  # two colours at about half their strength


def test_show_says_which_images_are_unlabeled(folder, tmp_path, monkeypatch):
    (folder / "train_list.txt").write_text("0.png 0\n1.png 1\n")
    (folder / "more.txt").write_text("2.png\n3.png\n")
    captions = []
    monkeypatch.setattr(
        "utils.reading.dataset_report.write_grid", lambda path, pictures, texts, **_: captions.append(texts)
    )
    flags = f"--data_dir={folder} --class_dim=3 --batch_size=4 --reader_thread=0 --image_shape 3 32 32".split()
    flags += [f"--show={tmp_path}/grid.png", "--unlabeled_list=more.txt"]
    run(monkeypatch, *flags)
    assert sorted(captions.pop()) == ["0", "1", "unlabeled", "unlabeled"]
    run(monkeypatch, *flags, "--use_mixup=True")
    assert sorted(caption.split()[1] for caption in captions.pop()) == ["0", "1", "unlabeled", "unlabeled"]


def test_check_reports_files_labels_and_sizes(folder, monkeypatch, capsys):
    run(monkeypatch, f"--data_dir={folder}", "--class_dim=3", "--check")
    report = capsys.readouterr().out
    assert "train: 12 images" in report and "val: 12 images" in report
    (folder / "4.png").write_bytes(b"")
    run(monkeypatch, f"--data_dir={folder}", "--class_dim=4", "--check=val", "--reader_thread=1")
    report = capsys.readouterr().out
    assert "val: 12 images, 1 of them unreadable" in report
    assert f"unreadable: 1 of 12 images cannot be read\n    {folder}/4.png: the file is empty" in report
    assert "3 of 4 have images, 4 to 4" in report and "class 3 has 0" in report
    assert "height: 60 to 71" in report and "width: 100 to 100" in report
    assert "train" not in report
    for number in range(12):
        (folder / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 12 images can be read; the first: .*: the file is empty"):
        run(monkeypatch, f"--data_dir={folder}", "--class_dim=4", "--check=val", "--reader_thread=1")


@pytest.mark.parametrize(
    "flags, code, message",
    [
        ([], 2, "nothing to do"),
        (["--check=test"], 2, "--check=test"),
        (["--check", "--data_dir=nowhere"], 1, "nowhere: no such folder"),
        (["--check", "--check_path=0.png/found.csv"], 1, "--check_path: cannot write"),
        (["--show=x.png", "--batch_size=4", "--lower_ratio=2"], 2, "--lower_ratio 2"),
    ],
)
def test_mistakes_are_one_line(launch, folder, flags, code, message):
    result = launch("reader.py", 1, folder, f"--data_dir={folder}", *flags)
    assert (result.code, result.out) == (code, [])
    (line,) = result.err
    assert message in line


def test_flags_reach_the_loaders(folder):
    flags = (
        f"--data_dir {folder} --class_dim 3 --image_shape 3 32 48 --batch_size 6 --test_batch_size 4 --reader_thread 1 "
        "--lower_scale 0.5 --lower_ratio 0.9 --upper_ratio 1.1 --interpolation 2 --resize_short_size 50 --use_aa 1 "
        "--reader_buf_size 30"
    )
    args = parse("train", flags.split())
    loader = train_loader(args, seed=3, rank=1, world_size=2)
    assert isinstance(loader, OpenCVLoader)
    transform = loader.transform
    assert (transform.image_size, transform.lower_scale, transform.interpolation) == ((32, 48), 0.5, 2)
    assert (transform.lower_ratio, transform.upper_ratio) == (0.9, 1.1)
    assert transform.operations == (AutoAugment(),)
    assert (loader.batch_size, loader.seed, loader.rank, loader.world_size) == (3, 3, 1, 2)
    assert (loader.workers, loader.read_ahead_images) == (1, 30)

    validation = val_loader(args)
    assert (validation.transform.image_size, validation.transform.resize_short_size) == ((32, 48), 50)
    assert validation.batch_size == 4 and torch.cat([b.indices for b in validation.epoch(0)]).tolist() == list(
        range(12)
    )
    with pytest.raises(FlagError, match="--test_batch_size 4 does not divide evenly over 3"):
        val_loader(args, world_size=3)
