"""Reads images directly from tar files, local or in object storage."""

from __future__ import annotations

import concurrent.futures
import io
import itertools
import os
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from utils.console import warn
from utils.errors import FormatError, UserError, one_line, reason
from utils.formats.archives import TAR_ERRORS, tar_headers
from utils.reading.decode import UnreadableImage
from utils.reading.folders import image_suffixes, is_dropping
from utils.reading.image_list import ImageList, packed
from utils.reading.limits import too_long
from utils.reading.range_cache import RangeCache
from utils.reading.remote import is_url
from utils.reading.shard_files import HEADER_REQUESTS, Ahead, Sample, ShardFile, opened

# Bytes to look at behind the last member of a tar file: more than the zeros that programs write there.
LONGEST_END = 1 << 20
# Folders of shards without an end that the user knows of.
_without_end: set[str] = set()


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
            raise UserError(f"the tar shards {_named(shards)} contain no image")
        names, offsets, sizes, labels = columns
        super().__init__(*packed(names), np.asarray(labels, np.int32), os.path.dirname(shards[0]))
        self.source = _named(shards)
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
        header = tarfile.BLOCKSIZE  # read along, to notice other bytes than were there when the run started
        try:
            data = shard.read_at(header + size, int(self._arrays["offsets"][index]) - header)
        except OSError as error:
            raise UnreadableImage(self.path(index), reason(error)) from None
        if len(data) < header + size:
            raise UnreadableImage(self.path(index), "the tar file is truncated")
        if not _is_header(data[:header], size):
            raise UserError(
                f"{self.path(index)} is no longer where it was in {shard.path} when this run started: if the file was "
                "replaced, start again"
            )
        return data[header:]


def _is_header(block: bytes, size: int) -> bool:
    """Whether a block of a tar file is the header of a member of this size."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size == size
    except (tarfile.TarError, ValueError):
        return False


def _named(shards: list[str]) -> str:
    """The shards in a message."""
    return shards[0] if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more"


def _index_shard(shard: ShardFile) -> list[Sample]:
    """The images of a tar file."""
    return shard.samples(lambda: _read_headers(shard))


def _read_headers(shard: ShardFile) -> list[Sample]:
    """The images of a tar file, from its headers."""
    path = shard.path
    try:
        with shard.headers() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            parts = itertools.groupby(_parts(archive, path), lambda part: part.key)
            samples = [_sample(key, of_key, path) for key, of_key in parts]
            _check_end(file, archive.offset, path)
    except UserError as error:  # names in a tar file may contain line breaks
        raise UserError(one_line(error)) from None
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from None
    except TAR_ERRORS as error:  # FormatError is a ValueError
        raise UserError(f"{path}: not a complete tar file ({one_line(error)})") from None
    return samples


class _Part(NamedTuple):
    """A file of a sample.

    Attributes:
        key: of the sample.
        kind: "image", "label", or "" for another file.
        name: in the tar file.
        value: of an image, its path, offset and size; of a label, its number.
    """

    key: str
    kind: str
    name: str
    value: Any


def _parts(archive: tarfile.TarFile, path: str) -> Iterator[_Part]:
    """The files of the samples, in order."""
    shard = os.path.basename(path)
    for member in tar_headers(archive):
        folders = member.name.removeprefix("./").split("/")
        if member.isdir() or any(is_dropping(name) for name in folders if name != ".."):
            continue
        folder, name = os.path.split(member.name)
        # The key ends at the first dot of the file name.
        stem, dot, suffix = name.partition(".")
        kind = "label" if suffix == "cls" else "image" if (dot + suffix).lower() in image_suffixes() else ""
        plain = member.isfile() and not member.issparse()
        if kind and not plain:
            raise UserError(
                f"{path}: {member.name} is a link or a special file: pack the files themselves (tar --dereference "
                "--hard-dereference, without --sparse)"
            )
        if plain:
            place = os.path.join(shard, member.name), member.offset_data, member.size
            value = _label(archive, member, path) if kind == "label" else place
            yield _Part(os.path.join(folder, stem), kind, member.name, value)


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int:
    """The class in a .cls file."""
    content = archive.extractfile(member)
    text = content.read(20).strip() if content is not None else b""
    if not text.isdigit() or len(text) > 9:  # it must fit in 32 bits
        raise UserError(f"{path}: {member.name} holds {text[:20]!r}, not the number of a class")
    return int(text)


def _sample(key: str, parts: Iterable[_Part], path: str) -> Sample:
    """The sample of adjacent files with the same key."""
    found: dict[str, _Part] = {}
    for part in parts:
        if part.kind and part.kind in found:
            both = f"{found[part.kind].name} and {part.name}"
            raise UserError(f"{path}: the sample {key} has two {part.kind}s, {both}: leave one of them out")
        found[part.kind] = part
    for kind, suffixes in (("image", ", ".join(image_suffixes())), ("label", ".cls")):
        if kind not in found:
            raise UserError(f"{path}: the sample {key} has no {kind} ({suffixes})")
    return (*found["image"].value, found["label"].value)


def _check_end(file: io.RawIOBase, end: int, path: str) -> None:
    """Checks that a tar file ends where tarfile found no more members: it takes a damaged header for the end.

    Raises:
        FormatError: more follows.
    """
    file.seek(end)
    rest = file.read(LONGEST_END) or b""
    if rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise FormatError(f"cut off or damaged at byte {end}")
    if rest.strip(b"\0"):
        raise FormatError(f"more follows its end at byte {end}: unpack it with tar --ignore-zeros, and pack it again")
    if not rest and (folder := os.path.dirname(path)) not in _without_end:
        _without_end.add(folder)
        warn(f"{path}, and perhaps others there, do not end as tar files do, with zeros: they may have been cut off")
