"""Near-duplicates: found where they are, and nowhere else; kept together by --split, named by --check."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import reader
from utils.reading.duplicates import FINGERPRINT, fingerprint, groups_of
from utils.reading.file_kinds import contradicts, kind_of
from utils.reading.split import draw


def picture(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth picture of its own, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (9, 11, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(pixels: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    return cv2.imencode(suffix, pixels[..., ::-1], options)[1].tobytes()


def changed(pixels: np.ndarray) -> list[np.ndarray]:
    """Copies as people make them."""
    compressed = cv2.imdecode(np.frombuffer(encoded(pixels, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 50), np.uint8), 1)
    return [
        compressed[..., ::-1],
        cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
        (255 * (pixels / 255) ** 1.2).astype(np.uint8),
    ]


def test_copies_are_found_and_nothing_else():
    originals = [picture(seed) for seed in range(300)]
    copies = [(seed, copy) for seed in range(0, 300, 10) for copy in changed(originals[seed])]
    prints = np.stack([fingerprint(image) for image in [*originals, *(copy for _, copy in copies)]])
    groups = groups_of(prints)
    assert groups.tolist() == [*range(300), *(seed for seed, _ in copies)]
    assert prints.shape[1] == FINGERPRINT and not len(groups_of(prints[:0])) and groups_of(prints[:1]).tolist() == [0]


def test_digits_are_not_taken_for_each_other():
    from sklearn.datasets import load_digits

    scans = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    groups = groups_of(np.stack([fingerprint(cv2.cvtColor(scan, cv2.COLOR_GRAY2RGB)) for scan in scans]))
    assert (np.bincount(groups)[groups] > 1).mean() < 0.01


def test_blank_images_are_one_group_per_colour_and_copies_of_copies_are_one():
    blank = [np.full((20, 20, 3), colour, np.uint8) for colour in ((250, 250, 250), (20, 20, 20), (250, 20, 20))]
    rng = np.random.default_rng(0)
    noisy = [blank[number % 3] + rng.integers(0, 3, (20, 20, 3), np.uint8) for number in range(300)]
    prints = np.stack([fingerprint(image) for image in noisy])
    assert groups_of(prints).tolist() == [0, 1, 2] * 100
    first = picture(0).astype(float)
    steps = [(first + (picture(1) - first) * step / 40).astype(np.uint8) for step in range(41)]
    assert set(groups_of(np.stack([fingerprint(step) for step in steps])).tolist()) == {0}
    assert len(set(groups_of(np.stack([fingerprint(steps[0]), fingerprint(steps[-1])])).tolist())) == 2


def test_groups_are_held_out_whole():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [100, 40, 6, 3])
    groups = np.arange(149)
    groups[:60] = np.repeat(groups[:60:3], 3)  # 20 groups of three
    groups[[98, 99, 100, 101]] = 98  # of two classes
    groups[140:146] = [140, 140, 140, 143, 143, 143]
    groups[146:] = 146  # a class that is one group
    held_out = draw(labels, groups, 0.2, rng)
    assert all(len(set(held_out[groups == group])) == 1 for group in set(groups.tolist()))
    assert np.bincount(labels[held_out], minlength=4).tolist() == [20, 8, 3, 0]
    assert not np.array_equal(held_out, draw(labels, groups, 0.2, rng))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".gif", ".jp2", ".ras", ".avif"])
def test_kinds_of_files(suffix):
    data = encoded(picture(0), suffix)
    assert not contradicts(f"a{suffix.upper()}", kind_of(data)) and not contradicts("a", kind_of(data))
    assert contradicts("a.hif", kind_of(data)) and not contradicts("a.png", kind_of(b"nothing"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of 15 pictures, and what may be wrong with such."""
    for number in range(30):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    add = {
        "train/a/same.png": encoded(picture(0)),
        "train/a/other.png": encoded(changed(picture(2))[0]),
        "train/b/label.png": encoded(changed(picture(4))[2]),
        "train/b/wrong.png": encoded(picture(50), ".jpg"),
        "train/b/tiny.png": encoded(picture(51)[:20]),
        "train/b/giant.png": encoded(picture(52, 2900, 2900)),
        "train/a/broken.jpg": encoded(picture(53), ".jpg")[:500],
    }
    for name, data in add.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def run(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["reader.py", "--class_dim=2", "--reader_thread=0", *flags])
    reader.main()


def test_check_names_what_may_be_wrong(folder, tmp_path, monkeypatch, capsys):
    for name, data in {"a/1.png": encoded(picture(0)), "b/2.png": encoded(picture(60))}.items():
        (folder / "val" / name).parent.mkdir(parents=True)
        (folder / "val" / name).write_bytes(data)
    table = tmp_path / "found.csv"
    run(monkeypatch, f"--data_dir={folder}", "--check", f"--check_path={table}")
    with open(table, newline="") as file:
        rows = list(csv.reader(file))
    found = {tuple(row[:3]): row[3] for row in rows[1:]}
    broken = found.pop(("train", str(folder / "train/a/broken.jpg"), "unreadable"))
    assert "truncated" in broken and rows[0] == ["part", "image", "problem", "detail"]
    assert found == {
        ("train", "b/wrong.png", "suffix"): "its content is JPEG",
        ("train", "b/tiny.png", "tiny"): "80 x 20",
        ("train", "b/giant.png", "giant"): "2900 x 2900",
        ("train", "a/same.png", "same"): "a/00.png",
        ("train", "a/other.png", "duplicate"): "a/02.png",
        ("train", "b/label.png", "duplicate"): "a/04.png",
        ("train", "b/label.png", "labels"): "1, and 0 of a/04.png",
        ("val", "a/1.png", "same"): "train: a/00.png",
    }
    said = capsys.readouterr().out
    assert "  suffix: 1 of 37 images have another format than their suffix says\n    b/wrong.png: its content" in said
    assert (
        "val and train: the network has seen images that are in both" in said and "    a/1.png: train: a/00.png" in said
    )


def test_what_check_prints_is_bounded(tmp_path, monkeypatch, capsys):
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(encoded(picture(number % 2)))
    lines = [f"{number:02}.png {number % 4}\n" for number in range(40)]
    (tmp_path / "train_list.txt").write_text("".join(lines[:39]))
    monkeypatch.setattr(sys, "argv", ["reader.py", "--class_dim=4", f"--data_dir={tmp_path}", "--check=train"])
    reader.main()
    said = capsys.readouterr().out
    assert "same: 37 of 39 images" in said and "and 32 more" in said and said.count("\n") < 30
    assert "few: 1 classes have fewer than 10 images: class 3 (9)" in said


def test_split_keeps_near_duplicates_together(folder, monkeypatch, capsys):
    run(monkeypatch, f"--data_dir={folder}", "--split=0.3")
    said = capsys.readouterr()
    assert "6 images are near-duplicates of others, in 3 groups" in said.out
    assert "1 groups of near-duplicates have several labels" in said.err and "1 unreadable" in said.err
    side = {
        line.rpartition(" ")[0]: part
        for part in ("train", "val")
        for line in (folder / f"{part}_list.txt").read_text().splitlines()
    }
    assert len(side) == 37 and Counter(side.values()) == {"train": 26, "val": 11}
    for first, second in (("a/00", "a/same"), ("a/02", "a/other"), ("a/04", "b/label")):
        assert side[f"train/{first}.png"] == side[f"train/{second}.png"]
    for part in ("train", "val"):
        (folder / f"{part}_list.txt").unlink()
    monkeypatch.setattr(reader, "inspect_images", None)  # no image is read
    run(monkeypatch, f"--data_dir={folder}", "--split=0.3", "--group_duplicates=False")
    assert "near-duplicates" not in capsys.readouterr().out
