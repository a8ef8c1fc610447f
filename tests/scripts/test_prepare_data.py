"""data/*/prepare.py: data sets as image files and lists."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from archives import tar_of

from utils.reading.class_names import read_class_names
from utils.reading.dataset import open_dataset

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, folder: Path) -> ModuleType:
    """The script data/NAME/prepare.py as a module that writes to `folder`."""
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", ROOT / "data" / name / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.FOLDER = folder
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
    module.main()


def listed(folder: Path, part: str) -> list[tuple[str, int]]:
    lines = (folder / f"{part}_list.txt").read_text().splitlines()
    return [(path, int(label)) for path, label in (line.split() for line in lines)]


def test_digits(tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    digits = load("digits", tmp_path)
    run(digits, monkeypatch)
    train, val = listed(tmp_path, "train"), listed(tmp_path, "val")
    assert len(train) + len(val) == 1797
    assert not {Path(path).name for path, _ in train} & {Path(path).name for path, _ in val}
    scans, labels = load_digits(return_X_y=True)
    shares = np.bincount([label for _, label in val], minlength=10) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.01
    for path, label in train[::97] + val[::97]:
        number = int(Path(path).stem)
        image = cv2.imread(str(tmp_path / path), cv2.IMREAD_GRAYSCALE)
        assert label == labels[number]
        smaller = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(smaller.ravel(), scans[number])[0, 1] > 0.98
    assert len(open_dataset(str(tmp_path), "val", 10)) == len(val)
    assert read_class_names(str(tmp_path / "label_names.txt"), 10)[7] == "seven"

    # A second run has nothing to do.
    (tmp_path / train[0][0]).unlink()
    run(digits, monkeypatch)
    assert not (tmp_path / train[0][0]).exists()


@pytest.fixture
def cifar10(tmp_path) -> ModuleType:
    """The script, for a data set of 20 + 10 images."""
    module = load("cifar10", tmp_path / "out")
    module.COUNTS = {"train": 20, "val": 10}
    module.BATCHES = {"data_batch_1": ("train", 0), "data_batch_2": ("train", 10), "test_batch": ("val", 0)}
    return module


def write_tar(path: Path, files: dict[str, bytes]) -> str:
    path.write_bytes(tar_of(files, f"w:{path.suffix[1:]}"))
    return str(path)


def batch_file(pixels: np.ndarray, labels: list[int]) -> bytes:
    """Ten images as in an official batch file: Python 2's strings are bytes, numpy's module has its old name."""
    content = pickle.dumps({b"data": pixels, b"labels": labels, b"batch_label": b"one"}, protocol=3)
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_cifar10_from_the_official_archive(cifar10, tmp_path, monkeypatch):
    pixels = np.random.RandomState(0).randint(0, 256, (30, 3072)).astype(np.uint8)
    labels = [number * 7 % 10 for number in range(30)]
    files = {
        f"cifar-10-batches-py/{name}": batch_file(pixels[i : i + 10], labels[i : i + 10])
        for i, name in ((10, "data_batch_2"), (20, "test_batch"), (0, "data_batch_1"))
    }
    files["cifar-10-batches-py/readme.html"] = b"hello"
    run(cifar10, monkeypatch, write_tar(tmp_path / "cifar.gz", files))
    for part, first in (("train", 0), ("val", 20)):
        entries = listed(cifar10.FOLDER, part)
        assert len(entries) == cifar10.COUNTS[part]
        for path, label in entries:
            number = first + int(Path(path).stem)
            image = cv2.cvtColor(cv2.imread(str(cifar10.FOLDER / path)), cv2.COLOR_BGR2RGB)
            assert np.array_equal(image.transpose(2, 0, 1).ravel(), pixels[number])
            assert label == labels[number]
            assert Path(path).parent.name == cifar10.NAMES[label]


def test_cifar10_from_image_files(cifar10, tmp_path, monkeypatch):
    files = {"cifar10/train_list.txt": b"not needed"}
    for part, count in cifar10.COUNTS.items():
        for number in range(count):
            files[f"cifar10/{part}/{cifar10.NAMES[number % 10]}/{number:04d}.jpg"] = b"%d" % number
    outside = {"cifar10/../../evil.jpg": b"x", "cifar10/train/../evil.jpg": b"x"}
    run(cifar10, monkeypatch, write_tar(tmp_path / "cifar.xz", {**files, **outside}))
    assert len(listed(cifar10.FOLDER, "train")) == 20
    for path, label in listed(cifar10.FOLDER, "val"):
        assert (cifar10.FOLDER / path).read_bytes() == b"%d" % int(Path(path).stem)
        assert label == int(Path(path).stem) % 10
    assert not list(tmp_path.rglob("evil.jpg"))
    lines = [f"{number} {label}\n" for label in range(10) for number in range(100)]
    counts = [sum(line.endswith(f" {label}\n") for line in cifar10.imbalanced(lines, 20)) for label in range(10)]
    assert counts == [100, 72, 51, 37, 26, 19, 14, 10, 7, 5]  # by a factor of 20 ** (1 / 9)
    run(cifar10, monkeypatch, str(tmp_path / "cifar.xz"), "--imbalance=2")
    assert [label for _, label in listed(cifar10.FOLDER, "imbalanced")].count(9) == 1


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("evil.gz", {"x/data_batch_1": pickle.dumps({b"data": Evil(), b"labels": []}, protocol=3)}, "builtins.print"),
        ("half.gz", {"x/train/cat/1.jpg": b"x"}, "1 images for train"),
        ("odd.gz", {"x/data_batch_1": pickle.dumps({b"data": 3}, protocol=3)}, "not CIFAR-10"),
    ],
)
def test_cifar10_refuses_other_archives(cifar10, tmp_path, monkeypatch, capsys, name, files, said):
    with pytest.raises(SystemExit, match=said) as error:
        run(cifar10, monkeypatch, write_tar(tmp_path / name, files))
    assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out
    assert not (cifar10.FOLDER / "label_names.txt").exists()


def test_cifar10_reports_a_file_that_is_no_archive(cifar10, tmp_path, monkeypatch):
    (tmp_path / "text.tar").write_text("no archive")
    for name in ("text.tar", "missing.tar"):
        with pytest.raises(SystemExit, match=name):
            run(cifar10, monkeypatch, str(tmp_path / name))
