"""A web server of files that answers range requests, lists folders, counts what it sends, and fails when told to."""

from __future__ import annotations

import http.server
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileServer(http.server.ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        failing: share of the requests that fail, of files whose name contains `fails`: an answer 503, an answer that is
            cut short, or none at all.
        status: what every request for a file is answered with, unless it is 0.
        ranges: whether parts of files can be asked for.
        lists: whether folders are listed.
        page: what is shown in place of the list of a folder, unless it is empty.
        sent: bytes of files.
        requests: how many were answered with bytes of files.
        failed: how many failed.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.failing, self.fails, self.status, self.ranges, self.lists = 0.0, "", 0, True, True
        self.page = b""
        self.sent = self.requests = self.failed = 0
        self.random, self.lock = random.Random(0), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that was cut is no news."""


class _Answer(http.server.BaseHTTPRequestHandler):
    server: FileServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if path.is_dir() and self.server.lists:
            links = "".join(f'<a href="{entry.name}">{entry.name}</a>\n' for entry in sorted(path.iterdir()))
            self._send(200, self.server.page or links.encode(), {"Content-Type": "text/html"})
            return
        if self.server.status or not path.is_file():
            self._send(self.server.status or 404, b"")
            return
        data, status, headers = path.read_bytes(), 200, {"ETag": f'"{path.stat().st_mtime_ns}"'}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is not None and self.server.ranges:
            first, last = int(found[1]), int(found[2])
            headers["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data, status = data[first : last + 1], 206
        with self.server.lock:
            draw = self.server.random.random()
            kind = self.server.random.randrange(3)
        if self.server.fails in path.name and draw < self.server.failing:
            self._fail(kind, data, headers)
            return
        if self.command == "GET":
            with self.server.lock:
                self.server.sent += len(data)
                self.server.requests += 1
        self._send(status, data, headers)

    def _fail(self, kind: int, data: bytes, headers: dict[str, str]) -> None:
        with self.server.lock:
            self.server.failed += 1
        self.close_connection = True
        if kind == 0:
            self._send(503, b"")
        elif kind == 1:
            self._send(206, data[: len(data) // 2], headers | {"Content-Length": str(len(data))})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextmanager
def file_server(folder: Path) -> Iterator[FileServer]:
    """Serves a folder on a port of its own for the block."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
