"""Tar shards that tarfile would read in part, without a word."""

from __future__ import annotations

import tarfile

import pytest
from archives import tar_of

from utils.errors import UserError
from utils.reading.dataset import open_dataset


def shard_of_three() -> bytes:
    """Images of 512 bytes: the headers are at every second block of 512 bytes."""
    return tar_of({f"{key}.{kind}": b"1" if kind == "cls" else b"x" * 512 for key in "abc" for kind in ("jpg", "cls")})


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda shard: shard[: 8 * 512 + 100], "cut off or damaged at byte 4096"),
        (lambda shard: shard[: 8 * 512] + b"?" + shard[8 * 512 + 1 :], "cut off or damaged at byte 4096"),
        (lambda shard: shard[: 4 * 512] + bytes(512) + shard[5 * 512 :], "more follows its end at byte 2048"),
        (lambda shard: shard + shard, "more follows its end at byte 6144: unpack it with tar --ignore-zeros"),
    ],
)
def test_shards_that_tarfile_would_read_in_part_are_named(tmp_path, damage, message):
    (tmp_path / "train.tar").write_bytes(damage(shard_of_three()))
    with pytest.raises(UserError, match=rf"train\.tar: not a complete tar file \({message}"):
        open_dataset(str(tmp_path), "train", 4)


def test_a_shard_without_an_end_is_a_warning(tmp_path, capsys):
    (tmp_path / "train.tar").write_bytes(shard_of_three()[: 8 * 512])
    assert len(open_dataset(str(tmp_path), "train", 4)) == 2
    assert "train.tar, and perhaps others there, do not end as tar files do" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_in_a_shard_are_named(tmp_path, kind):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for name in ("a.jpg", "a.cls"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../other"
            archive.addfile(member)
    with pytest.raises(UserError, match=r"train\.tar: a\.jpg is a link or a special file: pack the files themselves"):
        open_dataset(str(tmp_path), "train", 4)


@pytest.mark.parametrize("first", [b"x" * 513, b"x" * 511])
def test_a_shard_that_was_replaced_while_it_is_read_ends_the_run(tmp_path, first):
    """Other pixels with the old labels would be worse."""
    (tmp_path / "train.tar").write_bytes(shard_of_three())
    images = open_dataset(str(tmp_path), "train", 4)
    assert images.read(1) == b"x" * 512
    (tmp_path / "train.tar").write_bytes(
        tar_of({"a.jpg": first, "a.cls": b"1", "b.jpg": first, "b.cls": b"1", "c.jpg": bytes(4096), "c.cls": b"1"})
    )
    with pytest.raises(UserError, match=r"b\.jpg is no longer where it was in .*train\.tar when this run started"):
        images.read(1)
