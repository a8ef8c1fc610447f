"""Reads every image of a list once, to check or split a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from utils.console import progress
from utils.processes import gather_dict, gather_objects, rank, world_size
from utils.reading.decode import decode, decode_rows, parse_jpeg
from utils.reading.duplicates import FINGERPRINT, fingerprint
from utils.reading.file_kinds import kind_of
from utils.reading.image_list import ImageList
from utils.reading.opencv_loader import OpenCVLoader
from utils.reading.resize import Colour

# Record of an image: its size; the file's `file_kinds.kind_of`; the file's checksum; `duplicates.fingerprint`.
RECORD = np.dtype(
    [("height", "<u4"), ("width", "<u4"), ("kind", "u1"), ("digest", "<u8"), ("fingerprint", "u1", FINGERPRINT)]
)
# JPEGs with longer sides are decoded at an eighth of their size for the fingerprint.
LARGE = 256


@dataclass(frozen=True)
class Inspect:
    """Acts as a transform: returns an image's record as three bytes per pixel.

    Attributes:
        quick: decode only what a fingerprint needs; this may miss damage.
        decode_backend, background, image_depth_range: as in `utils.reading.transforms.EvalTransform`.
    """

    quick: bool = False
    decode_backend: str = "cv2"
    background: Colour | None = None
    image_depth_range: tuple[int, int] | None = None
    image_size: tuple[int, int] = (1, -(-RECORD.itemsize // 3))

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        record = np.zeros((), RECORD)
        jpeg = parse_jpeg(data, path) if self.quick else None
        if jpeg is not None and min(jpeg.height, jpeg.width) > LARGE:
            pixels = decode_rows(jpeg, jpeg.height, 8)
            record["height"], record["width"] = jpeg.height, jpeg.width
        else:
            pixels = decode(data, path, self.decode_backend, self.background, self.image_depth_range)
            record["height"], record["width"] = pixels.shape[:2]
        record["kind"] = kind_of(data)
        record["digest"] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        record["fingerprint"] = fingerprint(pixels)
        return np.frombuffer(record.tobytes().ljust(3 * self.image_size[1], b"\0"), np.uint8).reshape(
            *self.image_size, 3
        )


def _unpacked(images: torch.Tensor) -> np.ndarray:
    """The records, (n,), of a batch from `Inspect`."""
    rows = images.numpy().reshape(len(images), -1)[:, : RECORD.itemsize]
    return np.ascontiguousarray(rows).view(RECORD)[:, 0]


@dataclass(frozen=True)
class Inspected:
    """The results for the images of a list, from all processes.

    Attributes:
        images: the list.
        rows: int64 (n,), ascending, the indices of readable images.
        records: `RECORD` (n,), of these.
        unreadable: path -> reason, of the others.
        damaged: path -> decoder's message, of damaged but decodable ones.
    """

    images: ImageList
    rows: np.ndarray
    records: np.ndarray
    unreadable: dict[str, str]
    damaged: dict[str, str]


def inspect_images(
    images: ImageList,
    transform: Inspect,
    workers: int,
    read_ahead: int,
    report: Callable[[OpenCVLoader], None] = lambda loader: None,
) -> Inspected:
    """Reads the images of a list, divided among the processes; every process must call it.

    Args:
        images: the list.
        transform: makes the records.
        workers: reader processes; 0: none.
        read_ahead: images read ahead.
        report: called with the loader at the end.
    """
    loader = OpenCVLoader(
        images, transform, 64, training=False, workers=workers, read_ahead_images=read_ahead,
        rank=rank(), world_size=world_size(),
    )  # fmt: skip
    rows, records = [np.empty(0, np.int64)], [np.empty(0, RECORD)]
    with progress(len(images), "images") as bar:
        for batch in loader.epoch(0):
            rows.append(batch.indices.numpy())
            records.append(_unpacked(batch.images))
            bar.update(len(batch) * world_size())
    loader.close()
    parts = gather_objects((np.concatenate(rows), np.concatenate(records)))
    places, found = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(places)
    unreadable, damaged = (dict(sorted(gather_dict(files).items())) for files in (loader.unreadable, loader.damaged))
    report(loader)
    return Inspected(images, places[order], found[order], unreadable, damaged)
