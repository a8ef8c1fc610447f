"""A cheap client, so that a measurement on the server's own machine measures the server: connections stay open,
requests are prepared in advance, and only the necessary parts of HTTP are parsed.
"""

from __future__ import annotations

import asyncio
import re
import socket
from urllib.parse import urlsplit


def image_request(image: bytes, path: str = "/predict") -> bytes:
    """A request to classify an image file."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: image/jpeg", f"Content-Length: {len(image)}"]
    return "\r\n".join([*lines, "", ""]).encode() + image


class Connection:
    """A connection to a server, opened on first use.

    Args:
        address: http://HOST:PORT/
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname and parts.port
        self._address = parts.hostname, parts.port
        self._socket: socket.socket | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; raises `OSError` or `EOFError` if there is none."""
        loop = asyncio.get_running_loop()
        try:
            if self._socket is None:
                self._socket = socket.socket()
                self._socket.setblocking(False)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(self._socket, self._address)
            await loop.sock_sendall(self._socket, request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await self._received()
            head, _, body = answer.partition(b"\r\n\r\n")
            head = head.lower()
            length = re.search(rb"\r\ncontent-length: (\d+)", head)
            while len(body) < (int(length[1]) if length else 0):
                body += await self._received()
        except (OSError, EOFError):
            self.close()
            raise
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head[9:12]), body

    async def _received(self) -> bytes:
        assert self._socket is not None
        part = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
        if not part:
            raise EOFError
        return part

    def close(self) -> None:
        """Closes the connection; the next request opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
