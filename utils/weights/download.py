"""Downloads a weight file: an interrupted transfer is resumed, and a checksum is stored next to the file."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from utils.console import log, progress
from utils.errors import UserError, reason
from utils.files import write_text
from utils.system import replace

# Seconds without a byte after which a transfer is given up, failed attempts in a row before giving up for good, and the
# pause before the second attempt; each later pause is twice as long.
PATIENCE, ATTEMPTS, PAUSE = 60.0, 5, 1.0
CHUNK = 1 << 20
# Largest file that is downloaded, in bytes. (The largest published weights have 1.3 GB.)
MOST = 8 << 30


def fetch(url: str, path: Path) -> None:
    """Downloads a file to `path`, and stores its SHA-256 in `path`.sha256.

    An existing file is not downloaded again: its checksum is compared with the stored one, or stored if the user put
    the file there. An unfinished download is `path`.part, with the server's version tag in `path`.part.etag: a later
    call resumes it, or starts again if the server has another version.

    Raises:
        UserError: the file cannot be downloaded or written, or an existing file has changed since its download.
    """
    kept = Path(f"{path}.sha256")
    try:
        if path.exists():
            _check_kept(path, kept)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(f"{path}.part")
        _fetch_all(url, part)
        replace(part, path)
        Path(f"{part}.etag").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from None
    _keep(path, kept)


def _check_kept(path: Path, kept: Path) -> None:
    if not kept.exists():
        log(f"{path} already exists and is used as it is")
        _keep(path, kept)
    elif kept.read_text(encoding="utf-8", errors="replace").split()[:1] != [_sha256(path)]:
        raise UserError(f"{path} has changed since it was fetched, according to {kept}: delete both to fetch it again")


def _keep(path: Path, kept: Path) -> None:
    write_text(kept, f"{_sha256(path)}  {path.name}\n", "--weights_dir")  # sha256sum --check reads it


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _fetch_all(url: str, part: Path) -> None:
    """Downloads the missing part of a file, in as many transfers as necessary; raises `UserError`."""
    failures, pause = 0, PAUSE
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(url, part, before):
                return
            why = "the server broke off"
        except urllib.error.HTTPError as error:
            why = f"HTTP status {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                raise UserError(f"{url}: {why}") from None
            if error.code == 416:  # nothing follows the part: the server has another version
                part.unlink(missing_ok=True)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        if after > before:
            failures, pause = 0, PAUSE
        failures += 1
        if failures >= ATTEMPTS:
            raise UserError(f"{url}: {why}, {ATTEMPTS} times in a row; {after} bytes are kept, try again later")
        log(f"{part.name}: {why} at {after} bytes; going on in {pause:g} s")
        time.sleep(pause)
        pause *= 2


def _transfer(url: str, part: Path, start: int) -> bool:
    """Requests a file from byte `start` on and appends it to `part`; returns whether the file is complete."""
    version = Path(f"{part}.etag")
    headers = {"User-Agent": "Mozilla/5.0 (verify)", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version.exists():
            headers["If-Range"] = version.read_text(encoding="utf-8").strip()
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        if answer.status != 206:
            start = 0  # the whole file, from its beginning
        total = _total(url, answer, start)
        tag = answer.headers.get("ETag", "")
        if tag and not tag.startswith("W/"):
            version.write_text(tag, encoding="utf-8")
        else:
            version.unlink(missing_ok=True)
        with open(part, "r+b" if start else "wb") as file, progress(total, part.stem, start) as bar:
            file.seek(start)
            file.truncate()
            while file.tell() < total and (block := answer.read1(min(CHUNK, total - file.tell()))):
                file.write(block)
                bar.update(len(block))
            return file.tell() == total


def _total(url: str, answer: Any, start: int) -> int:
    """The size of the whole file according to the server; raises `UserError` if it is missing or too large."""
    if start:
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if not span.startswith(f"{start}-") or not total.isdecimal():
            raise UserError(f"{url}: the server sent another part of the file than requested")
    else:
        total = answer.headers.get("Content-Length", "")
        if not total.isdecimal():
            raise UserError(f"{url}: the server does not give the file's size")
    if int(total) > MOST:
        raise UserError(f"{url} has {int(total):,} bytes, more than the limit of {MOST:,} for weights")
    return int(total)
