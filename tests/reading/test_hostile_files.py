"""Lists, shards and class names that are made to keep their readers busy."""

import io
import tarfile

import numpy as np
import pytest

from utils.errors import UserError
from utils.reading.class_names import read_class_names
from utils.reading.grid import write_grid
from utils.reading.image_list import ImageList
from utils.reading.list_file import _LONGEST_LINE, list_text, parse_list
from utils.reading.tar_shards import TarShards


def parsed(path, content):
    path.write_bytes(content)
    return parse_list(list_text(str(path)), str(path), 10)


def test_a_line_of_blanks_takes_no_round_per_blank(tmp_path):
    lines = b"a.jpg 1\n" * 50_000
    blanks = b" " * 200_000
    starts, lengths, labels = parsed(tmp_path / "list", lines + blanks + b"b.jpg" + blanks + b"3" + blanks + b"\n")
    assert (len(starts), starts[-1], lengths[-1], labels[-1]) == (50_001, len(lines) + 200_000, 5, 3)


def test_a_list_without_newlines(tmp_path):
    with pytest.raises(UserError, match="a line has more than 1 MB"):
        parsed(tmp_path / "list", b"a" * ((16 << 20) + _LONGEST_LINE + 1))
    # The last line of a block may end behind it.
    count = (17 << 20) // 8
    assert np.array_equal(parsed(tmp_path / "list", b"a.jpg 1\n" * count)[2], np.ones(count))


def test_a_path_of_thousands_of_folders(tmp_path):
    """No change of it is tried: each would take as many steps, and there would be as many changes."""
    (tmp_path / "list.txt").write_text("a/" * 40_000 + "b.jpg 1\n" + "c/" * 2000 + "d.jpg 2\n")
    images = ImageList.find(str(tmp_path / "list.txt"))
    assert len(images) == 2


def test_a_label_of_thousands_of_digits(tmp_path):
    with pytest.raises(UserError, match=r"line 1: label 9+\.\.\. of") as error:
        parsed(tmp_path / "list", b"a.jpg " + b"9" * 100_000)
    assert len(str(error.value)) < 1000


def shard(path, size_of_second):
    """A shard whose second header says so of its size."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a.jpg", "a.cls"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    data = bytearray(content.getvalue())
    header = data[512:1024]
    header[124:136] = size_of_second
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[512:1024] = header
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 10 + b"\xfc\x00",  # -1024: back to the first header
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,  # far beyond the file
        b"no number!!!",
    ],
)
def test_sizes_in_a_shard(size, tmp_path):
    with pytest.raises(UserError, match=r"train1\.tar") as error:
        TarShards([shard(tmp_path / "train1.tar", size)], 10)
    assert "\n" not in str(error.value)


def test_numbers_of_thousands_of_digits_are_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(f"{'9' * 5000} a\n² b\nc\n", encoding="utf-8")
    assert read_class_names(str(path), 3)[1:] == ["² b", "c"]


def test_half_characters_are_no_names(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(r'["\ud800", "b"]')
    with pytest.raises(UserError, match="--class_map_path"):
        read_class_names(str(path), 2)


def test_a_picture_of_no_kind(tmp_path):
    pictures = [np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(UserError, match=r"\.xyz is not a picture format: name it grid\.xyz\.png$"):
        write_grid(str(tmp_path / "grid.xyz"), pictures, [""], 1)
    with pytest.raises(UserError, match=r"cannot be written \(no such file or directory\)"):
        write_grid(str(tmp_path / "nowhere" / "grid.png"), pictures, [""], 1)
