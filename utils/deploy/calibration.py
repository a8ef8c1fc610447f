"""The calibration images of an int8 export."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from torch import Tensor

from utils.console import check_readable, report_unreadable
from utils.processes import gather_dict, gather_objects, rank, world_size
from utils.reading.build import eval_transform, infer_loader
from utils.reading.file_report import report_files
from utils.reading.image_list import ImageList
from utils.reading.normalize import normalize


def choose_images(args: argparse.Namespace) -> ImageList:
    """Picks --calibration_images images from --calibration_dir, evenly spaced."""
    images = ImageList.find(args.calibration_dir)
    count = min(len(images), args.calibration_images)
    chosen = [images.name(number * len(images) // count) for number in range(count)]
    return ImageList.from_paths(chosen, root=images.root)


class CalibrationBatches:
    """Batches of this process's share of the images, prepared for the network as the flags ask.

    Each iteration reads the files again; a bad file is reported once. Every process must iterate.
    """

    def __init__(self, args: argparse.Namespace, images: ImageList) -> None:
        self._loader = infer_loader(args, images, eval_transform(args), rank(), world_size())
        self._mean, self._std = args.image_mean, args.image_std
        self._reported = False

    def __iter__(self) -> Iterator[Tensor]:
        read = 0
        for batch in self._loader.epoch(0):
            yield normalize(batch.images, self._mean, self._std)
            read += len(batch)
        if not self._reported:
            self._reported = True
            unreadable = gather_dict(self._loader.unreadable)
            check_readable(unreadable, sum(gather_objects(read)))
            report_unreadable(unreadable)
            report_files(self._loader)
