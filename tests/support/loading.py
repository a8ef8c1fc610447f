"""A numbered data set and loaders of it, for tests of the reader."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.reading.dataset import open_dataset
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader
from utils.reading.opencv_loader import OpenCVLoader
from utils.reading.transforms import EvalTransform, TrainTransform

SIZE = (32, 32)


def save_picture(path: Path, seed: int, height: int = 48, width: int = 64) -> None:
    """Writes a random image; its pixels depend on `seed`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    # cv2.imwrite takes no non-ASCII path on every system.
    path.write_bytes(cv2.imencode(path.suffix, cv2.resize(coarse, (width, height)))[1].tobytes())


def numbered_images(folder: Path) -> Path:
    """Makes 37 images in list order 0.jpg ... 36.jpg, with the labels 0, 1, 2, 0, ...; returns the folder."""
    for number in range(37):
        save_picture(folder / "val" / f"{number}.jpg", number)
    lines = "".join(f"val/{number}.jpg {number % 3}\n" for number in range(37))
    (folder / "train_list.txt").write_text(lines)
    (folder / "val_list.txt").write_text(lines)
    return folder


def training(folder: Path, batch_size: int = 8, workers: int = 0, **options) -> Loader:
    images = open_dataset(str(folder), "train", 3)
    return OpenCVLoader(images, TrainTransform(SIZE), batch_size, training=True, workers=workers, **options)


def evaluation(folder: Path, batch_size: int = 8, workers: int = 0, **options) -> Loader:
    images = open_dataset(str(folder), "val", 3)
    return OpenCVLoader(images, EvalTransform(SIZE, 40), batch_size, training=False, workers=workers, **options)


def contents(loader: Loader, epoch: int = 0, start_step: int = 0) -> list[tuple]:
    """Pixels, labels and indices of an epoch's batches, to be compared."""
    return [
        (b.images.numpy().tobytes(), b.labels.tolist(), b.indices.tolist()) for b in loader.epoch(epoch, start_step)
    ]


def entries(images: ImageList) -> list[tuple[str, int]]:
    """Paths and labels."""
    return [(images.path(i), images.label(i)) for i in range(len(images))]
