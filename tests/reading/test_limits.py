"""Images that are too large, and what is called like an image and is none: one unreadable image each."""

import io
import os
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.reading import limits
from utils.reading.decode import UnreadableImage, decode, read_file


def bmp(width, height):
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 1000, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(900)


def gif(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("make", [bmp, gif])
def test_images_of_a_billion_pixels(make, backend):
    with pytest.raises(UnreadableImage, match=r"pixels, and an image may have 134217728.*OPENCV_IO_MAX_IMAGE_PIXELS"):
        decode(make(32_000, 32_000), "x", backend)


def jpeg(**options):
    content = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(content, "JPEG", **options)
    return content.getvalue()


def test_a_jpeg_says_its_size_in_its_frame():
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(UnreadableImage, match="60000 x 60000 pixels"):
        decode(bytes(data), "x")


def test_a_jpeg_of_a_thousand_scans(monkeypatch):
    data = jpeg(progressive=True)
    assert decode(data, "x").shape == (64, 64, 3)
    last = data.rindex(b"\xff\xda")
    many = data[:last] + data[last:-2] * 1000 + data[-2:]
    assert limits.too_much(many) is None  # of so few pixels it takes no time
    monkeypatch.setattr(limits, "_MAX_SCANNED", 20 * 64 * 64)
    assert limits.too_much(data) is None
    with pytest.raises(UnreadableImage, match="scans"):
        decode(many, "x")


def test_what_is_called_like_an_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "zero.jpg", "folder.jpg"):
        with pytest.raises(UnreadableImage, match=r"not a file|directory"):
            read_file(str(tmp_path / name))
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(UnreadableImage, match="20480 MB, more than the 512 MB"):
        read_file(str(tmp_path / "sparse.jpg"))
    assert cv2.imwrite(str(tmp_path / "good.png"), np.zeros((2, 2, 3), np.uint8))
    assert decode(read_file(str(tmp_path / "good.png")), "x").shape == (2, 2, 3)
