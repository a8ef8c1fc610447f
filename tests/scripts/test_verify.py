"""`run.sh verify`: files from a server that breaks off, their checksums, and accuracies compared."""

from __future__ import annotations

import csv
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models
from models import published
from models.published import FLUID_FILES, Published
from utils import verify
from utils.errors import UserError
from utils.weights import download
from utils.weights.write import write_weights

NETWORK = "MobileNetV3_small_x0_35"


class Server(ThreadingHTTPServer):
    """Serves files, breaks off after `most` bytes of an answer, and notes the ranges that were asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.most = sys.maxsize
        self.tag = '"1"'
        self.ranges: list[str | None] = []
        self.address = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Server = self.server  # pyright: ignore[reportAssignmentType]
        data = server.files.get(self.path.lstrip("/"))
        wanted = self.headers["Range"]
        server.ranges.append(wanted)
        if data is None:
            self.send_error(404)
            return
        same = self.headers.get("If-Range", server.tag) == server.tag
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and same else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(data[start : start + server.most])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.001)
    with Server({"a.bin": bytes(range(256)) * 1000}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_server_that_breaks_off(server, tmp_path):
    path, data = tmp_path / "weights" / "a.bin", server.files["a.bin"]
    server.most = 100_000
    download.fetch(f"{server.address}a.bin", path)
    assert path.read_bytes() == data
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.bin", "a.bin.sha256"]

    # In several calls, with another version between them.
    other = tmp_path / "b.bin"
    server.most = 0
    with pytest.raises(UserError, match="broke off, 5 times in a row; 0 bytes are kept, try again later"):
        download.fetch(f"{server.address}a.bin", other)
    Path(f"{other}.part").write_bytes(b"x" * 5000)
    server.most, server.tag, server.ranges = sys.maxsize, '"2"', []
    download.fetch(f"{server.address}a.bin", other)
    assert other.read_bytes() == data and server.ranges == ["bytes=5000-"]
    # A part as long as the file, or longer, of a server that knows no versions.
    third = tmp_path / "c.bin"
    Path(f"{third}.part").write_bytes(b"x" * 300_000)
    download.fetch(f"{server.address}a.bin", third)
    assert third.read_bytes() == data
    with pytest.raises(UserError, match=r"nothing.bin: HTTP status 404"):
        download.fetch(f"{server.address}nothing.bin", tmp_path / "d.bin")
    with pytest.raises(UserError, match=r"5 times in a row; 0 bytes are kept"):
        download.fetch("http://127.0.0.1:9/a.bin", tmp_path / "e.bin")


def test_the_checksum_is_kept(server, tmp_path):
    path = tmp_path / "a.bin"
    download.fetch(f"{server.address}a.bin", path)
    download.fetch(f"{server.address}a.bin", path)
    assert len(server.ranges) == 1
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"a\.bin has changed since it was fetched, .*delete both"):
        download.fetch(f"{server.address}a.bin", path)
    Path(f"{path}.sha256").unlink()
    download.fetch(f"{server.address}a.bin", path)  # the user's own
    assert Path(f"{path}.sha256").read_text().endswith("  a.bin\n")


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["verify.py", *words])
    try:
        verify.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_accuracies_are_compared(server, tmp_path, monkeypatch, capsys):
    """Random weights from the server, by eval.py, on four images; then what follows from what that gave."""
    torch.manual_seed(0)
    model = models.build(NETWORK).eval()
    write_weights(model, tmp_path / "weights.pdparams", NETWORK, 1000)
    server.files[f"dygraph/{NETWORK}_pretrained.pdparams"] = (tmp_path / "weights.pdparams").read_bytes()
    server.most = 3_000_000
    rng = np.random.default_rng(0)
    for number in range(4):
        cv2.imwrite(f"{tmp_path}/{number}.png", rng.integers(0, 256, (256, 256, 3), np.uint8))
    (tmp_path / "val_list.txt").write_text("".join(f"{number}.png 0\n" for number in range(4)))

    url = f"{FLUID_FILES}dygraph/{NETWORK}_pretrained.pdparams"
    own = Published(NETWORK, NETWORK, "PaddleClas", 75.0, 100.0, url)
    gone = Published("VGG11", "VGG11", "fluid", 69.28, 89.09, f"{FLUID_FILES}VGG11_pretrained.tar")
    monkeypatch.setattr(published, "read", lambda: (own, gone))
    table = tmp_path / "verify.csv"
    words = [f"--{name}={tmp_path}" for name in ("data_dir", "weights_dir")]
    words += [f"--table={table}", f"--mirror={server.address}", "--device=cpu", "--batch_size=4"]

    assert run(monkeypatch, NETWORK, *words) == 1  # random weights, and not 75%
    (result,) = verify.read_table(table).values()
    assert (result.name, result.verdict, result.images) == (NETWORK, "differs", "4") and len(server.ranges) == 3
    # What it is, within the tolerance and beyond it.
    monkeypatch.setattr(published, "read", lambda: (own._replace(top1=float(result.top1) + 0.05, top5=None), gone))
    monkeypatch.setattr(verify, "evaluate", lambda *_: (float(result.top1), float(result.top5), 4))
    assert run(monkeypatch, NETWORK, *words) == 0
    assert verify.read_table(table)[NETWORK, "PaddleClas"].verdict == "holds"
    monkeypatch.setattr(published, "read", lambda: (own._replace(top1=float(result.top1) + 0.06, top5=None), gone))
    assert run(monkeypatch, NETWORK, *words) == 1
    assert verify.read_table(table)[NETWORK, "PaddleClas"].verdict == "differs"

    # The whole zoo: what has a result is left out, what could not be fetched is a line, and tried again.
    monkeypatch.setattr(verify, "evaluate", None)
    for _ in range(2):
        asked = len(server.ranges)
        assert run(monkeypatch, "all", *words) == 1
        assert len(server.ranges) == asked + 1
    said = capsys.readouterr().out
    assert "1 of 2 are already in" in said and "0 of 2 match, 1 differ, 1 could not be verified" in said
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [NETWORK, "VGG11"] and "HTTP status 404" in rows[1]["verdict"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give names of networks, such as ResNet50_vd, or all"),
        (["ResNet50", "all"], "give names of networks, such as ResNet50_vd, or all"),
        (["ResNet50_vdd"], "unknown network 'ResNet50_vdd': did you mean ResNet50_vd"),
        (["PPLCNet_x1_0", "--source=fluid"], "PPLCNet_x1_0: no file or accuracy was published by fluid"),
        (["ResNet50", "--mirror=ftp://x"], "--mirror ftp://x: give an address"),
        (["ResNet50", "--batch_size=0"], "--batch_size 0: give 1 at least"),
        (["ResNet50", "--data_dir=nowhere"], "--data_dir nowhere: no such folder"),
        (["ResNet50", "--table=README.md"], "--table README.md is not a table of results"),
    ],
)
def test_refusals(monkeypatch, capsys, words, message):
    monkeypatch.chdir(Path(verify.__file__).parents[1])
    try:
        assert run(monkeypatch, *words) == 2
        said = capsys.readouterr().err
    except UserError as error:
        said = str(error)
    assert message in said
