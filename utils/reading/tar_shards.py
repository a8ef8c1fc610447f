"""Reads images directly from tar files, local or in object storage."""

from __future__ import annotations

import concurrent.futures
import os
import tarfile
from collections.abc import Iterable

import numpy as np

from utils.errors import UserError, one_line, reason
from utils.formats.archives import TAR_ERRORS, tar_headers
from utils.reading.decode import UnreadableImage
from utils.reading.folders import image_suffixes, is_dropping
from utils.reading.image_list import ImageList, packed
from utils.reading.limits import too_long
from utils.reading.range_cache import RangeCache
from utils.reading.remote import is_url
from utils.reading.shard_files import HEADER_REQUESTS, Ahead, Sample, ShardFile, opened


class TarShards(ImageList):
    """Images in tar files in webdataset's layout: KEY.jpg, and KEY.cls with the label.

    Headers are read once to locate the images; then each image is read in place. Training reads the shards in random
    order, each from beginning to end, and shuffles within a window of `WINDOW` images. So reading is nearly sequential,
    yet any process, worker or resumed run can compute the order of images.

    Attributes:
        shards: the tar files.
    """

    WINDOW = 16384

    def __init__(self, shards: list[str], class_dim: int | None = None, cache: RangeCache | None = None) -> None:
        """Reads the headers of tar files.

        Args:
            shards: paths or URLs.
            class_dim: number of classes; a label outside it is an error.
            cache: for remote shards.

        Raises:
            UserError: a file is not a tar file, an image has no label or a bad one, there is no image, or a server does
                not respond.
        """
        self.shards = opened(shards, cache)
        self._ahead = Ahead() if is_url(shards[0]) else None
        with concurrent.futures.ThreadPoolExecutor(None if self._ahead is None else HEADER_REQUESTS) as threads:
            # Read the first one alone: if that fails, the others are not requested.
            samples = [_index_shard(self.shards[0]), *threads.map(_index_shard, self.shards[1:])]
        counts = [len(part) for part in samples]
        columns = list(zip(*(sample for part in samples for sample in part), strict=True))
        if not columns:
            raise UserError(f"{shards[0]} and {len(shards) - 1} more shards contain no image")
        names, offsets, sizes, labels = columns
        super().__init__(*packed(names), np.asarray(labels, np.int32), os.path.dirname(shards[0]))
        self.source = shards[0] if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more"
        self._arrays["offsets"] = np.asarray(offsets, np.int64)
        self._arrays["sizes"] = np.asarray(sizes, np.int64)
        # Index of each shard's first image, and the total.
        self._arrays["borders"] = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        if class_dim is not None and self.labels.max() >= class_dim:
            index = int(self.labels.argmax())
            raise UserError(f"{self.path(index)}: label {self.label(index)} is not in 0..{class_dim - 1} (--class_dim)")

    def folder(self, index: int) -> str:
        member = self.name(index).partition(os.sep)[2]
        return os.path.basename(os.path.dirname(member))

    def shuffled(self, seed: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((seed, epoch))
        borders = self._arrays["borders"]
        shards = rng.permutation(len(self.shards))
        order = np.concatenate([np.arange(int(borders[shard]), int(borders[shard + 1])) for shard in shards])
        return order[np.argsort(np.arange(len(order)) + rng.uniform(0, self.WINDOW, len(order)))]

    def with_unlabeled(self, paths: Iterable[str]) -> ImageList:
        raise UserError("--unlabeled_list needs loose files, not tar shards: unpack them, or leave the flag out")

    def expect(self, indices: Iterable[int]) -> None:
        if self._ahead is not None:
            self._ahead.expect(indices, self._read)

    def read(self, index: int) -> bytes:
        data = None if self._ahead is None else self._ahead.take(index)
        return self._read(index) if data is None else data

    def _read(self, index: int) -> bytes:
        shard = self.shards[int(np.searchsorted(self._arrays["borders"], index, side="right")) - 1]
        size = int(self._arrays["sizes"][index])
        if why := too_long(size):
            raise UnreadableImage(self.path(index), why)
        try:
            data = shard.read_at(size, int(self._arrays["offsets"][index]))
        except OSError as error:
            raise UnreadableImage(self.path(index), reason(error)) from None
        if len(data) < size:
            raise UnreadableImage(self.path(index), "the tar file is truncated")
        return data


def _index_shard(shard: ShardFile) -> list[Sample]:
    """The images of a tar file."""
    return shard.samples(lambda: _read_headers(shard))


def _read_headers(shard: ShardFile) -> list[Sample]:
    """The images of a tar file, from its headers."""
    path = shard.path
    samples: list[Sample] = []
    key, image, label = None, None, None

    def finish() -> None:
        if key is None:
            return
        if image is None or label is None:
            missing = f"no image ({', '.join(image_suffixes())})" if image is None else "no label (.cls)"
            raise UserError(f"{path}: the sample {key} has {missing}")
        samples.append((*image, label))

    try:
        with shard.headers() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in tar_headers(archive):
                if (
                    not member.isfile()
                    or member.issparse()
                    or any(map(is_dropping, member.name.removeprefix("./").split("/")))
                ):
                    continue
                folder, name = os.path.split(member.name)
                # The key ends at the first dot of the file name.
                stem, dot, suffix = name.partition(".")
                if os.path.join(folder, stem) != key:
                    finish()
                    key, image, label = os.path.join(folder, stem), None, None
                if (dot + suffix).lower() in image_suffixes():
                    place = os.path.join(os.path.basename(path), member.name)
                    image = place, member.offset_data, member.size
                elif suffix == "cls":
                    content = archive.extractfile(member)
                    text = content.read(20).strip() if content is not None else b""
                    if not text.isdigit() or len(text) > 9:  # it must fit in 32 bits
                        raise UserError(f"{path}: {member.name} holds {text[:20]!r}, not the number of a class")
                    label = int(text)
            finish()
    except UserError as error:  # names in a tar file may contain line breaks
        raise UserError(one_line(error)) from None
    except (*TAR_ERRORS, OSError) as error:  # FormatError is a ValueError
        raise UserError(f"{path}: not a complete tar file ({one_line(error)})") from None
    return samples
