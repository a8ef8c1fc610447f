"""Reads parts of files in object storage and on web servers by fsspec URL, with retries."""

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

# Attempts per request, and maximum seconds between two: a minute and a half in total, besides the client's own retries.
ATTEMPTS, LONGEST_WAIT = 10, 30.0
# Timeout for a silent server, in seconds.
SILENCE = 60.0
# Maximum bytes of a list of shards or a file of names.
LARGEST_TEXT = 1 << 26

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Statuses for which a retry may help; any other 4xx is final.
_PASSING = frozenset((408, 425, 429))
# fsspec's names for version information that changes with the content.
_VERSION = (
    *("ETag", "etag", "md5Hash", "generation"),
    *("LastModified", "last_modified", "Last-Modified", "mtime", "created"),
)
# Separate from training's random generator.
_jitter = random.Random()


def is_url(path: str) -> bool:
    """Whether a path is a URL, such as s3://bucket/folder, rather than a local file."""
    return _URL.match(path) is not None


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL, read in parts; several threads may read at once.

    Attributes:
        url: without credentials.
        size: bytes.
        version: changes with the content, if the server reports it.
    """

    url: str
    size: int
    version: str

    @classmethod
    def find(cls, url: str) -> RemoteFile:
        """Gets a file's size; raises `UserError` if it does not exist or cannot be read in parts."""
        info = _tried(url, lambda system: system.info(url))
        size = info.get("size")
        if size is None or info.get("partial") is False:
            raise UserError(f"{url}: the server only sends whole files: use one that supports range requests")
        facts = [str(info[name]) for name in _VERSION if info.get(name) is not None]
        return cls(url, int(size), hashlib.sha256(repr((size, facts)).encode()).hexdigest()[:16])

    def read_at(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, or fewer at the end of the file; raises `UserError` if they do not arrive."""
        end = min(offset + size, self.size)
        if end <= offset:
            return b""

        def read(system: Any) -> bytes:
            data = system.cat_file(self.url, start=offset, end=end)
            if len(data) > end - offset:
                raise UserError(f"{self.url}: the server only sends whole files: use one that supports range requests")
            if len(data) < end - offset:
                raise OSError(f"only {len(data)} of {end - offset} bytes arrived")
            return data

        return _tried(self.url, read)


def read_small(url: str) -> bytes:
    """The content of a small file; raises `UserError` if it cannot be read or is too large."""
    file = RemoteFile.find(url)
    if file.size > LARGEST_TEXT:
        raise UserError(f"{url} has {file.size >> 20} MB: give a text file of at most {LARGEST_TEXT >> 20} MB")
    return file.read_at(file.size, 0)


@functools.lru_cache(maxsize=16)  # for the parts of a dataset and its class names
def names_below(url: str) -> frozenset[str] | None:
    """The file names in a folder; empty if it does not exist, None if the server cannot list folders.

    Raises:
        UserError: the server does not respond.
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
    """A final answer; a retry would not change it.

    Attributes:
        missing: whether the file does not exist.
    """

    def __init__(self, message: str, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


def _tried(url: str, action: Callable[[Any], T]) -> T:
    """The result of an action on the URL's file system, retried until it succeeds.

    Raises:
        UserError: it fails every time.
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
        f"{url}: cannot be read after {ATTEMPTS} attempts ({said}): check the server and start again; train.py "
        "continues with --checkpoint=auto"
    )


def _refusal(url: str, error: Exception) -> _Final | None:
    """The error for a final answer; None if a retry may help."""
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
            f"{url}: access denied ({_said(error)}): give credentials as its client expects them, never in the URL "
            "(docs/clusters.md)",
            False,
        )
    if status is not None and 400 <= status < 500 and status not in _PASSING:
        return _Final(f"{url}: request refused ({_said(error)})", False)
    return None


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error or its cause."""
    while error is not None:
        response = getattr(error, "response", None)  # of botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        if type(error).__name__ == "ClientResponseError":  # aiohttp also sets a status for damaged answers
            found = getattr(error, "status", None)
        elif type(error).__module__.startswith("gcsfs"):
            found = getattr(error, "code", None)
        if str(found).isdigit():
            return int(str(found))
        error = error.__cause__
    return None


def _said(error: Exception) -> str:
    """An error as text, without URLs' query strings, which may contain signatures."""
    text = re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\")]*", r"\1", one_line(error))
    return cut(f"{type(error).__name__}: {text}" if text else type(error).__name__, 300)


@functools.lru_cache(maxsize=16)
def _file_system(protocol: str, process: int) -> Any:
    """The file system of a protocol, per process: fsspec's must not be inherited by a fork.

    Raises:
        UserError: the protocol is unknown or a package is missing.
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
        raise UserError(f"{protocol}:// is not a protocol known to fsspec ({one_line(error)})") from None


def _options(protocol: str) -> dict[str, Any]:
    """Options for a file system, in addition to the user's fsspec settings."""
    if protocol in ("http", "https"):
        import aiohttp  # pyright: ignore[reportMissingImports] (optional)

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE / 4, sock_read=SILENCE)
        return {"client_kwargs": {"trust_env": True, "timeout": timeout}}  # proxies, and ~/.netrc
    if protocol in ("s3", "s3a"):
        return {"config_kwargs": {"connect_timeout": SILENCE / 4, "read_timeout": SILENCE, "max_pool_connections": 64}}
    return {}
