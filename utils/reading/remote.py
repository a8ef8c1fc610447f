"""Files in object storage and on web servers, by their fsspec URLs: read by parts, and again where that fails."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from utils.errors import UserError, cut, one_line

T = TypeVar("T")

# How often a request is made, and the most seconds between two: a minute and a half in all, beside the client's own.
ATTEMPTS, LONGEST_WAIT = 10, 30.0
# Seconds that a server may be silent for.
SILENCE = 60.0
# Of a list of shards, or a file of names.
LARGEST_TEXT = 1 << 26

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# What a server says when asking again may help; any other 4xx is an answer.
_PASSING = frozenset((408, 425, 429))
# What differs when the content does, as the file systems of fsspec call it.
_VERSION = (
    *("ETag", "etag", "md5Hash", "generation"),
    *("LastModified", "last_modified", "Last-Modified", "mtime", "created"),
)
# Never the generator that training draws from.
_jitter = random.Random()


def is_url(path: str) -> bool:
    """Whether a path is a URL, such as s3://bucket/folder, and no file of this machine."""
    return _URL.match(path) is not None


@dataclass(frozen=True)
class RemoteFile:
    """A file by its URL, of which parts are read; threads may do so at the same time.

    Attributes:
        url: without credentials.
        size: bytes.
        version: differs when the content does, as far as the server says.
    """

    url: str
    size: int
    version: str

    @classmethod
    def find(cls, url: str) -> RemoteFile:
        """Asks for the size of a file; raises `UserError` if it is not there, or cannot be read by parts."""
        info = _tried(url, lambda system: system.info(url))
        size = info.get("size")
        if size is None or info.get("partial") is False:
            raise UserError(f"{url}: the server sends whole files only: take one that answers range requests")
        facts = [str(info[name]) for name in _VERSION if info.get(name) is not None]
        return cls(url, int(size), hashlib.sha256(repr((size, facts)).encode()).hexdigest()[:16])

    def read_at(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, or fewer at the end of the file; raises `UserError` if they do not come."""
        end = min(offset + size, self.size)
        if end <= offset:
            return b""

        def read(system: Any) -> bytes:
            data = system.cat_file(self.url, start=offset, end=end)
            if len(data) > end - offset:
                raise UserError(f"{self.url}: the server sends whole files only: take one that answers range requests")
            if len(data) < end - offset:
                raise OSError(f"{len(data)} of {end - offset} bytes came")
            return data

        return _tried(self.url, read)


def read_small(url: str) -> bytes:
    """The content of a small file; raises `UserError` if it cannot be read, or is not small."""
    file = RemoteFile.find(url)
    if file.size > LARGEST_TEXT:
        raise UserError(f"{url} has {file.size >> 20} MB: it is no text of at most {LARGEST_TEXT >> 20} MB")
    return file.read_at(file.size, 0)


@functools.lru_cache(maxsize=16)  # of the parts of a data set, and the names of its classes
def names_below(url: str) -> frozenset[str] | None:
    """The names of the files in a folder; none if it is not there, None if the server lists no folders.

    Raises:
        UserError: the server does not answer.
    """
    try:
        paths = _tried(url, lambda system: system.ls(url.rstrip("/") + "/", detail=False))
    except _Final as error:
        if url.lower().startswith("http"):
            return None
        if not error.missing:
            raise
        return frozenset()
    return frozenset(path.rstrip("/").rpartition("/")[2] for path in paths)


class _Final(UserError):
    """An answer that will not change.

    Attributes:
        missing: it is that there is no such file.
    """

    def __init__(self, message: str, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


def _tried(url: str, action: Callable[[Any], T]) -> T:
    """What an action on the URL's file system gives, which is tried until it does.

    Raises:
        UserError: it never does.
    """
    system, said = _file_system(url.partition("://")[0].lower(), os.getpid()), ""
    for attempt in range(ATTEMPTS):
        try:
            return action(system)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # each file system has its own
            if (refusal := _refusal(url, error)) is not None:
                raise refusal from None
            said = _said(error)
        if attempt + 1 < ATTEMPTS:
            time.sleep(min(LONGEST_WAIT, 0.25 * 2**attempt) * _jitter.uniform(0.5, 1.0))
    raise UserError(
        f"{url}: not read in {ATTEMPTS} attempts ({said}): see whether the server answers, and start again; "
        "train.py goes on with --checkpoint=auto"
    )


def _refusal(url: str, error: Exception) -> _Final | None:
    """The error for an answer that asking again does not change; None if it may."""
    status = _status(error)
    kind = type(error).__name__
    missing = status == 404 or (status is None and isinstance(error, FileNotFoundError) and error.__cause__ is None)
    if missing:
        return _Final(f"{url}: no such file or folder", True)
    if (
        kind in ("NoCredentialsError", "DefaultCredentialsError")
        or status in (401, 403)
        or (status is None and isinstance(error, PermissionError))
    ):
        return _Final(
            f"{url}: not allowed ({_said(error)}): give credentials as its client expects them, never in the URL "
            "(docs/clusters.md)",
            False,
        )
    if status is not None and 400 <= status < 500 and status not in _PASSING:
        return _Final(f"{url}: refused ({_said(error)})", False)
    return None


def _status(error: BaseException | None) -> int | None:
    """The status of HTTP that an error, or what it came of, was made of."""
    while error is not None:
        response = getattr(error, "response", None)  # of botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        if type(error).__name__ == "ClientResponseError":  # aiohttp gives its errors of damaged answers a status, too
            found = getattr(error, "status", None)
        elif type(error).__module__.startswith("gcsfs"):
            found = getattr(error, "code", None)
        if str(found).isdigit():
            return int(str(found))
        error = error.__cause__
    return None


def _said(error: Exception) -> str:
    """An error in words, without what is behind the ? of URLs: signatures."""
    text = re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\")]*", r"\1", one_line(error))
    return cut(f"{type(error).__name__}: {text}" if text else type(error).__name__, 300)


@functools.lru_cache(maxsize=16)
def _file_system(protocol: str, process: int) -> Any:
    """The file system of a protocol, of this process's own: those of fsspec must not be taken over by a fork.

    Raises:
        UserError: there is none, or a package is missing.
    """
    try:
        import fsspec

        return fsspec.filesystem(protocol, **_options(protocol), skip_instance_cache=True)
    except ImportError as error:
        missing = re.search(r"[Ii]nstall [\"']?([\w-]+)", str(error))
        package = error.name or (missing[1] if missing else "fsspec")
        remedy = "requirements-cloud.txt" if package in ("fsspec", "s3fs", "aiohttp") else package
        option = "-r " if remedy != package else ""
        raise UserError(f"{protocol}:// needs the package {package}: pip install {option}{remedy}") from None
    except ValueError as error:
        raise UserError(f"{protocol}:// is no protocol that fsspec knows ({one_line(error)})") from None


def _options(protocol: str) -> dict[str, Any]:
    """What a file system is told, beside what the user's own settings of fsspec say."""
    if protocol in ("http", "https"):
        import aiohttp  # pyright: ignore[reportMissingImports] (optional)

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE / 4, sock_read=SILENCE)
        return {"client_kwargs": {"trust_env": True, "timeout": timeout}}  # proxies, and ~/.netrc
    if protocol in ("s3", "s3a"):
        return {"config_kwargs": {"connect_timeout": SILENCE / 4, "read_timeout": SILENCE, "max_pool_connections": 64}}
    return {}
