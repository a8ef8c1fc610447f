"""The tar files of a dataset, local or remote: reads parts and lists headers."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import fnmatch
import functools
import io
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Protocol

from utils.console import warn
from utils.errors import UserError, cut
from utils.flags.kinds import data_root
from utils.reading import remote
from utils.reading.folders import image_suffixes
from utils.reading.range_cache import RangeCache
from utils.reading.remote import RemoteFile, is_url
from utils.system import read_at

# Concurrent requests per process: for images, and for headers of a few hundred bytes.
REQUESTS, HEADER_REQUESTS = 16, 64
# Bytes to read at once for headers: few if images lie between them, many if headers are adjacent.
LEAST, MOST = 2048, 1 << 20
# Maximum size of a header.
LONGEST_HEADER = 1 << 24
MOST_SHARDS = 100_000

# (shard/member, offset, size, label) of an image.
Sample = tuple[str, int, int, int]


class ShardFile(Protocol):
    """A tar file, local or remote.

    Attributes:
        path: path or URL.
    """

    path: str

    def read_at(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, or fewer at the end; raises `OSError`, or `UserError` to end the run."""
        ...

    def headers(self) -> io.RawIOBase:
        """The file, to read its headers once."""
        ...

    def samples(self, read: Callable[[], list[Sample]]) -> list[Sample]:
        """The images in it, from `read` unless already cached."""
        ...


class LocalShard:
    """A local tar file; see `ShardFile`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read_at(self, size: int, offset: int) -> bytes:
        return read_at(_opened(self.path), size, offset)

    def headers(self) -> io.RawIOBase:
        return open(self.path, "rb", buffering=0)

    def samples(self, read: Callable[[], list[Sample]]) -> list[Sample]:
        return read()


@functools.lru_cache(maxsize=64)
def _opened(path: str) -> io.FileIO:
    """A tar file, kept open so that the system reads ahead."""
    return open(path, "rb", buffering=0)


class RemoteShard:
    """A tar file at a URL; see `ShardFile`.

    Args:
        url: without credentials.
        cache: stores the parts read; None: no cache.
    """

    def __init__(self, url: str, cache: RangeCache | None) -> None:
        self.path, self.cache = url, cache

    @functools.cached_property
    def _file(self) -> RemoteFile:
        return RemoteFile.find(self.path)

    def _key(self, *part: object) -> str:
        return " ".join(map(str, (self.path, self._file.version, *part)))

    def read_at(self, size: int, offset: int) -> bytes:
        if self.cache is None:
            return self._file.read_at(size, offset)
        data = self.cache.get(key := self._key(offset, size))
        if data is None:
            data = self._file.read_at(size, offset)
            self.cache.put(key, data)
        return data

    def headers(self) -> io.RawIOBase:
        return _Headers(self._file)

    def samples(self, read: Callable[[], list[Sample]]) -> list[Sample]:
        if self.cache is None:
            return read()
        key = self._key("samples", *image_suffixes())
        with self.cache.making(key):
            if (noted := self.cache.get(key)) is not None:
                return [tuple(sample) for sample in json.loads(noted)]
            samples = read()
            self.cache.put(key, json.dumps(samples).encode())
        return samples


class _Headers(io.RawIOBase):
    """A remote tar file for `tarfile`, which jumps from header to header; nothing in between is fetched."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._place = self._start = 0
        self._fetched = b""
        self._step = LEAST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence])
        return self._place

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise ValueError(f"a header of {size} bytes at byte {self._place}")
        end = min(self._place + size, self._file.size)
        fetched_to = self._start + len(self._fetched)
        if not self._start <= self._place or end > fetched_to:
            follows = self._fetched and abs(self._place - fetched_to) <= LEAST
            self._step = min(MOST, 4 * self._step) if follows else LEAST
            self._start = self._place
            self._fetched = self._file.read_at(max(size, self._step), self._start)
        data = self._fetched[self._place - self._start :][:size]
        self._place += len(data)
        return data


class Ahead:
    """Reads several items concurrently, and keeps each until it is taken."""

    def __init__(self) -> None:
        self._coming: dict[int, concurrent.futures.Future[bytes]] = {}
        self._process = os.getpid()

    def expect(self, indices: Iterable[int], read: Callable[[int], bytes]) -> None:
        """Schedules `read` for each of the indices."""
        threads = _threads(os.getpid())
        self._coming = {index: threads.submit(read, index) for index in indices}
        self._process = os.getpid()

    def take(self, index: int) -> bytes | None:
        """The item of an index, once; None if it was not expected. Raises any error from reading."""
        coming = self._coming.pop(index, None) if self._process == os.getpid() else None  # forks have no threads
        return None if coming is None else coming.result()

    def __getstate__(self) -> dict:
        return {}

    def __setstate__(self, state: dict) -> None:
        self.__init__()


@functools.lru_cache(maxsize=1)
def _threads(process: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(REQUESTS)


def find_shards(data_dir: str, split: str, list_path: str | None) -> list[str]:
    """The URLs of a part's shards: from a list, else from data_dir/{split}_shards.txt, else the files in `data_dir`.

    Args:
        data_dir: a URL.
        split: "train" or "val".
        list_path: a list of shards, a path or a URL: a line is a URL or a path relative to `data_dir`, in which
            {00..99} stands for all numbers with that many digits.

    Returns:
        URLs; empty if there are none.

    Raises:
        UserError: the server does not respond, or the list is wrong.
    """
    data_dir = data_dir.rstrip("/")
    names = remote.names_below(data_dir) if list_path is None else frozenset()
    own_list = f"{split}_shards.txt"
    if list_path is not None or own_list in (names or ()):
        return _listed(list_path or f"{data_dir}/{own_list}", data_dir)
    if found := sorted(fnmatch.filter(names or (), f"{split}*.tar")):
        return [f"{data_dir}/{name}" for name in found]
    below = remote.names_below(f"{data_dir}/{split}") or () if split in (names or ()) else ()
    if found := sorted(fnmatch.filter(below, "*.tar")):
        return [f"{data_dir}/{split}/{name}" for name in found]
    return _unlisted(f"{data_dir}/{own_list}", data_dir, names) if data_dir.lower().startswith("http") else []


def _unlisted(own_list: str, data_dir: str, names: frozenset[str] | None) -> list[str]:
    """The shards in a list that a web server has, but shows no link to in place of `data_dir`; `names`: to what it
    does.
    """
    try:
        return _listed(own_list, data_dir)
    except remote.Final as error:
        if names is not None:
            return []
        if not error.missing:
            raise
        raise UserError(
            f"{own_list}: no such file, and the server does not list {data_dir}: check the URL, or put the names of "
            "the tar shards into that file"
        ) from None


def _listed(list_path: str, data_dir: str) -> list[str]:
    """The shards in a list."""
    if is_url(list_path):
        text = remote.read_small(list_path)
    else:
        with open(list_path, "rb") as file:
            text = file.read(remote.LARGEST_TEXT)
    shards = []
    for number, line in enumerate(text.decode("utf-8-sig", "surrogateescape").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            line = data_root(line)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{list_path}, line {number}: {error}") from None
        if not line.endswith(".tar"):
            raise UserError(f"{list_path}, line {number}: {cut(line, 200)} is not a path or URL of a tar shard (.tar)")
        names = _numbered(line)
        if len(shards) + len(names) > MOST_SHARDS:
            raise UserError(f"{list_path}, line {number}: more than {MOST_SHARDS} shards: use fewer, larger ones")
        shards += [name if is_url(name) else posixpath.join(data_dir, name) for name in names]
    if twice := next((shard for shard, count in collections.Counter(shards).items() if count > 1), None):
        warn(f"{list_path} names {twice} more than once: its images count more than once")
    if not shards:
        raise UserError(f"{list_path} contains no shards: write a URL or path of a tar file per line")
    return shards


def _numbered(line: str) -> list[str]:
    """The paths that a line with {000..146} stands for; only the first ones if there are far too many."""
    found = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", line)
    if found is None:
        return [line]
    first, last = int(found[1]), min(int(found[2]), int(found[1]) + MOST_SHARDS)
    before, after, digits = line[: found.start()], line[found.end() :], len(found[1])
    return [f"{before}{number:0{digits}}{after}" for number in range(first, last + 1)]


def opened(paths: Iterable[str], cache: RangeCache | None) -> list[ShardFile]:
    """The tar files of paths and URLs."""
    return [RemoteShard(path, cache) if is_url(path) else LocalShard(path) for path in paths]
