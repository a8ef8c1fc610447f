"""Archives are read into memory, and refused if they are damaged, hostile or too large."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from paddle_files import (
    FORMS,
    write_tar,
    write_zip,
)

from utils.errors import UserError
from utils.formats import archives as archive
from utils.weights import read_weights


def refused(path: Path) -> str:
    """The message of the error."""
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (link("x/conv1_weights", "/etc/passwd"), "a link or a special file"),
        (link("x/conv1_weights", "../../x", tarfile.LNKTYPE), "a link or a special file"),
        (link("x/conv1_weights", "", tarfile.FIFOTYPE), "a link or a special file"),
        (link("x/conv1_weights", "", tarfile.CHRTYPE), "a link or a special file"),
        (tarfile.TarInfo("../conv1_weights"), "points outside"),
        (tarfile.TarInfo("x/../../conv1_weights"), "points outside"),
        (tarfile.TarInfo("/conv1_weights"), "points outside"),
    ],
)
def test_tar_members_out_of_place_are_refused(member, reason, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(member)
    assert reason in refused(tmp_path / "x.tar")
    assert os.listdir(tmp_path) == ["x.tar"]


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("../conv1_weights", 0, "points outside"),
        ("/x", 0, "points outside"),
        ("x", 0o120777, "a link or a special file"),
    ],
)
def test_zip_members_out_of_place_are_refused(name, mode, reason, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        file.writestr(entry, b"x")
    assert reason in refused(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (20, b"\xff\xff\xff\x7f", "cut short"),  # the compressed size: zipfile would allocate that much memory
        (24, b"\xff\xff\xff\x7f", "unpack to more"),  # the size
        (6, b"\xff", "version 25.5"),  # the version needed
        (8, b"\1", "password"),  # encrypted
        (10, b"\x63", "compression"),  # the method
    ],
)
def test_zip_directory_that_lies(place, value, reason, tmp_path):
    write_zip({"conv1_weights": b"\0" * 100}, tmp_path / "x.zip")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    place += content.index(b"PK\1\2")
    content[place : place + len(value)] = value
    (tmp_path / "x.zip").write_bytes(content)
    assert reason in refused(tmp_path / "x.zip")


def test_truncated_archives(variables, tmp_path):
    for form in ("tar", "tar.gz", "zip", "combined"):
        FORMS[form](variables, tmp_path / "x")
        content = (tmp_path / "x").read_bytes()
        for share in (0.1, 0.5, 0.99):
            (tmp_path / "x").write_bytes(content[: int(share * len(content))])
            refused(tmp_path / "x")


def test_damaged_header_within_a_tar(variables, tmp_path):
    write_tar(variables, tmp_path / "x.tar")
    content = bytearray((tmp_path / "x.tar").read_bytes())
    content[1024 + 3] ^= 4
    (tmp_path / "x.tar").write_bytes(content)
    assert "damaged at byte 1024" in refused(tmp_path / "x.tar")


def test_tar_with_a_negative_size(variables, tmp_path):
    """Python's tarfile would loop for ever."""
    member = tarfile.TarInfo("x/conv1_weights")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(-512, 12, tarfile.GNU_FORMAT)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) * 3)
    assert "damaged" in refused(tmp_path / "x.tar")


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_bombs_are_refused(form, monkeypatch, tmp_path):
    monkeypatch.setattr(archive, "_MIN_LIMIT", 1 << 20)
    FORMS[form]({"conv1_weights": bytes(30 << 20)}, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 100_000
    assert "unpack" in refused(tmp_path / "x")


def test_too_many_files(monkeypatch, variables, tmp_path):
    monkeypatch.setattr(archive, "MAX_FILES", 100)
    monkeypatch.setattr("utils.weights.files.MAX_FILES", 100)
    for form in ("tar", "zip", "folder"):
        FORMS[form](variables, tmp_path / form)
        assert "100 files" in refused(tmp_path / form)
