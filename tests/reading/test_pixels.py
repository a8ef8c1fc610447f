"""The pixels that networks are evaluated with: PaddleClas's, bit by bit, and the geometries."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import models
from utils.errors import FlagError
from utils.reading.decode import UnreadableImage, decode
from utils.reading.resize import Resizer
from utils.reading.transforms import LARGEST, EvalTransform, TrainTransform

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))


import make_inputs

FACTS = make_inputs.facts()
PIPELINES = FACTS["pipelines"]


@pytest.fixture(scope="module")
def photographs() -> dict[str, bytes]:
    """The two photographs that scikit-learn brings along, 427 x 640, as files."""
    return {Path(name).name: Path(name).read_bytes() for name in load_sample_images().filenames}


def by_hand(operators, data: bytes) -> np.ndarray:
    """A pipeline of PaddleClas, by OpenCV alone."""
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    for operator in operators[1:]:
        ((name, given),) = operator.items()
        height, width = image.shape[:2]
        if name == "ResizeImage":
            assert given.get("interpolation", "bilinear") == "bilinear"
            if "size" in given:
                image = cv2.resize(image, tuple(given["size"]))
            else:
                share = float(given["resize_short"]) / min(width, height)
                image = cv2.resize(image, (round(width * share), round(height * share)))
        elif name == "CropImage":
            top, left = (height - given["size"]) // 2, (width - given["size"]) // 2
            image = image[top : top + given["size"], left : left + given["size"]]
        else:
            assert name == "CropImageAtRatio"
            side = int(given["size"] / (given["size"] + given["pad"]) * min(height, width))
            top, left = (height - side) // 2, (width - side) // 2
            image = cv2.resize(image[top : top + side, left : left + side], (given["size"], given["size"]))
    return image


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_of_paddleclas(name, photographs):
    """Against checksums of what PaddleClas's operators made, with Pillow 11; without Pillow, against OpenCV by hand."""
    transform = make_inputs.transform(PIPELINES[name])
    for photograph, data in photographs.items():
        image = transform.decode(data, photograph)
        assert image.dtype == np.uint8 and image.shape == (*transform.image_size, 3)
        if name in FACTS["sha1"]:
            assert hashlib.sha1(image.tobytes()).hexdigest().startswith(FACTS["sha1"][name][photograph])
        else:
            np.testing.assert_array_equal(image, by_hand(PIPELINES[name], data))


def test_every_network_has_the_pixels_of_its_configuration():
    """Eval's, where it has a configuration in PaddleClas."""
    sources = make_inputs.sources(FACTS["configurations"])
    checked = 0
    for name in models.list_models():
        if name in sources:
            pipeline, normalization = FACTS["configurations"][sources[name]]["Eval"]
            config = models.input_config(name, "PaddleClas")
            assert make_inputs.transform_of(config) == make_inputs.transform(PIPELINES[pipeline]), name
            means, stds = FACTS["normalizations"][normalization]
            np.testing.assert_allclose(np.multiply(config.mean, 255), means, atol=1e-3)
            np.testing.assert_allclose(np.multiply(config.std, 255), stds, atol=1e-3)
            checked += 1
    assert checked > 280


def test_fluid_keeps_its_own():
    fluid, paddleclas = (models.input_config("EfficientNetB0", publisher) for publisher in ("", "PaddleClas"))
    assert (fluid.interpolation, paddleclas.interpolation) == (2, 1)
    assert models.input_config("ResNet50", "PaddleClas") == models.input_config("ResNet50")


def test_the_table_is_up_to_date():
    assert make_inputs.FILE.read_text(encoding="utf-8") == make_inputs.document(), "run: python docs/make_inputs.py"


# ------------------------------------------------------------------------------------------------------- geometries


def stripes(height: int, width: int) -> np.ndarray:
    """A random image."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_exact_takes_the_whole_image():
    rgb = stripes(40, 200)
    image = EvalTransform((32, 160), resize_mode="exact")(rgb)
    np.testing.assert_array_equal(image, cv2.resize(rgb, (160, 32)))


@pytest.mark.parametrize(
    "shape, place", [((40, 200), (9, 0, 13, 64)), ((200, 40), (0, 29, 32, 6)), ((3, 900), (15, 0, 1, 64))]
)
def test_pad_takes_the_whole_image_and_fills_the_rest(shape, place):
    rgb = stripes(*shape)
    fill = (124, 116, 104)
    image = EvalTransform((32, 64), resize_mode="pad", fill=fill)(rgb)
    top, left, height, width = place
    inside = np.zeros((32, 64), bool)
    inside[top : top + height, left : left + width] = True
    np.testing.assert_array_equal(image[inside].reshape(height, width, 3), cv2.resize(rgb, (width, height)))
    assert (image[~inside] == fill).all()


def test_a_short_side_that_is_just_enough():
    """Of 40 x 200 the whole, with 32 x 160; an image that is not as wide becomes as large as the crop needs."""
    transform = EvalTransform((32, 160), 32)
    rgb = stripes(40, 200)
    np.testing.assert_array_equal(transform(rgb), cv2.resize(rgb, (160, 32)))
    square = stripes(50, 50)
    np.testing.assert_array_equal(transform(square), cv2.resize(square, (160, 160))[64:96])
    with pytest.raises(FlagError, match="--resize_short_size: 31 is smaller"):
        EvalTransform((32, 160), 31)
    EvalTransform((32, 160), 31, resize_mode="exact")


def test_strips_are_whole_as_far_as_memory_allows():
    rgb = stripes(4, 400)  # 100 : 1
    image = EvalTransform((32, 32), 32)(rgb)
    np.testing.assert_array_equal(image, cv2.resize(rgb, (3200, 32))[:, 1584:1616])
    longest = LARGEST // 32 // 32
    image = EvalTransform((32, 32), 32)(np.full((1, longest + 999, 3), 77, np.uint8))
    assert image.shape == (32, 32, 3) and (image == 77).all()


def test_channels_in_the_other_order(photographs):
    data = photographs["china.jpg"]
    for kind in (EvalTransform, TrainTransform):
        rgb, bgr = (
            kind((64, 64), channel_order=order).decode(data, "x", np.random.default_rng(0)) for order in ("rgb", "bgr")
        )
        np.testing.assert_array_equal(rgb, bgr[..., ::-1])
        assert bgr.flags["C_CONTIGUOUS"]


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("decoder", ["cv2", "pil"])
def test_training_crops_are_resized_by_pillow(decoder, photographs):
    """The box of OpenCV's pipeline, whole, never decoded at a reduced size; --resize_backend=pil."""
    data = photographs["flower.jpg"]
    whole = decode(data, "x")
    transform = TrainTransform((48, 40), interpolation=2, resize_backend="pil", decode_backend=decoder)
    for seed in range(10):
        box = transform._draw_box(*whole.shape[:2], np.random.default_rng(seed))
        top, left, height, width = box
        crop = Image.fromarray(whole[top : top + height, left : left + width])
        # Rows first, as Pillow had it before version 13.
        expected = np.asarray(crop.resize((40, height), Image.BICUBIC).resize((40, 48), Image.BICUBIC))
        rng = np.random.default_rng(seed)
        image = transform.decode(data, "x", rng)
        flipped = not (image == expected).all()
        np.testing.assert_array_equal(image[:, ::-1] if flipped else image, expected)


@pytest.mark.parametrize("mode", ["exact", "pad"])
def test_training_on_whole_images(mode, photographs):
    """--lower_scale=1 with --resize_mode=exact or pad: as in evaluation, but for the flip."""
    data = photographs["china.jpg"]
    expected = EvalTransform((48, 64), resize_mode=mode, fill=(9, 8, 7)).decode(data, "x")
    transform = TrainTransform((48, 64), lower_scale=1.0, resize_mode=mode, fill=(9, 8, 7))
    seen = set()
    for seed in range(10):
        image = transform.decode(data, "x", np.random.default_rng(seed))
        flipped = not (image == expected).all()
        np.testing.assert_array_equal(image[:, ::-1] if flipped else image, expected)
        seen.add(flipped)
    assert seen == {False, True}


# --------------------------------------------------------------------------------------------------- decoding by Pillow


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_pillow_decodes_what_opencv_does(photographs):
    for data in photographs.values():
        np.testing.assert_array_equal(decode(data, "x", "pil"), decode(data, "x"))
    rgb = Image.fromarray(stripes(20, 30))
    for image in (rgb, rgb.convert("L"), rgb.convert("P"), rgb.convert("RGBA"), rgb.convert("1")):
        data = encoded(image, "PNG")
        np.testing.assert_array_equal(decode(data, "x", "pil"), decode(data, "x"))
    sixteen = Image.fromarray((np.arange(600, dtype=np.uint16) * 100).reshape(20, 30))
    data = encoded(sixteen, "PNG")
    np.testing.assert_array_equal(decode(data, "x", "pil"), decode(data, "x"))


def test_pillow_leaves_orientation_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(stripes(20, 30)), "JPEG", exif=exif)
    assert decode(data, "x").shape == (30, 20, 3)
    assert decode(data, "x", "pil").shape == (20, 30, 3)


@pytest.mark.parametrize("damage", [b"", b"no image", "cut", "cut png", "garbled"])
def test_what_pillow_cannot_decode_is_unreadable(damage, photographs, recwarn):
    whole = photographs["china.jpg"]
    picture = encoded(Image.fromarray(stripes(40, 40)), "PNG")
    data = {"cut": whole[:5000], "cut png": picture[:500], "garbled": picture[:60] + bytes(200)}.get(damage, damage)
    with pytest.raises(UnreadableImage) as caught:
        decode(data, "x", "pil")
    assert "\n" not in str(caught.value) and not recwarn.list


def test_a_resizer_of_one_side_only():
    """Which is what leaves Pillow no choice of the order."""
    rgb = stripes(60, 50)
    for size in ((60, 20), (90, 50), (60, 50)):
        expected = np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.LANCZOS))
        np.testing.assert_array_equal(Resizer(4, "pil")(rgb, *size), expected)
