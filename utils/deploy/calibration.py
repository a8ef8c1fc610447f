"""The images by which an exported network is quantized."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from torch import Tensor

from utils.console import check_readable
from utils.reading.build import eval_transform, infer_loader
from utils.reading.file_report import report_files
from utils.reading.image_list import ImageList
from utils.reading.transforms import normalize


def choose_images(args: argparse.Namespace) -> ImageList:
    """--calibration_images of the images of --calibration_dir, evenly spread over them."""
    images = ImageList.find(args.calibration_dir)
    count = min(len(images), args.calibration_images)
    chosen = [images.name(number * len(images) // count) for number in range(count)]
    return ImageList.from_paths(chosen, root=images.root)


def prepared(args: argparse.Namespace, images: ImageList) -> Iterator[Tensor]:
    """Batches of the images, prepared for the network by the flags."""
    loader = infer_loader(args, images, eval_transform(args))
    read = 0
    for batch in loader.epoch(0):
        yield normalize(batch.images, args.image_mean, args.image_std)
        read += len(batch)
    check_readable(loader.unreadable, read)
    report_files(loader)
