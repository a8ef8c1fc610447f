"""Images that are too large, and what is called like an image and is none: one unreadable image each."""

import importlib.util
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.reading import limits
from utils.reading.decode import UnreadableImage, decode, read_file

ROOT = Path(__file__).parents[2]


def bmp(width, height):
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 1000, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(900)


def gif(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("make", [bmp, gif])
def test_images_of_a_billion_pixels(make, backend):
    with pytest.raises(UnreadableImage, match=r"pixels, more than the limit of 134217728.*--max_image_pixels"):
        decode(make(32_000, 32_000), "x", backend)


DECODE_ALL = """
import sys
from utils.flags import parse
parse("predict", ["--model_file=x", "--image_path=x", sys.argv[1]])
from utils.reading.decode import UnreadableImage, decode, read_file
for file in sys.argv[2:]:
    try:
        print(decode(read_file(file), file).shape)
    except UnreadableImage as error:
        print(error.reason)
"""


@pytest.mark.parametrize("largest", [4095, 4096])
def test_the_limit_by_flag(largest, tmp_path):
    """Of all decoders: OpenCV's is set when it is imported, so this takes a process of its own."""
    image = Image.new("RGB", (64, 64))
    files = [f"{tmp_path}/small.{kind}" for kind in ("jpg", "png", "gif", "bmp", "tif", "webp", "avif", "jp2", "ppm")]
    for file in files:
        image.save(file)
    if importlib.util.find_spec("pillow_heif"):
        pillow_heif = importlib.import_module("pillow_heif")
        files.append(f"{tmp_path}/small.heic")
        pillow_heif.from_pillow(image).save(files[-1])
    command = [sys.executable, "-c", DECODE_ALL, f"--max_image_pixels={largest}", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    for line in lines:
        assert line == "(64, 64, 3)" if largest == 4096 else "more than the limit of 4095: make it smaller" in line


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
