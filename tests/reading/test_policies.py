"""timm's and PaddleClas's random policies, and training pipelines in words."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from utils.errors import FlagError
from utils.flags import parse
from utils.reading.build import train_loader, train_transform
from utils.reading.masks import ErasingInside, GridMask
from utils.reading.pipeline import Crop, Flip, Lighting, Pad, Pipeline, Resize
from utils.reading.policies import (
    BICUBIC,
    BILINEAR,
    NEAREST,
    PADDLECLAS,
    TIMM,
    TIMM_INCREASING,
    PaddleRandAugment,
    TimmAugment,
    apply,
)
from utils.reading.transforms import random_crop_box
from utils.training.mixing import mix

FILL = (124, 116, 104)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 10, 245, cv2.NORM_MINMAX)


class Draws:
    """In place of a generator: always the same number of 0..1."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


# What timm 1.0.31 makes of the magnitudes 0, 3, 7.5 and 10, with a positive sign.
TURNS = {
    "Rotate": [0, 9, 22.5, 30],
    "ShearX": [0, 0.09, 0.225, 0.3],
    "ShearY": [0, 0.09, 0.225, 0.3],
    "TranslateXRel": [0, 0.135, 0.3375, 0.45],
    "TranslateYRel": [0, 0.135, 0.3375, 0.45],
    "SolarizeAdd": [0, 33, 82, 110],
}
COLOURS = ("Color", "Contrast", "Brightness", "Sharpness")
TIMM_AMOUNTS = {
    "inc1": {
        **TURNS,
        **{name: [1, 1.27, 1.675, 1.9] for name in COLOURS},
        "Posterize": [4, 3, 1, 0],
        "Solarize": [256, 180, 64, 0],
    },
    "inc0": {
        **TURNS,
        **{name: [0.1, 0.64, 1.45, 1.9] for name in COLOURS},
        "Posterize": [0, 1, 3, 4],
        "Solarize": [0, 76, 192, 256],
    },
}


@pytest.mark.parametrize(("kind", "table"), [("inc1", TIMM_INCREASING), ("inc0", TIMM)])
def test_strengths_are_timms(kind, table):
    assert set(TIMM_AMOUNTS[kind]) | {"AutoContrast", "Equalize", "Invert"} == set(table)
    for name, expected in TIMM_AMOUNTS[kind].items():
        found = [table[name].at(magnitude / 10, Draws(0.9)) for magnitude in (0, 3, 7.5, 10)]
        assert found == pytest.approx(expected, abs=1e-6), name
        if table[name].signed:
            base = table[name].base
            assert table[name].at(0.3, Draws(0.1)) == pytest.approx(2 * base - expected[1])


def test_operations_are_pillows(photo):
    """Which timm and PaddleClas apply: the pixels are the same, but for the rounding of the grey that colours blend
    with."""
    picture = Image.fromarray(photo)
    size, affine = picture.size, Image.Transform.AFFINE
    cases = {
        ("Rotate", 17): picture.rotate(17, BICUBIC, fillcolor=FILL),
        ("ShearX", -0.2): picture.transform(size, affine, (1, -0.2, 0, 0, 1, 0), BICUBIC, fillcolor=FILL),
        ("ShearY", 0.3): picture.transform(size, affine, (1, 0, 0, 0.3, 1, 0), BICUBIC, fillcolor=FILL),
        ("TranslateX", 11): picture.transform(size, affine, (1, 0, 11, 0, 1, 0), BICUBIC, fillcolor=FILL),
        ("TranslateYRel", -0.4): picture.transform(size, affine, (1, 0, 0, 0, 1, -24), BICUBIC, fillcolor=FILL),
        ("Color", 1.7): ImageEnhance.Color(picture).enhance(1.7),
        ("Contrast", 0.3): ImageEnhance.Contrast(picture).enhance(0.3),
        ("Brightness", 1.4): ImageEnhance.Brightness(picture).enhance(1.4),
        ("Sharpness", 1.8): ImageEnhance.Sharpness(picture).enhance(1.8),
        ("Posterize", 3): ImageOps.posterize(picture, 3),
        ("Solarize", 99): ImageOps.solarize(picture, 99),
        ("SolarizeAdd", 55): picture.point([min(255, v + 55) if v < 128 else v for v in range(256)] * 3),
        ("AutoContrast", 0): ImageOps.autocontrast(picture),
        ("Equalize", 0): ImageOps.equalize(picture),
        ("Invert", 0): ImageOps.invert(picture),
    }
    for (name, amount), expected in cases.items():
        found = apply(photo, name, amount, BICUBIC, FILL, np.random.default_rng(0)).astype(int)
        assert abs(found - np.asarray(expected)).max() <= (2 if name in ("Color", "Sharpness") else 0), name


def test_timm_policies_are_read():
    found = TimmAugment.parse("rand-m7-mstd0.5-inc1", (BICUBIC,), FILL)
    assert found == TimmAugment(7, 0.5, 2, True, (BICUBIC,), FILL)
    assert TimmAugment.parse("rand-n3-m8-mstd1.0", (BILINEAR,), FILL) == TimmAugment(8, 1, 3, False, (BILINEAR,), FILL)
    for wrong, part in (("augmix-m3", "augmix"), ("rand-m9-w0", "w0"), ("rand-m31", "give m up to 30")):
        with pytest.raises(ValueError, match=part):
            TimmAugment.parse(wrong, (BICUBIC,), FILL)


def test_timm_applies_half_of_its_draws(photo):
    """Two draws of 15, each left out with probability 1/2: a quarter of the images stays as it is."""
    augment = TimmAugment.parse("rand-m9-mstd0.5-inc1", (BICUBIC, BILINEAR), FILL)
    results = [augment(photo, np.random.default_rng(seed)) for seed in range(400)]
    same = np.mean([np.array_equal(result, photo) for result in results])
    assert 0.17 < same < 0.33
    assert all(np.array_equal(augment(photo, np.random.default_rng(s)), results[s]) for s in range(5))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_paddleclas_policies(photo, version):
    """The amounts of its tables at magnitude 5, and the same draw gives the same image."""
    expected = {
        1: {"Posterize": 2, "Solarize": 128, "Rotate": 15, "TranslateXRel": 150 / 662, "Color": 1.45},
        2: {"Posterize": 2, "Solarize": 128, "SolarizeAdd": 55, "Cutout": 20, "Color": 1.0, "TranslateY": 50},
        3: {"Posterize": 6, "Solarize": 127.5, "Rotate": 15, "ShearX": 0.15, "Sharpness": 1.45},
    }[version]
    for name, amount in expected.items():
        assert PADDLECLAS[version][name].at(0.5, Draws(0.9)) == pytest.approx(amount), name
    augment = PaddleRandAugment(version, 2, 5, NEAREST if version == 2 else BICUBIC)
    results = [augment(photo, np.random.default_rng(seed)) for seed in range(60)]
    assert all(result.shape == photo.shape and result.dtype == np.uint8 for result in results)
    assert np.array_equal(augment(photo, np.random.default_rng(7)), results[7])
    assert np.mean([np.array_equal(result, photo) for result in results]) < 0.2


def test_erasing_inside(photo):
    """As PaddleClas: a rectangle that fits, of normal noise on the scale of the normalised image."""
    erase = ErasingInside(1.0, 0.1, 0.3, 0.3, True, "pixel", 10)
    sizes = []
    values = []
    for seed in range(200):
        changed = (erase(photo, np.random.default_rng(seed)) != photo).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = erase(photo, np.random.default_rng(seed))[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        sizes.append(box.shape[0] * box.shape[1] / (60 * 80))
        values.append(box[..., 0].mean())
    assert min(sizes) > 0.08 and max(sizes) < 0.32
    assert np.mean(values) == pytest.approx(0.485 * 255, abs=3)
    assert np.array_equal(ErasingInside(0.0)(photo, np.random.default_rng(0)), photo)
    const = ErasingInside(1.0, mode="const")(photo, np.random.default_rng(3))
    assert {tuple(pixel) for pixel in const[(const != photo).any(2)].tolist()} == {(124, 116, 104)}


def test_bars_of_a_grid(photo):
    white = np.full((64, 64, 3), 255, np.uint8)
    squares = GridMask((0, 0, 0), 16, 16, 0.5, 1.0)(white, np.random.default_rng(0))
    bars = GridMask((0, 0, 0), 16, 16, 0.5, 1.0, inverse=True)(white, np.random.default_rng(0))
    assert (squares == 0).mean() == pytest.approx(0.25) and (bars == 0).mean() == pytest.approx(0.75)


def test_lighting_is_along_the_components():
    grey = np.full((4, 4, 3), 128, np.uint8)
    casts = np.array([Lighting(0.1)(grey, np.random.default_rng(seed))[0, 0] - 128.0 for seed in range(2000)])
    # The first component has nearly all: 255 x 0.2175 x 0.1 along nearly grey.
    assert casts.std(0) == pytest.approx([3.2, 3.2, 3.3], abs=0.4)


def pipeline(*words: str, **flags: object) -> Pipeline:
    values = {"image_shape": "3,48,32", "train_transforms": " ".join(words), **flags}
    return train_transform(parse("train", [f"--{name}={value}" for name, value in values.items()]))


def test_words_of_a_pipeline(photo):
    """PULC's for people: resized, padded, cropped, mirrored, erased."""
    made = pipeline(
        "resize:size=48x32", "timm_augment:p=0.8", "pad:size=68x52:fill=0", "random_crop:size=48x32", "flip",
        "random_erasing:p=0.4:area=0.02/0.3333:ratio=0.3:attempts=10:log_ratio:mode=pixel",
    )  # fmt: skip
    assert made.image_size == (48, 32)
    assert isinstance(made.operations[0], Resize) and made.operations[0].size == (48, 32)
    assert made.operations[2:5] == (Pad((68, 52), (0, 0, 0)), Crop((48, 32), True), Flip())
    assert made.operations[5] == ErasingInside(0.4, 0.02, 0.3333, 0.3, True, "pixel", 10)
    results = [made(photo, np.random.default_rng(seed)) for seed in range(20)]
    assert {result.shape for result in results} == {(48, 32, 3)}
    encoded = cv2.imencode(".png", photo[..., ::-1])[1].tobytes()
    assert np.array_equal(made.decode(encoded, "a.png", np.random.default_rng(3)), results[3])


def test_a_random_crop_is_that_of_the_flags(photo):
    """The same draws, and of a JPEG no more is decoded."""
    data = cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes()
    made = pipeline("random_resized_crop:scale=0.2/1:ratio=0.5/2")
    flags = ["--image_shape=3,48,32", "--lower_scale=0.2", "--lower_ratio=0.5", "--upper_ratio=2", "--flip_prob=0"]
    usual = train_transform(parse("train", flags))
    for seed in range(5):
        found, expected = (each.decode(data, "a.jpg", np.random.default_rng(seed)) for each in (made, usual))
        assert np.array_equal(found, expected)


def test_where_a_pipeline_differs_from_evaluation(photo):
    made = pipeline("decode:backend=pil:order=bgr", "resize:short=48", "center_crop:size=40", channel_order="rgb")
    assert (made.decode_backend, made.channel_order, made.image_size) == ("pil", "bgr", (40, 40))
    data = cv2.imencode(".png", photo[..., ::-1])[1].tobytes()
    expected = cv2.resize(photo, (64, 48))[4:44, 12:52, ::-1]
    assert np.array_equal(made.decode(data, "a.png", np.random.default_rng(0)), expected)
    assert Pad((6, 4), (1, 2, 3), "bottom_right")(photo[:2, :2], np.random.default_rng(0))[0, 0].tolist() == [1, 2, 3]


def test_even_logarithms_of_ratios():
    shapes = [random_crop_box(400, 400, np.random.default_rng(s), 0.1, 0.25, 4, True)[2:] for s in range(2000)]
    logs = np.log([width / height for height, width in shapes])
    assert np.mean(logs) == pytest.approx(0, abs=0.06) and abs(logs).max() < 1.5


def test_training_with_words(tiny_dataset):
    flags = [f"--data_dir={tiny_dataset}", "--class_dim=4", "--batch_size=8", "--reader_thread=0"]
    words = "--train_transforms=random_resized_crop:size=24:interpolation=random:backend=pil,flip,rand_augment_v3"
    batch = next(train_loader(parse("train", [*flags, words]), 0).epoch(0))
    assert batch.images.shape == (8, 24, 24, 3) and batch.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("random_resized_crp", "random_resized_crp: no such operation: did you mean random_resized_crop"),
        ("resize:sise=3", "no option 'sise'; did you mean size"),
        ("resize:size=0", "size: '0' is not an image size"),
        ("resize:size=99999x99999", "size: '99999x99999' is not an image size"),
        ("resize", "give one of size=HEIGHTxWIDTH and short=SIDE"),
        ("flip:p=2", "flip:p=2: p: 2 is not allowed"),
        ("flip", "no word gives all images the same size"),
        ("resize:short=40 flip", "no word gives all images the same size"),
        ("random_crop:size=20", "the image size is unknown before it"),
        ("resize:size=20 random_crop:size=24", "images of 20x20 do not fit 24x24"),
        ("resize:size=20 pad:size=16", "images of 20x20 do not fit 16x16"),
        ("resize:size=20 timm_augment:policy=auto", "policy: 'auto': only rand-... policies are supported"),
        ("resize:size=20 random_erasing:mode=x", "mode: 'x' is not one of pixel, rand, const"),
        ("random_resized_crop:scale=0.5/0.9", "scale=0.5/0.9: give values above 0 and up to 1"),
        ("random_resized_crop:ratio=2/1", "ratio: '2/1': 2 is above 1"),
        ("resize:size=20 color_jitter", "give brightness="),
    ],
)
def test_bad_words(words, message):
    with pytest.raises(FlagError, match="--train_transforms: .*" + message.replace("(", r"\(")):
        pipeline(words)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [((None, None), (0.5, 0.5)), ((0.25, 0.25), (0.25, 0.25)), ((0.2, None), (0.2, 0.8)), ((0.0, 0.0), (0.0, 0.0))],
)
def test_shares_of_mixed_batches(probabilities, expected):
    images, labels = torch.zeros(16, 3, 8, 8), torch.arange(16)
    images[:] = labels.view(-1, 1, 1, 1)
    kinds = [0, 0]
    for seed in range(300):
        mixed, targets = mix(images, labels, 0.8, 1.0, np.random.default_rng(seed), *probabilities)
        if targets.mixed_labels is not None:
            kinds[int(bool((mixed == mixed.round()).all()))] += 1  # CutMix leaves whole pixels
    assert kinds == pytest.approx([300 * share for share in expected], abs=27)
