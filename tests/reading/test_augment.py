"""Every augmentation against its published definition."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from utils.errors import FlagError
from utils.flags import parse
from utils.reading import augment
from utils.reading.augment import (
    AutoAugment,
    ColorJitter,
    Cutout,
    GridMask,
    HideAndSeek,
    RandAugment,
    RandomErasing,
    RandomRotation,
    apply_operation,
    image_operations,
)
from utils.torchvision_compat import import_torchvision
from utils.training.mixing import cutmix, mix, mixup

FILL = (124, 116, 104)


def picture(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """A smooth image with some noise, whose channels do not span 0..255."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(
        rng.integers(30, 200, (5, 7, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return np.clip(coarse + rng.normal(0, 6, coarse.shape), 20, 230).astype(np.uint8)


class Sign:
    """A generator that draws one sign for ever."""

    def __init__(self, sign: int) -> None:
        self.value = 0.1 if sign > 0 else 0.9

    def random(self) -> float:
        return self.value


# ---------------------------------------------------------------------------------- AutoAugment and RandAugment


@pytest.fixture(scope="module")
def torchvision_augment():
    import_torchvision()
    from torchvision.transforms import InterpolationMode, autoaugment

    def apply(rgb: np.ndarray, name: str, magnitude: float) -> np.ndarray:
        image = autoaugment._apply_op(Image.fromarray(rgb), name, magnitude, InterpolationMode.NEAREST, [128, 128, 128])
        return np.asarray(image)

    return autoaugment, apply


def magnitudes(autoaugment, bins: int, size: tuple[int, int]) -> dict:
    """torchvision's table: operation -> (magnitudes, signed)."""
    if bins == 10:
        return autoaugment.AutoAugment()._augmentation_space(bins, size)
    return autoaugment.RandAugment()._augmentation_space(bins, size)


TABLES = ("Brightness", "Contrast", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")
# Magnitude by share of the largest one, for a picture of 96 x 128.
LARGEST = {
    **dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), lambda share: 0.9 * share),
    **dict.fromkeys(("ShearX", "ShearY"), lambda share: 0.3 * share),
    "TranslateX": lambda share: 150 / 331 * 128 * share,
    "TranslateY": lambda share: 150 / 331 * 96 * share,
    "Rotate": lambda share: 30 * share,
    "Posterize": lambda share: 8 - round(4 * share),
    "Solarize": lambda share: round(255 * (1 - share), 9),
}
GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


@pytest.mark.parametrize(
    "name, bins",
    [
        *((name, bins) for name in (*TABLES[:-1], "Color", "Sharpness", *GEOMETRY) for bins in (10, 31)),
        ("Invert", 10),
        ("Identity", 31),
    ],
)
def test_operations_are_torchvisions(name, bins, torchvision_augment):
    """Same magnitude at every level, same pixels: exactly for tables, to a rounding for blends, and to pixels on the
    border between two neighbours for geometry."""
    autoaugment, apply = torchvision_augment
    rgb = picture()
    values, signed = magnitudes(autoaugment, bins, rgb.shape[:2])[name]
    for level in range(0, bins, 3):
        for sign in (1, -1) if signed else (1,):
            magnitude = LARGEST.get(name, lambda share: 0.0)(level / (bins - 1))
            # Their table is float32; the same numbers in float64, so that rounding makes no difference.
            assert magnitude == pytest.approx(float(values[level]) if values.ndim else 0.0, rel=1e-6, abs=1e-4)
            theirs = apply(rgb, name, sign * magnitude).astype(int)
            ours = apply_operation(rgb, name, level / (bins - 1), Sign(sign)).astype(int)
            where = f"{name} at level {level}, sign {sign}"
            if name in GEOMETRY:
                # Where the place looked at is half-way between two pixels, either is right.
                near = [apply(rgb, name, sign * magnitude * factor) for factor in (0.9995, 1.0005)]
                wrong = [(ours != other).any(axis=2) for other in (theirs, *near)]
                assert np.logical_and.reduce(wrong).mean() < 0.005, where
            elif name in ("Color", "Sharpness"):
                assert np.abs(ours - theirs).max() <= 2, where
            else:
                np.testing.assert_array_equal(ours, theirs, where)


def test_every_operation_changes_the_picture():
    rgb = picture()
    for name in {*augment.RANDAUGMENT_OPERATIONS, "Invert"} - {"Identity"}:
        assert (apply_operation(rgb, name, 0.7, Sign(1)) != rgb).any(), name


def test_tables_on_flat_and_extreme_pictures(torchvision_augment):
    _, apply = torchvision_augment
    flat = np.full((8, 8, 3), 77, np.uint8)
    one_channel = picture()
    one_channel[..., 1] = 0
    few = np.zeros((4, 4, 3), np.uint8)
    few[0, 0] = 200
    for rgb in (flat, one_channel, few, np.zeros_like(flat), np.full_like(flat, 255)):
        for name in ("AutoContrast", "Equalize", "Contrast", "Brightness"):
            expected = apply(rgb, name, 0.63)
            np.testing.assert_array_equal(apply_operation(rgb, name, 0.7, Sign(1)), expected, name)


def test_autoaugment_has_the_published_policy(torchvision_augment):
    autoaugment, _ = torchvision_augment
    published = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.IMAGENET).policies
    assert len(published) == len(augment.IMAGENET_POLICY) == 25
    without_magnitude = {"Equalize", "AutoContrast", "Invert"}
    for ours, theirs in zip(augment.IMAGENET_POLICY, published, strict=True):
        for (name, probability, magnitude), expected in zip(ours, theirs, strict=True):
            assert (name, probability, None if name in without_magnitude else magnitude) == expected


def record_operations(monkeypatch) -> list[tuple[str, float]]:
    applied = []
    monkeypatch.setattr(augment, "apply_operation", lambda rgb, name, level, rng: applied.append((name, level)) or rgb)
    return applied


def test_autoaugment_applies_operations_as_often_as_published(monkeypatch):
    applied = record_operations(monkeypatch)
    draws = 20_000
    rng = np.random.default_rng(0)
    for _ in range(draws):
        AutoAugment()(np.zeros((1, 1, 3), np.uint8), rng)
    expected: dict[tuple[str, float], float] = {}
    for pair in augment.IMAGENET_POLICY:
        for name, probability, magnitude in pair:
            key = name, magnitude / 9
            expected[key] = expected.get(key, 0) + probability / 25
    for key, rate in expected.items():
        count = applied.count(key)
        # A count is a sum of at most two-a-draw Bernoulli variables: five standard deviations.
        assert abs(count - draws * rate) <= 5 * math.sqrt(2 * draws * rate) + 1e-9, key
    assert {key for key, rate in expected.items() if rate} == set(applied)


def test_randaugment_draws_evenly(monkeypatch, torchvision_augment):
    autoaugment, _ = torchvision_augment
    assert set(augment.RANDAUGMENT_OPERATIONS) == set(magnitudes(autoaugment, 31, (8, 8)))
    applied = record_operations(monkeypatch)
    rng = np.random.default_rng(0)
    for _ in range(7000):
        RandAugment(2, 9)(np.zeros((1, 1, 3), np.uint8), rng)
    names = [name for name, _ in applied]
    assert len(names) == 14_000 and {level for _, level in applied} == {0.3}
    assert stats.chisquare([names.count(name) for name in augment.RANDAUGMENT_OPERATIONS]).pvalue > 1e-3


def test_signs_are_even():
    rgb = picture(16, 16)
    rng = np.random.default_rng(0)
    brighter = sum(apply_operation(rgb, "Brightness", 0.5, rng).mean() > rgb.mean() for _ in range(2000))
    assert stats.binomtest(brighter, 2000).pvalue > 1e-3


# --------------------------------------------------------------------------------------------- rotation and colour


def test_rotation_turns_about_the_centre():
    """A dot at a known place; right angles; the distribution of the angle."""
    rgb = picture(64, 64)
    np.testing.assert_array_equal(augment.rotate(rgb, 90, FILL, cv2.INTER_LINEAR), np.rot90(rgb))
    dot = np.zeros((65, 65, 3), np.uint8)
    dot[31:34, 51:54] = 255  # 20 to the right of the centre
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(300):
        turned = RandomRotation(25, (0, 0, 0))(dot, rng)[..., 0].astype(float)
        y, x = (np.average(np.arange(65), weights=turned.sum(axis)) for axis in (1, 0))
        assert math.hypot(x - 32, y - 32) == pytest.approx(20, abs=0.3)
        angles.append(math.degrees(math.atan2(32 - y, x - 32)))
    assert stats.kstest(angles, stats.uniform(-25, 50).cdf).pvalue > 1e-3
    corners = RandomRotation(45, FILL)(np.full((64, 64, 3), 7, np.uint8), np.random.default_rng(3))
    assert tuple(corners[0, 0]) == FILL and tuple(corners[32, 32]) == (7, 7, 7)


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.1, 0.37])
def test_hue_turns(shift):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = np.empty((8, 8, 3))
    for place in np.ndindex(8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb[place] / 255)
        expected[place] = [255 * channel for channel in colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)]
    # Hue is a byte here: 1.5 steps of 6 levels of a saturated channel, from the conversion and the shift, and rounding.
    error = augment.adjust_hue(rgb, shift) - expected
    assert np.abs(error).max() <= 11 and np.abs(error).mean() < 2


def test_color_jitter_draws_factors_evenly(monkeypatch):
    drawn: dict[str, list[float]] = {"brightness": [], "contrast": [], "saturation": [], "hue": []}
    orders = set()

    def recorder(name):
        def record(rgb, value):
            drawn[name].append(value)
            order.append(name)
            return rgb

        return record

    for name in drawn:
        monkeypatch.setattr(augment, f"adjust_{name}", recorder(name))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        order: list[str] = []
        ColorJitter(0.4, 1.5, 0.2, 0.1)(np.zeros((1, 1, 3), np.uint8), rng)
        orders.add(tuple(order))
    assert len(orders) == 24
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0, 2.5),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        assert stats.kstest(drawn[name], stats.uniform(low, high - low).cdf).pvalue > 1e-3, name


# ----------------------------------------------------------------------------------------------------------- masks


def coloured(image: np.ndarray) -> np.ndarray:
    """Where an image is not white: bool (height, width)."""
    return (image[..., 0] & image[..., 1] & image[..., 2]) != 255


def masks(operation, count: int, height: int = 224, width: int = 224) -> list[np.ndarray]:
    """Where the operation puts another colour: bool (height, width) each."""
    rng = np.random.default_rng(0)
    white = np.full((height, width, 3), 255, np.uint8)
    fill = np.array(FILL, np.uint8)
    results = []
    for _ in range(count):
        result = operation(white, rng)
        hidden = coloured(result)
        assert np.array_equal(result, np.where(hidden[..., None], fill, white))
        results.append(hidden)
    assert (white == 255).all(), "the operation changed its input"
    return results


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """top, left, bottom, right of a mask that must be one full rectangle."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    assert mask[box[0] : box[2], box[1] : box[3]].all()
    return box


def test_cutout_hides_a_square_about_a_uniform_centre():
    height, width, length = 100, 140, 40
    boxes = np.array([box_of(mask) for mask in masks(Cutout(length, FILL), 3000, height, width)])
    top, left, bottom, right = boxes.T
    whole = (top > 0) & (bottom < height) & (left > 0) & (right < width)
    assert ((bottom - top)[whole] == length).all() and ((right - left)[whole] == length).all()
    # Where a side is cut off by the border, the centre is still where it was drawn.
    centre_y = np.where(top > 0, top + length // 2, bottom - length // 2)
    centre_x = np.where(left > 0, left + length // 2, right - length // 2)
    for centre, size in ((centre_y, height), (centre_x, width)):
        assert stats.kstest(centre + 0.5, stats.uniform(0, size).cdf).pvalue > 1e-3
    expected = np.mean([min(y + 20, height) - max(y - 20, 0) for y in range(height)]) * np.mean(
        [min(x + 20, width) - max(x - 20, 0) for x in range(width)]
    )
    assert np.mean((bottom - top) * (right - left)) == pytest.approx(expected, rel=0.02)


def test_random_erasing_draws_area_and_ratio_as_published():
    """Against a plain simulation of the paper's algorithm, and the fraction of images that are erased."""
    size, count = 224, 3000
    rng = np.random.default_rng(1)
    white = np.full((size, size, 3), 255, np.uint8)
    areas, ratios, erased = [], [], 0
    values = []
    for _ in range(count):
        result = RandomErasing(0.5)(white, rng)
        mask = coloured(result)
        if mask.any():
            erased += 1
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            areas.append(h * w / size**2)
            ratios.append(h / w)
            values.append(result[rows[0], columns[0]])
    assert stats.binomtest(erased, count).pvalue > 1e-3

    reference = np.random.default_rng(2)
    expected_areas, expected_ratios = [], []
    while len(expected_areas) < 20_000:
        area, ratio = reference.uniform(0.02, 0.4) * size**2, reference.uniform(0.3, 1 / 0.3)
        h, w = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if reference.uniform(0, size) + h <= size and reference.uniform(0, size) + w <= size:
            expected_areas.append(int(h) * int(w) / size**2)
            expected_ratios.append(int(h) / int(w))
    assert stats.ks_2samp(areas, expected_areas).pvalue > 1e-3
    assert stats.ks_2samp(ratios, expected_ratios).pvalue > 1e-3
    assert np.mean(values) == pytest.approx(127.5, abs=6)  # noise


def test_hide_and_seek_hides_half_of_the_cells():
    shares: dict[int, list[float]] = {size: [] for size in (0, 16, 32, 44, 56)}
    for size in shares:
        for mask in masks(HideAndSeek(FILL, (size,)), 60):
            if size:
                cells = [mask[y : y + size, x : x + size] for y in range(0, 224, size) for x in range(0, 224, size)]
                assert all(cell.all() or not cell.any() for cell in cells)
                shares[size].append(np.mean([cell.all() for cell in cells]))
            else:
                assert not mask.any()
    for size in (16, 32, 44, 56):
        assert np.mean(shares[size]) == pytest.approx(0.5, abs=0.04)
    untouched = sum(not mask.any() for mask in masks(HideAndSeek(FILL), 1000))
    assert stats.binomtest(untouched, 1000, 0.2).pvalue > 1e-3


def test_gridmask_hides_the_published_share():
    """(1 - r)^2 of the image, in squares whose period is uniform on [96, 224]."""
    shares, periods = [], []
    for mask in masks(GridMask(FILL, probability=1.0), 400, 460, 460):
        shares.append(mask.mean())
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, np.outer(rows, columns))
        starts = [np.flatnonzero(np.diff(line.astype(int)) == 1) for line in (rows, columns)]
        steps = {int(step) for line in starts for step in np.diff(line)}
        assert len(steps) == 1
        periods.append(steps.pop())
    # A pixel's place in the grid is uniform, so it is hidden with that probability in an image of any size.
    assert np.mean(shares) == pytest.approx(0.4**2, abs=0.006)
    assert min(periods) >= 96 and max(periods) <= 224
    assert stats.kstest(np.array(periods) + 0.5, stats.uniform(96, 129).cdf).pvalue > 1e-3
    hidden = sum(mask.any() for mask in masks(GridMask(FILL, smallest=10, largest=20), 1000, 64, 64))
    assert stats.binomtest(hidden, 1000, 0.5).pvalue > 1e-3


# ---------------------------------------------------------------------------------------------------------- batches


def batch(count: int = 8, height: int = 12, width: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is the constant i."""
    labels = torch.arange(count)
    return labels.float().view(-1, 1, 1, 1).expand(-1, 3, height, width).contiguous(), labels


def test_mixup_mixes_images_and_labels_alike():
    weights = []
    for seed in range(500):
        images, labels = batch()
        mixed, targets = mixup(images, labels, 0.2, np.random.default_rng(seed))
        expected = targets.weight * targets.labels + (1 - targets.weight) * targets.mixed_labels
        torch.testing.assert_close(mixed, expected.float().view(-1, 1, 1, 1).expand_as(mixed))
        assert torch.equal(targets.labels, labels)
        assert sorted(targets.mixed_labels.tolist()) == labels.tolist()
        assert torch.equal(images, batch()[0])
        weights.append(targets.weight)
    assert stats.kstest(weights, stats.beta(0.2, 0.2).cdf).pvalue > 1e-3


def test_cutmix_weights_labels_by_the_area():
    shares = []
    for seed in range(1000):
        images, labels = batch()
        mixed, targets = cutmix(images, labels, 1.0, np.random.default_rng(seed))
        for image, own, other in zip(mixed, labels, targets.mixed_labels, strict=True):
            foreign = (image[0] != own).numpy()
            if own == other:
                assert not foreign.any()
            elif targets.weight < 1:
                top, left, bottom, right = box_of(foreign)
                assert (image[:, top:bottom, left:right] == other).all()
                assert targets.weight == pytest.approx(1 - foreign.mean())
        assert torch.equal(images, batch()[0])
        shares.append(1 - targets.weight)
    # The published box: sides by sqrt(1 - Beta(1, 1)), a uniform centre, cut off at the borders.
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(20_000):
        side = math.sqrt(rng.random())
        h, w = int(12 * side), int(20 * side)
        y, x = rng.integers(12), rng.integers(20)
        rows = min(12, y - h // 2 + h) - max(0, y - h // 2)
        columns = min(20, x - w // 2 + w) - max(0, x - w // 2)
        expected.append(rows * columns / 240)
    assert stats.ks_2samp(shares, expected).pvalue > 1e-3


def test_mix_chooses():
    images, labels = batch()
    same, targets = mix(images, labels, 0, 0, np.random.default_rng(0))
    assert same is images and targets.labels is labels and targets.mixed_labels is None
    constant = {(True, False): [], (False, True): [], (True, True): []}
    for (use_mixup, use_cutmix), seen in constant.items():
        for seed in range(400):
            mixed, _ = mix(images, labels, 1.0 * use_mixup, 1.0 * use_cutmix, np.random.default_rng(seed))
            seen.append(bool((mixed == mixed[:, :, :1, :1]).all()))  # mixup leaves constant images constant
    assert all(constant[True, False])
    assert np.mean(constant[False, True]) < 0.2
    assert np.mean(constant[True, True]) == pytest.approx(0.5, abs=0.1)


# ------------------------------------------------------------------------------------------------------------ flags


def test_flags_choose_operations_and_their_order():
    assert image_operations(parse("train", []), FILL) == ()
    flags = (
        "--random_rotation 15 --color_jitter 0.4 --use_aa 1 --use_ra 1 --ra_num_ops 3 --ra_magnitude 12 --use_cutout 1 "
        "--cutout_length 50 --random_erasing 0.25 --use_hide_and_seek 1 --use_gridmask 1"
    )
    assert image_operations(parse("train", flags.split()), FILL) == (
        RandomRotation(15, FILL),
        ColorJitter(0.4, 0.4, 0.4),
        AutoAugment(),
        RandAugment(3, 12),
        Cutout(50, FILL),
        RandomErasing(0.25),
        HideAndSeek(FILL),
        GridMask(FILL),
    )
    for operation in image_operations(parse("train", flags.split()), FILL):
        assert f"--{augment.FLAGS[type(operation)]} " in flags
    (jitter,) = image_operations(parse("train", ["--color_jitter", "0.1", "0.2", "0.3", "0.05"]), FILL)
    assert jitter == ColorJitter(0.1, 0.2, 0.3, 0.05)
    for bad in (["0.1", "0.2"], ["0.1", "0.2", "0.3", "0.6"]):
        with pytest.raises(FlagError, match="--color_jitter"):
            image_operations(parse("train", ["--color_jitter", *bad]), FILL)


@pytest.mark.parametrize(
    "operation",
    [
        AutoAugment(),
        RandAugment(),
        RandomRotation(15, FILL),
        ColorJitter(0.4, 0.4, 0.4, 0.1),
        Cutout(50, FILL),
        RandomErasing(1.0),
        HideAndSeek(FILL),
        GridMask(FILL, probability=1.0),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_operations_depend_on_the_generator_alone(operation):
    rgb = picture(224, 224)
    before = rgb.copy()
    results = [operation(rgb, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4)]
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(results[0], results[1])
    assert any((results[0] != other).any() for other in results[2:])
    assert all(result.shape == rgb.shape and result.dtype == np.uint8 for result in results)
