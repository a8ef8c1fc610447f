"""Images in tar files, where they lie."""

from __future__ import annotations

import concurrent.futures
import functools
import io
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
from utils.system import read_at


class TarShards(ImageList):
    """Images in tar files, in the layout of the webdataset library: KEY.jpg and KEY.cls, which holds the label.

    The headers are read once, for the places of the images; then an image is read where it lies. Training goes through
    the shards, in random order, from begin to end, and shuffles within a window of `WINDOW` images: reading is nearly
    sequential, and yet any process, worker or resumed run can tell which image comes when.

    Attributes:
        shards: paths of the tar files.
    """

    WINDOW = 16384

    def __init__(self, shards: list[str], class_dim: int | None = None) -> None:
        """Reads the headers of tar files.

        Raises:
            UserError: a file that is no tar file, an image without a label, a bad label, or no image at all.
        """
        self.shards = shards
        with concurrent.futures.ThreadPoolExecutor() as threads:
            samples = list(threads.map(_index_shard, shards))
        counts = [len(part) for part in samples]
        columns = list(zip(*(sample for part in samples for sample in part), strict=True))
        if not columns:
            raise UserError(f"{shards[0]} and {len(shards) - 1} more shards hold no image")
        names, offsets, sizes, labels = columns
        super().__init__(*packed(names), np.asarray(labels, np.int32), os.path.dirname(shards[0]))
        self.source = shards[0] if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more"
        self._arrays["offsets"] = np.asarray(offsets, np.int64)
        self._arrays["sizes"] = np.asarray(sizes, np.int64)
        # Where each shard's images begin, and the end.
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
        raise UserError("--unlabeled_list goes with loose files, not with tar shards: unpack them, or leave it out")

    def read(self, index: int) -> bytes:
        shard = self.shards[int(np.searchsorted(self._arrays["borders"], index, side="right")) - 1]
        size = int(self._arrays["sizes"][index])
        if why := too_long(size):
            raise UnreadableImage(self.path(index), why)
        try:
            data = read_at(_open_shard(shard), size, int(self._arrays["offsets"][index]))
        except OSError as error:
            raise UnreadableImage(self.path(index), reason(error)) from None
        if len(data) < size:
            raise UnreadableImage(self.path(index), "the tar file is truncated")
        return data


@functools.lru_cache(maxsize=64)
def _open_shard(path: str) -> io.FileIO:
    """A tar file, kept open: the system reads ahead in it."""
    return open(path, "rb", buffering=0)


def _index_shard(shard: str) -> list[tuple[str, int, int, int]]:
    """(shard/member, place, size, label) of each image of a tar file."""
    samples: list[tuple[str, int, int, int]] = []
    key, image, label = None, None, None

    def finish() -> None:
        if key is None:
            return
        if image is None or label is None:
            missing = f"no image ({', '.join(image_suffixes())})" if image is None else "no label (.cls)"
            raise UserError(f"{shard}: the sample {key} has {missing}")
        samples.append((*image, label))

    try:
        with tarfile.open(shard, "r:") as archive:
            for member in tar_headers(archive):
                if (
                    not member.isfile()
                    or member.issparse()
                    or any(map(is_dropping, member.name.removeprefix("./").split("/")))
                ):
                    continue
                folder, name = os.path.split(member.name)
                # The key ends at the first dot of the file's name.
                stem, dot, suffix = name.partition(".")
                if os.path.join(folder, stem) != key:
                    finish()
                    key, image, label = os.path.join(folder, stem), None, None
                if (dot + suffix).lower() in image_suffixes():
                    place = os.path.join(os.path.basename(shard), member.name)
                    image = place, member.offset_data, member.size
                elif suffix == "cls":
                    file = archive.extractfile(member)
                    text = file.read(20).strip() if file is not None else b""
                    if not text.isdigit() or len(text) > 9:  # it has to fit in 32 bits
                        raise UserError(f"{shard}: {member.name} holds {text[:20]!r}, not the number of a class")
                    label = int(text)
            finish()
    except UserError as error:  # names in a tar file may have line breaks
        raise UserError(one_line(error)) from None
    except (*TAR_ERRORS, OSError) as error:  # FormatError is a ValueError
        raise UserError(f"{shard}: not a whole tar file ({one_line(error)})") from None
    return samples
