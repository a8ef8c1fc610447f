"""From pixels to a network's input: crops, resizing, flips, normalisation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import stats

from utils.errors import FlagError
from utils.reading.decode import decode
from utils.reading.normalize import normalize
from utils.reading.transforms import EvalTransform, TrainTransform, random_crop_box


def original_crop(height, width, rng):
    """The original's crop: area share, left, top and aspect ratio, before and after rounding to pixels."""
    aspect = np.sqrt(rng.uniform(3 / 4, 4 / 3))
    w, h = aspect, 1 / aspect
    bound = min((width / height) / w**2, (height / width) / h**2)
    area = height * width * rng.uniform(min(0.08, bound), min(1.0, bound))
    side = np.sqrt(area)
    w, h = int(side * w), int(side * h)
    return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w


@pytest.mark.parametrize("height, width", [(375, 500), (500, 300), (100, 900)])
def test_crops_are_distributed_as_the_originals(height, width):
    """Two-sample Kolmogorov-Smirnov tests on 100,000 draws."""
    draws = 100_000
    ours, originals = np.random.default_rng(1), np.random.default_rng(2)
    a = np.array([random_crop_box(height, width, ours) for _ in range(draws)])
    b = np.array([original_crop(height, width, originals) for _ in range(draws)])
    assert (a[:, 0] + a[:, 2] <= height).all() and (a[:, 1] + a[:, 3] <= width).all()

    def quantities(boxes):
        top, left, h, w = boxes.T.astype(float)
        # Where the crop is, as a share of the room that it has.
        return {"area": h * w, "aspect": w / h, "top": top, "left": left, "room": top / (height - h + 1), "width": w}

    theirs = quantities(b)
    for name, values in quantities(a).items():
        assert stats.ks_2samp(values, theirs[name]).pvalue > 1e-3, name


def test_crop_formula_by_hand():
    """The four draws at fixed values, worked out on paper."""

    class Draws:
        def __init__(self, *values):
            self.values = values

        def random(self, count):
            assert count == len(self.values)
            return self.values

    # Aspect ratio 1, the whole range of areas: side^2 = 100 * 200 * (0.08 + 0.5 * (min(1, 1 / 2) - 0.08)).
    ratio = (1 - 3 / 4) / (4 / 3 - 3 / 4)
    side = int(np.sqrt(20_000 * (0.08 + 0.5 * 0.42)))
    assert random_crop_box(100, 200, Draws(ratio, 0.5, 0.0, 0.999999)) == (0, 200 - side, side, side)
    # A share of 1 of a square image with aspect ratio 1 is the whole image.
    assert random_crop_box(64, 64, Draws(ratio, 1.0, 0.7, 0.7)) == (0, 0, 64, 64)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_crops_of_tiny_images_fit(size):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, height, width = random_crop_box(*size, rng)
        assert 0 <= top <= top + height <= size[0] and 0 <= left <= left + width <= size[1] and height and width


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (224, 224), (1000, 257), (40, 30)])
@pytest.mark.parametrize("interpolation, flag", [(None, cv2.INTER_LINEAR), (2, cv2.INTER_CUBIC), (3, cv2.INTER_AREA)])
def test_evaluation_is_plain_resize_and_centre_crop(shape, interpolation, flag):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    scale = 256 / min(shape)
    resized = cv2.resize(rgb, (round(shape[1] * scale), round(shape[0] * scale)), interpolation=flag)
    top, left = (resized.shape[0] - 224) // 2, (resized.shape[1] - 224) // 2
    result = EvalTransform((224, 224), 256, interpolation)(rgb)
    np.testing.assert_array_equal(result, resized[top : top + 224, left : left + 224])


@pytest.mark.parametrize("shape", [(2, 4001), (4000, 3), (1, 17)])
def test_evaluation_of_a_strip_takes_its_middle(shape):
    """A gradient along the strip: what the crop shows is the middle of it, as without the short cut."""
    rgb = np.linspace(0, 255, max(shape)).round().astype(np.uint8)
    rgb = np.repeat(np.repeat(rgb, min(shape)).reshape(max(shape), min(shape), 1), 3, axis=2)
    if shape[0] < shape[1]:
        rgb = rgb.transpose(1, 0, 2)
    transform = EvalTransform((56, 64), 64)
    image = transform(np.ascontiguousarray(rgb))
    assert image.shape == (56, 64, 3)
    scale = 64 / min(shape)
    resized = cv2.resize(rgb, (round(shape[1] * scale), round(shape[0] * scale)))
    top, left = (resized.shape[0] - 56) // 2, (resized.shape[1] - 64) // 2
    expected = resized[top : top + 56, left : left + 64]
    # Half a pixel of the strip, where a pixel is 255 / (length - 1) levels, and the rounding of both.
    assert np.abs(image.astype(int) - expected).max() <= 2 + 255 / (max(shape) - 1) / 2


def test_training_from_bytes_is_training_from_pixels():
    """Decoding a region changes nothing where the crop is not reduced: same draws, same pixels."""
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), (640, 480))
    data = cv2.imencode(".jpg", rgb)[1].tobytes()
    pixels = decode(data, "x")
    for interpolation in (None, 0, 3):
        transform = TrainTransform((400, 400), interpolation=interpolation)
        for seed in range(20):
            a, b = np.random.default_rng(seed), np.random.default_rng(seed)
            np.testing.assert_array_equal(transform.decode(data, "x", a), transform(pixels, b))


def test_large_crops_are_reduced_while_decoding():
    """Same crop to a fraction of a pixel, at 1/2, 1/4 and 1/8; averages instead of single pixels; same draws."""
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), (1280, 960))
    data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    pixels = decode(data, "x")
    for size in (50, 90, 200):
        transform = TrainTransform((size, size))
        for seed in range(20):
            a, b = np.random.default_rng(seed), np.random.default_rng(seed)
            reduced, full = transform.decode(data, "x", a), transform(pixels, b)
            assert np.abs(reduced.astype(float) - full).mean() < 1
            assert a.random() == b.random()


def test_flips_are_fair():
    """A picture with one bright half: which side it is on after the transform."""
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:, 16:] = 255
    transform = TrainTransform((16, 16), lower_scale=1.0, lower_ratio=1.0, upper_ratio=1.0)
    rng = np.random.default_rng(0)
    flipped = sum(transform(rgb, rng)[8, 0, 0] > 128 for _ in range(2000))
    assert stats.binomtest(flipped, 2000).pvalue > 1e-3


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("resize_mode", ["short", "exact"])
def test_flips_by_their_probabilities(resize_mode, backend):
    """Quarters of four levels tell which way round an image is, whatever decodes and resizes it."""
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:16, 16:], rgb[16:, :16], rgb[16:, 16:] = 80, 160, 240
    data = cv2.imencode(".png", rgb)[1].tobytes()

    def corners(flip_prob: float, vertical_flip_prob: float) -> set[int]:
        transform = TrainTransform(
            (16, 16), 1.0, 1.0, 1.0, None, resize_mode=resize_mode, resize_backend=backend, decode_backend=backend,
            flip_prob=flip_prob, vertical_flip_prob=vertical_flip_prob,
        )  # fmt: skip
        rng = np.random.default_rng(0)
        return {round(int(transform.decode(data, "x", rng)[2, 2, 0]), -1) for _ in range(60)}

    assert corners(0, 0) == {0} and corners(1, 0) == {80} and corners(0, 1) == {160} and corners(1, 1) == {240}
    assert corners(0.5, 0) == {0, 80} and corners(0, 0.5) == {0, 160} and corners(0.5, 0.5) == {0, 80, 160, 240}


def test_without_vertical_flips_nothing_else_is_drawn_otherwise():
    """Of the same numbers come the same crops, flips and augmentations as before there was the flag."""
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    seen = []
    transform = TrainTransform((16, 16), operations=(lambda image, rng: seen.append(rng.random()) or image,))
    transform(rgb, np.random.default_rng(5))
    assert seen == [np.random.default_rng(5).random(6)[-1]]


def test_impossible_transforms_are_refused():
    with pytest.raises(FlagError, match="--resize_short_size: 200 is smaller than the crop of --image_shape"):
        EvalTransform((224, 224), 200)
    with pytest.raises(FlagError, match=r"--lower_ratio 1\.5 is above --upper_ratio 1\.2"):
        TrainTransform((224, 224), lower_ratio=1.5, upper_ratio=1.2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize(memory_format):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    result = normalize(images, mean, std, memory_format)
    assert result.is_contiguous(memory_format=memory_format) and result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    half = normalize(images, mean, std, memory_format, torch.bfloat16)
    assert torch.equal(half, result.bfloat16())
