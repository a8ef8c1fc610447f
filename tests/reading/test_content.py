"""Opacity and 16 bits: what is said of them, and the flags that make them visible."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from reader import OpenCVLoader
from utils.errors import FlagError
from utils.flags import parse
from utils.flags.inputs import UNNOTED, checked_input
from utils.reading.build import eval_transform, train_transform
from utils.reading.content import Content, examine
from utils.reading.dali_loader import _check
from utils.reading.decode import decode
from utils.reading.file_report import report_files
from utils.reading.image_list import ImageList
from utils.reading.transforms import EvalTransform, TrainTransform

DISC = cv2.circle(np.zeros((40, 60), np.uint8), (30, 20), 12, 255, -1, cv2.LINE_AA)
COLOURS = cv2.resize(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8), (60, 40))
GREY = np.linspace(0, 4095, 2400).astype(np.uint16).reshape(40, 60)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def drawing(level: int = 0) -> np.ndarray:
    """A disc of one colour on nothing, RGBA."""
    return np.dstack([np.full((*DISC.shape, 3), level, np.uint8), DISC])


def deep(values: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, values)[1].tobytes()


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (encoded(COLOURS), None),
        (encoded(COLOURS, "JPEG"), None),
        (encoded(COLOURS, "WEBP"), None),
        (encoded(COLOURS, "TIFF"), None),
        (encoded(np.dstack([COLOURS, DISC])), None),  # colours enough are left
        (encoded(np.dstack([COLOURS * 0, DISC * 0 + 255])), None),  # a black image
        (encoded(drawing()), Content(hidden=True)),
        (encoded(Image.fromarray(drawing()).convert("LA")), Content(hidden=True)),
        (encoded(drawing(), "WEBP", lossless=True, exact=True), Content(hidden=True)),
        (encoded(drawing(255)), Content(hidden=True, low=255, high=255)),
        (encoded(drawing(), "TIFF"), Content(hidden=True)),
        (encoded(drawing(255), "TIFF"), None),  # libtiff has put it on black
        (deep(GREY), Content(deep=True, low=0, high=4095)),
        (deep(GREY, ".tiff"), Content(deep=True, low=0, high=4095)),
        (deep(GREY, ".pgm"), Content(deep=True, low=0, high=4095)),
        (deep(GREY, ".jp2"), Content(deep=True, low=0, high=4095)),
        (b"no image", None),
    ],
)
def test_what_a_file_has_beside_colours_of_8_bits(data, content):
    assert examine(data) == content


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "LA", "palette"])
def test_background(kind, background, backend):
    image = Image.fromarray(np.dstack([COLOURS, DISC]))
    data = {
        "GIF": lambda: encoded(image, "GIF"),
        "LA": lambda: encoded(image.convert("LA")),
        "palette": lambda: encoded(image.quantize(32)),
        "WEBP": lambda: encoded(image, "WEBP", lossless=True),
    }.get(kind, lambda: encoded(image, kind))()
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, (*background, 255)), picture))[..., :3]
    result = decode(data, "x", backend, background)
    assert np.abs(result.astype(int) - expected).max() <= 1 and (result[0, 0] == background).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_transparent_images_are_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.dstack([COLOURS, np.full(DISC.shape, 254, np.uint8)]), exif=exif)
    assert np.abs(decode(data, "x", background=(0, 0, 0)).astype(int) - decode(data, "x")).max() <= 1
    values = cv2.merge([GREY, GREY[::-1], GREY // 2])
    turned = deep(values)[:33] + encoded(COLOURS, exif=exif)[33:].split(b"IDAT")[0][:-4] + deep(values)[33:]
    assert (decode(turned, "x", depth_range=(0, 65535)) // 9 == decode(turned, "x") // 9).mean() > 0.9


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
@pytest.mark.parametrize("backend", ["cv2", "pil"])
def test_depth_range(suffix, backend):
    result = decode(deep(GREY, suffix), "x", backend, depth_range=(1000, 4000))
    expected = np.clip((GREY.astype(float) - 1000) / 3000 * 255, 0, 255)
    assert np.abs(result - expected[..., None]).max() <= 0.5 + 1e-9
    assert len(np.unique(decode(deep(GREY, suffix), "x", backend))) == 16  # what is left without it


def test_depth_range_and_background_together():
    values = np.dstack([cv2.merge([GREY] * 3), DISC.astype(np.uint16) * 257])
    result = decode(deep(values), "x", "cv2", (255, 0, 0), (0, 4095))
    assert (result[0, 0] == (255, 0, 0)).all()
    assert (np.abs(result[20, 30].astype(int) - GREY[20, 30] / 4095 * 255) <= 1).all()


@pytest.mark.parametrize("backend", ["cv2", "pil"])
def test_other_images_stay_as_they_are(backend):
    opaque = np.dstack([COLOURS, np.full(DISC.shape, 255, np.uint8)])
    for data in (
        encoded(COLOURS),
        encoded(COLOURS, "JPEG"),
        encoded(opaque),
        encoded(Image.fromarray(COLOURS[..., 0])),
    ):
        np.testing.assert_array_equal(decode(data, "x", backend, (1, 2, 3), (0, 99)), decode(data, "x", backend))


# ------------------------------------------------------------------------------------------------------- what is said


def loader(folder: Path, transform: EvalTransform | TrainTransform, workers: int = 0, training: bool = False):
    return OpenCVLoader(ImageList.from_folder(str(folder)), transform, 4, training, workers=workers)


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(drawing(255 * (number == 7))))
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_epoch_warns_of_hidden_drawings(drawings, workers, capsys):
    batches = loader(drawings, TrainTransform((16, 16)), workers, training=True)
    for epoch, said in ((0, 1), (1, 0)):
        assert len(list(batches.epoch(epoch))) == 2
        report_files(batches)
        said_of = f"warning: transparency hides everything in 8 of 8 images (such as {drawings}/0.png): "
        lines = capsys.readouterr().err.splitlines()
        assert lines == [f"{said_of}without it only a single colour is left; give --background=white"][:said]
    batches.close()


def test_nothing_is_said_where_the_flag_is_given(drawings, capsys):
    batches = loader(drawings, EvalTransform((16, 16), 16, background=(255, 255, 255)))
    (first, _) = batches.epoch(0)
    assert first.images[0].min() == 0 and first.images[0].max() == 255
    report_files(batches)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (GREY, "use 0 to 4095 of 65535, 6.2% of the range: 16 of 256 levels are left; give --image_depth_range 0 4095"),
        (
            GREY // 12 + 1,
            "use 1 to 342 of 65535, 0.5% of the range: 2 of 256 levels are left; give --image_depth_range 0",
        ),
        (GREY * 16, ""),
        (GREY * 0, ""),
    ],
)
def test_a_small_part_of_16_bits(tmp_path, values, said, capsys):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(deep(values))
    batches = loader(tmp_path, EvalTransform((16, 16), 16))
    list(batches.epoch(0))
    report_files(batches)
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == bool(said)
    assert not said or printed.startswith(f"warning: 4 of 4 images have 16 bits (such as {tmp_path}/0.png) and use ")


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_files_are_named_once(tmp_path, workers, capfd):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(COLOURS, "JPEG")[: -2 if number == 1 else None])
    batches = loader(tmp_path, EvalTransform((16, 16), 16), workers)
    for epoch in range(2):
        assert sum(len(batch) for batch in batches.epoch(epoch)) == 4
    report_files(batches)
    batches.close()
    assert capfd.readouterr().err == (
        f"warning: used the decodable part of 1 damaged image file: {tmp_path}/1.jpg: only its end marker is missing\n"
    )


# -------------------------------------------------------------------------------------------------------------- flags


def test_flags():
    flags = parse("train", ["--background=white", "--image_depth_range", "0", "4095"])
    assert (flags.background, flags.image_depth_range) == ([255, 255, 255], [0, 4095])
    for transform in (train_transform(flags), eval_transform(flags)):
        assert (transform.background, transform.image_depth_range) == ((255, 255, 255), (0, 4095))
    flags = parse("train", ["--background=1,2,3"])
    assert (flags.background, flags.image_depth_range) == ([1, 2, 3], None)
    flags = parse("train", ["--background=drop", "--image_depth_range=full"])
    assert flags.background is flags.image_depth_range is None and {"background", "image_depth_range"} <= flags.given
    with pytest.raises(FlagError, match="--image_depth_range 9 9: the first value must be below the second"):
        eval_transform(parse("train", ["--image_depth_range", "9", "9"]))


@pytest.mark.parametrize(
    "wrong",
    [{"background": [1, 2]}, {"background": [0, 0, 256]}, {"background": "white"}, {"image_depth_range": [5, 5]}],
)
def test_notes_that_are_none(wrong):
    flags = parse("train", [])
    notes = {name: getattr(flags, name) for name in ("image_shape", "resize_short_size", "interpolation")}
    notes |= {"image_mean": flags.image_mean, "image_std": flags.image_std, **UNNOTED}
    assert checked_input(notes | {"background": [0, 0, 255], "image_depth_range": [0, 9]})["background"] == [0, 0, 255]
    with pytest.raises(ValueError, match="not a"):
        checked_input(notes | wrong)


def test_dali_has_neither():
    for options, flag in ({"background": (0, 0, 0)}, "background=drop"), ({"image_depth_range": (0, 9)}, "range=full"):
        with pytest.raises(FlagError, match=f"is not supported by DALI: give --.*{flag}, or leave out --use_dali"):
            _check(EvalTransform((16, 16), 16, **options), training=False)
