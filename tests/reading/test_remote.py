"""Tar shards at URLs: the same batches as of local ones, whatever fails on the way, and no more bytes than need be."""

from __future__ import annotations

import importlib.util
import os
import socket
import tarfile

import cv2
import numpy as np
import pytest

from tests.support.archives import tar_of
from tests.support.web import file_server
from utils.errors import UserError
from utils.flags import parse
from utils.reading import remote
from utils.reading.build import train_loader
from utils.reading.dataset import MissingPart, open_dataset
from utils.reading.image_list import ImageList
from utils.reading.numbering import known_names
from utils.reading.range_cache import RangeCache
from utils.reading.tar_shards import TarShards

needs_aiohttp = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs aiohttp")


def jpeg(number: int) -> bytes:
    """About 10 KB of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@pytest.fixture
def folder(tmp_path):
    """40 images in two shards, and the names of their classes."""
    data = tmp_path / "data"
    data.mkdir()
    for shard in range(2):
        members = {}
        for number in range(20 * shard, 20 * shard + 20):
            members |= {f"{number:02}.jpg": jpeg(number), f"{number:02}.cls": str(number % 4).encode()}
        (data / f"train-{shard}.tar").write_bytes(tar_of(members))
    (data / "label_list.txt").write_text("cat\ndog\nfox\nowl\n")
    return data


@pytest.fixture
def server(folder, monkeypatch):
    """The same on a web server; what fails is asked for again at once."""
    monkeypatch.setattr(remote, "LONGEST_WAIT", 0.001)
    remote.names_below.cache_clear()
    with file_server(folder) as server:
        yield server


def batches(data_dir: object, *flags: str, start_step: int = 0, epoch: int = 1) -> list[tuple[bytes, list[int]]]:
    """The batches of an epoch of training."""
    words = f"--data_dir={data_dir} --class_dim=4 --batch_size=8 --image_shape 3 32 32 --reader_thread=0".split()
    loader = train_loader(parse("train", [*words, *flags]), 3)
    made = [(b.images.numpy().tobytes(), b.indices.tolist()) for b in loader.epoch(epoch, start_step)]
    loader.close()
    assert not loader.unreadable
    return made


@needs_aiohttp
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_local_shards_though_requests_fail(server, folder, tmp_path, workers):
    expected = batches(folder)
    server.failing, server.fails = 0.5, "train-1"  # every second request for one of two shards
    flags = (f"--reader_thread={workers}", f"--cache_dir={tmp_path / 'cache'}")
    assert batches(server.url, *flags) == expected
    assert server.failed > 10
    # A run that was killed goes on in the middle of an epoch, with what is kept or without it.
    assert batches(server.url, *flags, start_step=3) == expected[3:]
    assert batches(server.url, start_step=3) == expected[3:]


@needs_aiohttp
def test_bytes_fetched_are_the_images_own(server, folder, tmp_path):
    images = open_dataset(str(folder), "train", 4)
    own = sum(len(images.read(index)) for index in range(len(images)))
    batches(server.url, f"--cache_dir={tmp_path}")
    ends = 2 * tarfile.RECORDSIZE
    assert own < server.sent < 1.3 * own + ends  # 2.5 KB more for each of such small images
    server.sent = server.requests = 0
    batches(server.url, f"--cache_dir={tmp_path}", epoch=2)
    assert server.sent == server.requests == 0


@needs_aiohttp
def test_a_changed_shard_is_read_anew(server, folder, tmp_path):
    cache = RangeCache(str(tmp_path / "cache"), 1 << 30)
    url = f"{server.url}/train-0.tar"
    assert TarShards([url], 4, cache).read(0) == jpeg(0)
    (folder / "train-0.tar").write_bytes(tar_of({"0.jpg": jpeg(7), "0.cls": b"1"}))
    assert TarShards([url], 4, cache).read(0) == jpeg(7)


@needs_aiohttp
def test_names_and_lists_beside_shards(server, folder):
    images = open_dataset(server.url, "train", 4)
    assert known_names(images, server.url, 4) == ["cat", "dog", "fox", "owl"]
    assert images.checksum() == open_dataset(str(folder), "train", 4).checksum()
    with pytest.raises(MissingPart, match=r"has neither val_shards\.txt"):
        open_dataset(server.url, "val", 4)
    # A server that lists no folders: a list says what there is.
    server.lists = False
    remote.names_below.cache_clear()
    with pytest.raises(UserError, match=r"val_shards\.txt: no such file"):
        open_dataset(server.url, "val", 4)
    (folder / "val_shards.txt").write_text("# all of them\ntrain-{0..1}.tar\n")
    assert len(open_dataset(server.url, "val", 4)) == 40
    (folder / "some.txt").write_text(f"{server.url}/train-1.tar\n")
    assert len(open_dataset(server.url, "val", 4, list_path=str(folder / "some.txt"))) == 20
    assert len(open_dataset(server.url, "val", 4, list_path=f"{server.url}/some.txt")) == 20


@needs_aiohttp
@pytest.mark.parametrize("page", [b"<p>Welcome</p>", b'<a href="about.html">About</a>'])
def test_a_page_in_place_of_a_list_of_the_folder(server, folder, page):
    server.page = page
    with pytest.raises(UserError, match=r"train_shards\.txt"):
        open_dataset(server.url, "train", 4)
    (folder / "train_shards.txt").write_text("\ufefftrain-{1..1}.tar\r\n", encoding="utf-8")
    assert len(open_dataset(server.url, "train", 4)) == 20


def test_a_shard_that_is_listed_twice_is_a_warning(folder, capsys):
    (folder / "train_shards.txt").write_text("train-{0..1}.tar\ntrain-1.tar\n")
    assert len(open_dataset(folder.as_uri(), "train", 4)) == 60
    assert "/train-1.tar more than once" in capsys.readouterr().err


def test_a_host_that_nobody_knows_is_named_at_the_start_only(monkeypatch):
    monkeypatch.setattr(remote, "LONGEST_WAIT", 0.001)
    monkeypatch.setattr(remote, "NAME_PATIENCE", 0.0)
    asked = []

    def connect(system: object) -> None:
        asked.append(1)
        error = FileNotFoundError("memory://host/a.tar")
        error.__cause__ = OSError("cannot connect")
        error.__cause__.__cause__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        raise error

    with pytest.raises(UserError, match=r"^memory://host/a\.tar: its host is unknown \(OSError: cannot connect\)"):
        remote._tried("memory://host/a.tar", connect)
    assert len(asked) == 1
    with pytest.raises(UserError, match="cannot be read after 10 attempts"):  # name servers fail for a while
        remote._tried("memory://host/a.tar", connect, found=True)
    assert len(asked) == 11


def test_a_shard_without_a_version_is_not_taken_from_an_earlier_run(tmp_path, monkeypatch):
    class Bare:
        def info(self, url: str) -> dict[str, object]:
            return {"name": url, "size": 10}

    monkeypatch.setattr(remote, "_file_system", lambda *_: Bare())
    first, second = (remote.RemoteFile.find("bare://host/a.tar") for _ in range(2))
    assert first.version != second.version


@pytest.mark.parametrize(
    "line, message",
    [
        ("a.txt", "line 1: a.txt is not a path or URL of a tar shard"),
        ("https://me:secret@host/a.tar", "line 1: a URL must not contain a user name"),
        ("https://host/a.tar?Signature=secret", "line 1: a URL must not contain a user name"),
        ("{0..99999999}.tar", "more than 100000 shards"),
        ("# nothing", "contains no shards"),
    ],
)
def test_bad_lists_of_shards_are_named(tmp_path, line, message):
    path = tmp_path / "list.txt"
    path.write_text(line)
    with pytest.raises(UserError, match=message) as error:
        open_dataset("memory://nowhere", "train", 4, list_path=str(path))
    assert "secret" not in str(error.value)


@needs_aiohttp
def test_what_does_not_come_is_named_in_a_line(server, monkeypatch):
    monkeypatch.setattr(remote, "ATTEMPTS", 3)
    server.failing = 1.0
    with pytest.raises(UserError, match=r"train-0\.tar: cannot be read after 3 attempts \(.*\): check the server"):
        open_dataset(server.url, "train", 4)
    assert server.failed >= 3
    server.failing, server.failed = 0.0, 0
    for status, message in ((403, "access denied .* give credentials as its client expects"), (410, "request refused")):
        server.status = status
        with pytest.raises(UserError, match=rf"train-0\.tar: {message}"):
            open_dataset(server.url, "train", 4)
    server.status, server.ranges = 0, False
    with pytest.raises(UserError, match=r"train-0\.tar: the server only sends whole files"):
        open_dataset(server.url, "train", 4)


@needs_aiohttp
def test_a_server_that_goes_in_training_ends_the_run(server, monkeypatch):
    """Another image in its place, as for one that cannot be decoded, would be another batch."""
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    images = open_dataset(server.url, "train", 4)
    server.failing = 1.0
    images.expect([1, 2])
    with pytest.raises(UserError, match="cannot be read after 2 attempts"):
        images.read(1)


def test_other_protocols(folder, monkeypatch):
    whole = batches(folder)
    assert batches(folder.as_uri()) == whole
    with pytest.raises(UserError, match="nonsense:// is not a protocol known to fsspec"):
        open_dataset("nonsense://bucket", "train", 4)
    monkeypatch.setitem(__import__("sys").modules, "aiohttp", None)
    remote._file_system.cache_clear()
    with pytest.raises(UserError, match=r"https:// needs the package aiohttp: pip install -r requirements-cloud.txt"):
        open_dataset("https://host/data", "train", 4)
    remote._file_system.cache_clear()


WRITTEN = {
    "train": "cache_dir lr_range_test model_save_dir profiler_path",
    "eval": "confusion_path crop_sweep_path per_class_path report save_json_path",
    "infer": "features_path save_inference_dir save_json_path vis_dir",
    "reader": "check_path show",
    "convert_weights": "output",
    "convert_model": "output",
    "ema_clean": "cleaned_model_dir",
}


@pytest.mark.parametrize("script, flags", WRITTEN.items(), ids=str)
def test_urls_are_not_written_to(script, flags, capsys):
    for flag in flags.split():
        with pytest.raises(SystemExit, match="2"):
            parse(script, [f"--{flag}=s3://bucket/x"])
        assert f"--{flag}: s3://bucket/x is a URL, but it is written to local disks only" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["data_dir", "train_list", "val_dir"])
@pytest.mark.parametrize("url", ["https://me:secret@host/set", "https://host/set?X-Amz-Signature=secret"])
def test_credentials_in_urls_are_refused(flag, url, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("train", [f"--{flag}={url}"])
    said = capsys.readouterr().err
    assert "a URL must not contain a user name, password or query" in said and "secret" not in said


def test_loose_images_are_not_read_from_urls():
    with pytest.raises(UserError, match=r"only train\.py and eval\.py read tar shards at a URL: give local files"):
        ImageList.find("s3://bucket/photos")


def test_signatures_are_not_repeated():
    error = OSError("cannot connect to https://host/a.tar?X-Amz-Signature=secret&x='1' [down]")
    assert remote._said(error) == "OSError: cannot connect to https://host/a.tar'1' [down]"


# ---------------------------------------------------------------------------------------------------------- the cache


def test_the_cache_keeps_what_was_used_last_and_no_more_than_its_room(tmp_path):
    cache = RangeCache(str(tmp_path), 64 << 10, folders=1)
    for number in range(8):
        cache.put(str(number), bytes([number]) * 4000)
    for path in tmp_path.rglob("[0-9a-f]" * 32):
        os.utime(path, (1000, 1000))
    assert cache.get("0") == bytes(4000)
    for number in range(8, 20):
        cache.put(str(number), bytes([number]) * 4000)
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) <= 16  # of 4 KB on the disk each
    assert all(cache.get(str(number)) for number in (0, *range(8, 20)))
    assert sum(cache.get(str(number)) is None for number in range(1, 8)) >= 4
    cache.put("large", bytes(40 << 10))  # more than half a folder's room would only drive out the others
    assert cache.get("large") is None


def test_several_caches_share_a_folder(tmp_path):
    first, second = (RangeCache(str(tmp_path), 1 << 20, folders=4) for _ in range(2))
    first.put("a", b"content")
    assert second.get("a") == b"content"
    with first.making("a"), second.making("b"):
        pass


def test_what_is_damaged_in_the_cache_is_not_there(tmp_path):
    cache = RangeCache(str(tmp_path), 1 << 30)
    for damage in (b"", b"\0\0\0", b"conten", b"cOntent\x0d\x1a\xc1\xa9"):
        cache.put("a", b"content")
        (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
        path.write_bytes(damage)
        assert cache.get("a") is None


def test_a_cache_too_small_for_images_is_a_warning(tmp_path, capsys):
    RangeCache(str(tmp_path), 10**8).put("a", bytes(100_000))
    assert "--cache_size=0.1 has no room for pieces of more than 47 KB" in capsys.readouterr().err


def test_a_full_disk_is_a_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    RangeCache(str(tmp_path / "file"), 1 << 30).put("a", b"content")
    assert "continuing without the cache" in capsys.readouterr().err
