"""Reads parts of files in object storage and on web servers by fsspec URL, with retries."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import re
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from utils.errors import UserError, cut, one_line

T = TypeVar("T")

# Attempts per request, and maximum seconds between two: a minute and a half in total, besides the client's own retries.
ATTEMPTS, LONGEST_WAIT = 10, 30.0
# Seconds for which a host that is not known by name is asked again, at the start: it is probably misspelt.
NAME_PATIENCE = 2.0
# Timeout for a silent server, in seconds.
SILENCE = 60.0
# Maximum bytes of a list of shards or a file of names.
LARGEST_TEXT = 1 << 26

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Statuses for which a retry may help; any other 4xx is final.
_PASSING = frozenset((408, 425, 429))
_UNKNOWN_HOST = frozenset((socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)))
# fsspec's names for version information that changes with the content.
_VERSION = (
    *("ETag", "etag", "md5Hash", "generation", "blob_id", "sha"),
    *("LastModified", "last_modified", "Last-Modified", "modified", "mtime", "created"),
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
        version: changes with the content; if the server reports nothing that does, another one every time.
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
        facts = [str(info[name]) for name in _VERSION if info.get(name) is not None] or uuid.uuid4().hex
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

        return _tried(self.url, read, found=True)


def read_small(url: str) -> bytes:
    """The content of a small file; raises `UserError` if it cannot be read or is too large."""
    file = RemoteFile.find(url)
    if file.size > LARGEST_TEXT:
        raise UserError(f"{url} has {file.size >> 20} MB: give a text file of at most {LARGEST_TEXT >> 20} MB")
    return file.read_at(file.size, 0)


@functools.lru_cache(maxsize=16)  # for the parts of a dataset and its class names
def names_below(url: str) -> frozenset[str] | None:
    """The file names in a folder; empty if it does not exist, None if the server does not list folders.

    Raises:
        UserError: the server does not respond.
    """
    try:
        paths = _tried(url, lambda system: system.ls(url.rstrip("/") + "/", detail=False))
    except Final as error:
        if url.lower().startswith("http"):
            return None
        if not error.missing:
            raise
        return frozenset()
    if not paths and url.lower().startswith("http"):  # a page without links, or another kind of file
        return None
    return frozenset(path.rstrip("/").rpartition("/")[2] for path in paths)


class Final(UserError):
    """A final answer; a retry would not change it.

    Attributes:
        missing: whether the file does not exist.
    """

    def __init__(self, message: str, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


def _tried(url: str, action: Callable[[Any], T], found: bool = False) -> T:
    """The result of an action on the URL's file system, retried until it succeeds.

    Args:
        url: for errors, and to choose the file system.
        action: takes the file system.
        found: whether the server has answered before.

    Raises:
        UserError: it fails every time.
    """
    system, said = _file_system(url.partition("://")[0].lower(), os.getpid()), ""
    start = time.monotonic()
    for attempt in range(ATTEMPTS):
        try:
            return action(system)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # each file system has its own
            if (refusal := _refusal(url, error)) is not None:
                raise refusal from None
            said = _said(error)
            if not found and _is_unknown_host(error) and time.monotonic() - start > NAME_PATIENCE:
                raise UserError(f"{url}: its host is unknown ({said}): check its name, and the network") from None
        if attempt + 1 < ATTEMPTS:
            time.sleep(min(LONGEST_WAIT, 0.25 * 2**attempt) * _jitter.uniform(0.5, 1.0))
    raise UserError(
        f"{url}: cannot be read after {ATTEMPTS} attempts ({said}): check the server and start again; train.py "
        "continues with --checkpoint=auto"
    )


def _refusal(url: str, error: Exception) -> Final | None:
    """The error for a final answer; None if a retry may help."""
    status = _status(error)
    kind = type(error).__name__
    missing = status == 404 or (status is None and isinstance(error, FileNotFoundError) and error.__cause__ is None)
    if missing:
        return Final(f"{url}: no such file or folder", True)
    if (
        kind in ("NoCredentialsError", "DefaultCredentialsError")
        or status in (401, 403)
        or (status is None and isinstance(error, PermissionError))
    ):
        return Final(
            f"{url}: access denied ({_said(error)}): give credentials as its client expects them, never in the URL "
            "(docs/clusters.md)",
            False,
        )
    # Of botocore: an impossible bucket or AWS_ENDPOINT_URL.
    impossible = kind == "ParamValidationError" or (kind == "ValueError" and str(error).startswith("Invalid endpoint"))
    if impossible or (status is not None and 400 <= status < 500 and status not in _PASSING):
        return Final(f"{url}: request refused ({_said(error)})", False)
    return None


def _is_unknown_host(error: BaseException | None) -> bool:
    """Whether name servers answered that there is no such host; if none of them answered, a retry may help."""
    while error is not None:
        if isinstance(error, socket.gaierror) and error.errno in _UNKNOWN_HOST:
            return True
        error = error.__cause__ or error.__context__
    return False


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
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec says of every failure to learn of a file that there is none
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
        plain = {"Accept-Encoding": "identity"}  # parts of a compressed file would be other bytes
        return {"client_kwargs": {"trust_env": True, "timeout": timeout, "headers": plain}}  # proxies, and ~/.netrc
    if protocol in ("s3", "s3a"):
        return {"config_kwargs": {"connect_timeout": SILENCE / 4, "read_timeout": SILENCE, "max_pool_connections": 64}}
    return {}
