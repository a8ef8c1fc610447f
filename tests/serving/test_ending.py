"""SIGTERM while requests are on their way: accepted ones are answered, others are refused, the exit code is 0."""

from __future__ import annotations

import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from launch import Launcher
from serving import jpeg

IMAGE = jpeg(0)
HEAD = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(IMAGE)}\r\n"


def test_what_was_taken_is_answered(export: Path, launch: Launcher, tmp_path: Path):
    flags = (f"--model_file={export}/model", "--serve_port=0", "--reader_thread=0")
    running = launch.start("predict.py", tmp_path, *flags)
    try:
        found = re.search(r"http://(.+):(\d+)/", running.stdout.readline())
        assert found
        address = found[1], int(found[2])
        with ExitStack() as stack:
            idle, *busy = (stack.enter_context(socket.create_connection(address, 60)) for _ in range(4))
            for connection in busy:
                connection.sendall(f"{HEAD}Expect: 100-continue\r\n\r\n".encode() + IMAGE[:100])
            for connection in busy:  # the server says that it waits for the rest
                assert connection.recv(1000).startswith(b"HTTP/1.1 100")
            running.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""
            until_refused(address)
            for connection in busy:
                connection.sendall(IMAGE[100:])
            for connection in busy:
                answer = b"".join(iter(lambda connection=connection: connection.recv(1 << 16), b""))
                assert answer.startswith(b"HTTP/1.1 200") and b'"predictions"' in answer
        output, _ = running.communicate()
        assert running.returncode == 0 and "all accepted requests are answered" in output
    except BaseException:
        running.kill()
        raise


def until_refused(address: tuple[str, int]) -> None:
    """Sends requests until nobody listens any more."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, 60).close()
        except ConnectionError:
            return
        time.sleep(0.01)
    raise AssertionError("the server still takes requests")
