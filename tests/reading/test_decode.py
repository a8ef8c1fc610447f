"""What utils/reading/decode.py accepts, what it refuses, and the exactness of decoding a region of a JPEG."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import types
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from utils.reading import decode as decode_module
from utils.reading.codec_messages import heard
from utils.reading.decode import (
    UnreadableImage,
    decode,
    decode_region,
    decode_rows,
    parse_jpeg,
    read_file,
    take_remarks,
)


def picture(height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    """A smooth random image with fine detail, uint8 RGB."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse.astype(int) + rng.integers(-20, 20, coarse.shape), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


RGB = picture()
LOSSLESS = {
    "png": encoded(RGB, "PNG"),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
    "webp": encoded(RGB, "WEBP", lossless=True),
    "16-bit png": cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
    "16-bit tiff": cv2.imencode(".tiff", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
    "alpha": encoded(np.dstack([RGB, np.full(RGB.shape[:2], 9, np.uint8)]), "PNG"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_pixels(kind):
    np.testing.assert_array_equal(decode(LOSSLESS[kind], kind), RGB)


CONVERTED = {
    "baseline": (encoded(RGB, "JPEG", quality=90), 0),
    "progressive": (encoded(RGB, "JPEG", quality=90, progressive=True), 0),
    "grey jpeg": (encoded(Image.fromarray(RGB).convert("L"), "JPEG"), 0),
    # Pillow and OpenCV round the multiplication by black differently.
    "cmyk": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), 1),
    "palette": (encoded(Image.fromarray(RGB).quantize(64), "PNG"), 0),
    "grey and alpha": (encoded(Image.fromarray(RGB).convert("LA"), "PNG"), 0),
    "one bit": (encoded(Image.fromarray(RGB).convert("1"), "PNG"), 0),
    "webp": (encoded(RGB, "WEBP", quality=90), 0),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_other_formats_give_what_pillow_gives(kind):
    data, tolerance = CONVERTED[kind]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(decode(data, kind), expected) <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_exif_orientation_is_applied(orientation, byte_order):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x0112] = orientation
    turned = encoded(RGB, "JPEG", quality=95, exif=exif)
    upright = decode(encoded(RGB, "JPEG", quality=95), "plain")
    turn = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }[orientation]
    np.testing.assert_array_equal(decode(turned, "turned"), turn(upright))
    # A region is only ever decoded from an upright file.
    assert (parse_jpeg(turned, "turned") is None) == (orientation != 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_truncated_files_are_unreadable(kind, share):
    data = encoded(RGB, kind)
    with pytest.raises(UnreadableImage, match="cut"):
        decode(data[: int(len(data) * share)], "cut")


def test_truncated_jpeg_with_a_thumbnail_is_unreadable():
    """The thumbnail's end marker is not the image's."""
    thumbnail = encoded(picture(20, 30), "JPEG")
    segment = b"Exif\0\0" + thumbnail
    data = encoded(RGB, "JPEG")
    data = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    assert difference(decode(data, "whole"), decode(encoded(RGB, "JPEG"), "plain")) == 0
    assert parse_jpeg(data[:-100], "cut") is None
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(data[:-100], "cut")


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey jpeg"])
@pytest.mark.parametrize("backend", ["cv2", "pil"])
def test_a_jpeg_without_its_end_marker_is_decoded_and_noted(kind, backend, capfd):
    data = CONVERTED[kind][0]
    take_remarks()
    for missing in (1, 2):
        np.testing.assert_array_equal(decode(data[:-missing], "cut", backend), decode(data, "whole", backend))
        assert take_remarks() == [("cut", "only its end marker is missing")]
    for missing in (3, 10, 500):
        with pytest.raises(UnreadableImage, match="cut: the JPEG is truncated"):
            decode(data[:-missing], "cut", backend)
    assert take_remarks() == [] and not capfd.readouterr().err


def test_what_codecs_print_is_given_to_the_caller(capfd):
    """libpng and libjpeg write to the terminal by themselves, without the name of the file."""
    take_remarks()
    jpeg = CONVERTED["baseline"][0]
    tables = jpeg.index(b"\xff\xc4")
    assert decode(jpeg[:tables] + bytes(3) + jpeg[tables:], "odd.jpg").shape == RGB.shape
    assert take_remarks() == [("odd.jpg", "Corrupt JPEG data: 3 extraneous bytes before marker 0xc4")]
    with pytest.raises(UnreadableImage, match=r"cut.png: not an image, .* \(libpng error: .*incomplete\)"):
        decode(LOSSLESS["png"][:-12], "cut.png")
    # Of what is beside the pixels nothing has to be said.
    profile = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(b"no profile"))
    np.testing.assert_array_equal(decode(LOSSLESS["png"][:33] + profile + LOSSLESS["png"][33:], "odd.png"), RGB)
    assert take_remarks() == []
    print("said", file=sys.stderr)
    assert capfd.readouterr().err == "said\n"


def test_codecs_are_heard_in_threads_and_forked_processes(capfd):
    """The descriptor leads to the terminal again when the last thread has left a codec, whichever came first."""
    first, second = threading.Event(), threading.Event()

    def slow() -> None:
        first.set()
        assert second.wait(10)

    thread = threading.Thread(target=heard, args=(slow,))
    thread.start()
    assert first.wait(10)
    assert heard(lambda: os.write(2, b"of a codec\n")) == (11, "of a codec")
    child = os.fork()
    if not child:
        os.write(2, b"of a child\n")  # forked while a thread is in a codec
        os._exit(heard(lambda: os.write(2, b"x"))[1] != "x")
    assert os.waitpid(child, 0)[1] == 0
    second.set()
    thread.join()
    os.write(2, b"at the end\n")
    assert capfd.readouterr().err == "of a child\nat the end\n"


# ----------------------------------------------------------------------------------------------------------- AVIF, HEIC


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(RGB, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert upright.shape == (RGB.shape if orientation < 5 else (160, 120, 3))
    assert difference(decode(data, "turned"), upright) <= 1
    assert difference(decode(data, "turned", background=(0, 0, 0)), upright) <= 1


def test_colours_of_avif_with_an_opacity():
    opacity = np.full(RGB.shape[:2], 200, np.uint8)
    data = encoded(np.dstack([RGB, opacity]), "AVIF", quality=100, subsampling="4:4:4")
    assert difference(decode(data, "x"), RGB) <= 3


def test_heic():
    package = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    package.from_pillow(Image.fromarray(RGB)).save(file, quality=-1, chroma=444)
    for backend in ("cv2", "pil"):
        assert np.abs(decode(file.getvalue(), "x", backend).astype(int) - RGB).mean() < 3
    with pytest.raises(UnreadableImage, match="x: cannot be decoded: "):
        decode(file.getvalue()[:-500], "x")


def test_heic_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImage, match="HEIC needs the package pillow-heif: pip install pillow-heif"):
        decode(b"\0\0\0\x18ftypheic" + bytes(90), "x")


@pytest.mark.parametrize(
    "data", [b"", b"hello" * 100, b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xc0\0\0\xff\xda\0\0"]
)
def test_what_is_no_image_is_unreadable(data):
    with pytest.raises(UnreadableImage) as caught:
        decode(data, "some/file.jpg")
    assert str(caught.value) == f"some/file.jpg: {caught.value.reason}"
    assert parse_jpeg(data, "x") is None


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer instead of the image"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page, not an image"),
        (bytes(5000), "nothing but zeros, not an image"),
        (b"hello", "not an image, or a damaged one"),
        (b"\0\0\0\x20ftypisom", "not an image, but a video"),
        (b"%PDF-1.4", "not an image, but a PDF"),
        (b"PK\x03\x04", "not an image, but an archive: unpack it"),
    ],
)
def test_what_is_there_in_place_of_an_image(data, said, backend):
    with pytest.raises(UnreadableImage, match=f"x: {said}"):
        decode(data, "x", backend)


def test_files(tmp_path):
    path = tmp_path / "a file – 画像.png"
    path.write_bytes(LOSSLESS["png"])
    np.testing.assert_array_equal(decode(read_file(str(path)), str(path)), RGB)
    with pytest.raises(UnreadableImage, match="no such file"):
        read_file(str(tmp_path / "missing.png"))
    with pytest.raises(UnreadableImage, match="is a directory"):
        read_file(str(tmp_path))


BOXES = [(0, 0, 120, 160), (0, 0, 1, 1), (119, 159, 1, 1), (16, 16, 32, 48), (37, 51, 60, 70), (7, 90, 97, 41)]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "grey"])
@pytest.mark.parametrize("decoder", ["cv2", "auto"])
def test_region_has_the_pixels_of_a_full_decode(subsampling, decoder, capfd):
    image = Image.fromarray(RGB)
    if subsampling == "grey":
        data = encoded(image.convert("L"), "JPEG", quality=85)
    else:
        data = encoded(image, "JPEG", quality=85, subsampling=subsampling)
    full = decode(data, "full")
    jpeg = parse_jpeg(data, "region")
    assert (jpeg.height, jpeg.width) == full.shape[:2]
    for top, left, height, width in BOXES:
        region = decode_region(jpeg, (top, left, height, width), decoder=decoder)
        np.testing.assert_array_equal(region, full[top : top + height, left : left + width])
    assert not capfd.readouterr().err  # libjpeg complains there of files that end too early or too late


def test_region_decoding_looks_at_no_row_below_the_box():
    data = encoded(picture(400, 300), "JPEG")
    jpeg = parse_jpeg(data, "whole")
    middle = jpeg.end // 2
    damaged = data[:middle] + bytes(jpeg.end - middle) + data[jpeg.end :]
    region = decode_region(parse_jpeg(damaged, "damaged"), (0, 0, 60, 300), decoder="cv2")
    np.testing.assert_array_equal(region, decode(data, "whole")[:60])


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_pixels_are_the_average_of_the_pixels(reduction):
    data = encoded(picture(320, 480), "JPEG", quality=95, subsampling="4:4:4")
    full = decode(data, "full")
    rows = decode_rows(parse_jpeg(data, "rows"), 160, reduction)
    assert len(rows) < 320 / reduction
    average = cv2.resize(full[:160], None, fx=1 / reduction, fy=1 / reduction, interpolation=cv2.INTER_AREA)
    assert rows.shape[1:] == average.shape[1:]
    assert np.abs(rows[: len(average)].astype(float) - average).mean() < 1.0


def test_files_that_are_not_cut_into_regions():
    assert parse_jpeg(LOSSLESS["png"], "png") is None
    for kind in ("progressive", "cmyk"):
        assert parse_jpeg(CONVERTED[kind][0], kind) is None
    restarts = cv2.imencode(".jpg", RGB, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    assert parse_jpeg(restarts, "restart markers") is None
    assert decode(restarts, "restart markers").shape == RGB.shape


def test_without_nvimgcodec_opencv_decodes(monkeypatch):
    monkeypatch.setattr(decode_module, "_nvimgcodec", lambda process: None)
    data = CONVERTED["baseline"][0]
    region = decode_region(parse_jpeg(data, "x"), (3, 5, 50, 60))
    np.testing.assert_array_equal(region, decode(data, "x")[3:53, 5:65])


def test_an_nvimgcodec_that_does_not_start_is_named_once(monkeypatch, capsys):
    def fail(**options):
        raise RuntimeError("nvImageCodec failure:\n no CPU backend")

    package = types.SimpleNamespace(NVIMGCODEC_DEVICE_CPU_ONLY=-99999, CPU_ONLY=1, Backend=int, Decoder=fail)
    monkeypatch.setitem(sys.modules, "nvidia", types.SimpleNamespace(nvimgcodec=package))
    monkeypatch.setattr(decode_module, "_warned", bytearray(1))
    decode_module._nvimgcodec.cache_clear()
    data = CONVERTED["baseline"][0]
    try:
        region = decode_region(parse_jpeg(data, "x"), (3, 5, 50, 60))
        assert decode_module._nvimgcodec(-1) is None  # as another process
    finally:
        decode_module._nvimgcodec.cache_clear()
    np.testing.assert_array_equal(region, decode(data, "x")[3:53, 5:65])
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "(nvImageCodec failure: no CPU backend)" in warning


# ----------------------------------------------------------------------------------------- what no decoder may be given


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["larger than allowed", "far larger", "no width", "PNM", "JPEG"])
def test_headers_of_huge_images(kind):
    """A few bytes that claim gigabytes: refused without the memory."""
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    content = {
        "larger than allowed": png(40_000, 40_000),
        "far larger": png(2**31 - 1, 2**31 - 1),
        "no width": png(0, 10),
        "PNM": b"P6\n999999 999999\n255\nabc",
        "JPEG": bytes(jpeg),
    }[kind]
    with pytest.raises(UnreadableImage):
        decode(content, "bomb")


def test_suffixes_and_animations():
    """The content counts, not the name; of an animation, the first frame."""
    first, second = np.full((20, 30, 3), 200, np.uint8), np.zeros((20, 30, 3), np.uint8)
    for kind in ("GIF", "WEBP", "PNG"):
        file = io.BytesIO()
        options = {"lossless": True} if kind == "WEBP" else {}
        frames = {"save_all": True, "append_images": [Image.fromarray(second)], **options}
        Image.fromarray(first).save(file, kind, **frames)
        np.testing.assert_array_equal(decode(file.getvalue(), "photo.jpg"), first)


def test_what_cannot_be_an_image_for_us():
    for kind, mode in (("TIFF", "F"), ("TIFF", "I")):
        file = io.BytesIO()
        Image.new(mode, (9, 9)).save(file, kind)
        with pytest.raises(UnreadableImage):
            decode(file.getvalue(), mode)
    for content in (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html>404</html>",
        b"\0\0\0\x18ftypheic" + bytes(90),
    ):
        with pytest.raises(UnreadableImage):
            decode(content, "image.jpg")
