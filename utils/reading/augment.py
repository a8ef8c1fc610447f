"""Augmentation: operations on single images, in the reader's workers, and on whole batches, on the device.

An operation on a single image is called with uint8 (height, width, 3), RGB, and a generator, and returns the same
kind of image. Images are small by then (the network's input size). Everything is done with tables and OpenCV on uint8,
and draws from the generator it is given; torchvision's operations, on Pillow images, take two to eight times as long
and draw from PyTorch's global generator. The definitions are the published ones; where torchvision has an operation,
tests/reading/test_augment.py compares the pixels.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from utils.errors import FlagError

Colour = tuple[int, int, int]
ImageOperation = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# What AutoAugment and its successors put where a turned or shifted image has no pixel.
GREY: Colour = (128, 128, 128)


# ------------------------------------------------------------------------------------ operations with a magnitude
# As Pillow's ImageEnhance and ImageOps define them.


def _look_up(rgb: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Maps values by a table (256,), or (256, 3) with a column per channel."""
    return cv2.LUT(rgb, np.ascontiguousarray(np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, -1)))


_VALUES = np.arange(256, dtype=np.float32)


def adjust_brightness(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Towards black (0) or away from it (above 1)."""
    return _look_up(rgb, _VALUES * np.float32(factor))


def adjust_contrast(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Towards the mean grey of the image (0) or away from it (above 1)."""
    mean = int(cv2.mean(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _look_up(rgb, mean + np.float32(factor) * (_VALUES - mean))


def adjust_saturation(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Towards the grey image (0) or away from it (above 1)."""
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(rgb, factor, grey, 1 - factor, 0)


def adjust_sharpness(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Towards a blurred image (0) or away from it (above 1); the outermost pixels stay."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    result = rgb.copy()
    inner = slice(1, -1), slice(1, -1)
    result[inner] = cv2.addWeighted(rgb, factor, cv2.filter2D(rgb, -1, kernel), 1 - factor, 0)[inner]
    return result


def adjust_hue(rgb: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue by `shift` of the whole circle, -0.5 to 0.5."""
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def posterize(rgb: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the upper `bits` bits."""
    return _look_up(rgb, np.arange(256) & ~((1 << (8 - bits)) - 1))


def solarize(rgb: np.ndarray, threshold: float) -> np.ndarray:
    """Inverts the values from `threshold` on."""
    return _look_up(rgb, np.where(threshold > _VALUES, _VALUES, 255 - _VALUES))


def invert(rgb: np.ndarray) -> np.ndarray:
    """The negative."""
    return cv2.bitwise_not(rgb)


def _histograms(rgb: np.ndarray) -> np.ndarray:
    """How often each channel has each value, int (256, 3)."""
    columns = [cv2.calcHist([rgb], [channel], None, [256], [0, 256]).reshape(-1) for channel in range(3)]
    return np.stack(columns, axis=1).astype(np.int64)


def autocontrast(rgb: np.ndarray) -> np.ndarray:
    """Stretches each channel to 0..255; a channel of a single value stays."""
    present = _histograms(rgb) > 0
    low, high = present.argmax(axis=0).astype(np.float64), 255.0 - present[::-1].argmax(axis=0)
    scale = np.where(high > low, 255 / np.maximum(high - low, 1), 1)
    offset = np.where(high > low, -low * scale, 0)
    return _look_up(rgb, np.arange(256.0)[:, None] * scale + offset)


def equalize(rgb: np.ndarray) -> np.ndarray:
    """Evens out the histogram of each channel; one with too few pixels outside its last value stays."""
    histograms = _histograms(rgb)
    table = np.empty((256, 3), np.int64)
    for channel, histogram in enumerate(histograms.T):
        last = histogram[np.flatnonzero(histogram)[-1]]
        step = (histogram.sum() - last) // 255
        before = np.cumsum(histogram) - histogram
        table[:, channel] = (step // 2 + before) // step if step else np.arange(256)
    return _look_up(rgb, table)


def _warp(rgb: np.ndarray, matrix: list[list[float]], fill: Colour, interpolation: int) -> np.ndarray:
    """Takes pixel (x, y) from matrix (x, y, 1)."""
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(rgb, np.array(matrix, np.float64), rgb.shape[1::-1], flags=flags, borderValue=fill)


def shear_x(rgb: np.ndarray, slope: float) -> np.ndarray:
    """Shifts row y by slope * y."""
    # Both at pixel centres, which lie half a pixel inside.
    return _warp(rgb, [[1, slope, slope / 2], [0, 1, 0]], GREY, cv2.INTER_NEAREST)


def shear_y(rgb: np.ndarray, slope: float) -> np.ndarray:
    """Shifts column x by slope * x."""
    return _warp(rgb, [[1, 0, 0], [slope, 1, slope / 2]], GREY, cv2.INTER_NEAREST)


def translate_x(rgb: np.ndarray, share: float) -> np.ndarray:
    """Shifts by a share of the width, in whole pixels."""
    return _warp(rgb, [[1, 0, -int(share * rgb.shape[1])], [0, 1, 0]], GREY, cv2.INTER_NEAREST)


def translate_y(rgb: np.ndarray, share: float) -> np.ndarray:
    """Shifts by a share of the height, in whole pixels."""
    return _warp(rgb, [[1, 0, 0], [0, 1, -int(share * rgb.shape[0])]], GREY, cv2.INTER_NEAREST)


def rotate(rgb: np.ndarray, degrees: float, fill: Colour = GREY, interpolation: int = cv2.INTER_NEAREST) -> np.ndarray:
    """Turns counter-clockwise about the centre."""
    centre = (rgb.shape[1] - 1) / 2, (rgb.shape[0] - 1) / 2
    matrix = cv2.invertAffineTransform(cv2.getRotationMatrix2D(centre, degrees, 1))
    return _warp(rgb, matrix, fill, interpolation)


# The operations of AutoAugment and RandAugment, each with the largest magnitude; the second group's has a random sign,
# and for the adjustments it is the distance of the factor from 1.
_BY_LEVEL: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "Identity": lambda rgb, level: rgb,
    "Posterize": lambda rgb, level: posterize(rgb, 8 - round(4 * level)),
    "Solarize": lambda rgb, level: solarize(rgb, 255 * (1 - level)),
    "AutoContrast": lambda rgb, level: autocontrast(rgb),
    "Equalize": lambda rgb, level: equalize(rgb),
    "Invert": lambda rgb, level: invert(rgb),
}
_BY_SIGNED_LEVEL: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "ShearX": lambda rgb, level: shear_x(rgb, 0.3 * level),
    "ShearY": lambda rgb, level: shear_y(rgb, 0.3 * level),
    "TranslateX": lambda rgb, level: translate_x(rgb, 150 / 331 * level),
    "TranslateY": lambda rgb, level: translate_y(rgb, 150 / 331 * level),
    "Rotate": lambda rgb, level: rotate(rgb, 30 * level),
    "Brightness": lambda rgb, level: adjust_brightness(rgb, 1 + 0.9 * level),
    "Color": lambda rgb, level: adjust_saturation(rgb, 1 + 0.9 * level),
    "Contrast": lambda rgb, level: adjust_contrast(rgb, 1 + 0.9 * level),
    "Sharpness": lambda rgb, level: adjust_sharpness(rgb, 1 + 0.9 * level),
}


def apply_operation(rgb: np.ndarray, name: str, level: float, rng: np.random.Generator) -> np.ndarray:
    """Applies an operation of AutoAugment.

    Args:
        rgb: uint8 (h, w, 3).
        name: a key of one of the tables above.
        level: share of the largest magnitude, 0 to 1.
        rng: draws the sign, where there is one.
    """
    if name in _BY_SIGNED_LEVEL:
        return _BY_SIGNED_LEVEL[name](rgb, level if rng.random() < 0.5 else -level)
    return _BY_LEVEL[name](rgb, level)


# ----------------------------------------------------------------------------------------------- policies on images

# AutoAugment's policy for ImageNet (Cubuk et al., arXiv:1805.09501, table 9): pairs of operation, probability and
# magnitude from 0 to 9.
IMAGENET_POLICY = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
RANDAUGMENT_OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)


@dataclass(frozen=True)
class AutoAugment:
    """One of the 25 sub-policies for ImageNet, drawn for each image (Cubuk et al., arXiv:1805.09501)."""

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for name, probability, magnitude in IMAGENET_POLICY[rng.integers(len(IMAGENET_POLICY))]:
            if rng.random() < probability:
                rgb = apply_operation(rgb, name, magnitude / 9, rng)
        return rgb


@dataclass(frozen=True)
class RandAugment:
    """Operations drawn at random, all at the same magnitude (Cubuk et al., arXiv:1909.13719).

    Attributes:
        operations: how many per image.
        magnitude: 0 to 30.
    """

    operations: int = 2
    magnitude: float = 9

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for draw in rng.integers(len(RANDAUGMENT_OPERATIONS), size=self.operations):
            rgb = apply_operation(rgb, RANDAUGMENT_OPERATIONS[draw], self.magnitude / 30, rng)
        return rgb


@dataclass(frozen=True)
class RandomRotation:
    """Turns by an angle from U(-degrees, degrees), with bilinear interpolation; the corners are filled with `fill`."""

    degrees: float
    fill: Colour

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rotate(rgb, rng.uniform(-self.degrees, self.degrees), self.fill, cv2.INTER_LINEAR)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors from U(1 - x, 1 + x), not below 0, and the hue by U(-hue, hue) of
    the circle, in random order (as torchvision's)."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        adjustments = (
            (adjust_brightness, self.brightness),
            (adjust_contrast, self.contrast),
            (adjust_saturation, self.saturation),
            (adjust_hue, self.hue),
        )
        for draw in rng.permutation(4):
            adjust, strength = adjustments[draw]
            if not strength:
                continue
            if adjust is adjust_hue:
                rgb = adjust(rgb, rng.uniform(-strength, strength))
            else:
                rgb = adjust(rgb, rng.uniform(max(0.0, 1 - strength), 1 + strength))
        return rgb


# -------------------------------------------------------------------------------------------------- masks on images


@dataclass(frozen=True)
class Cutout:
    """A square about a random pixel is filled, as far as it lies inside the image (DeVries & Taylor,
    arXiv:1708.04552)."""

    length: int
    fill: Colour

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = rng.integers(rgb.shape[0]) - self.length // 2, rng.integers(rgb.shape[1]) - self.length // 2
        rgb = rgb.copy()
        rgb[max(0, top) : max(0, top + self.length), max(0, left) : max(0, left + self.length)] = self.fill
        return rgb


@dataclass(frozen=True)
class RandomErasing:
    """A rectangle of random pixels, of a random area and aspect ratio (Zhong et al., arXiv:1708.04896, algorithm 1).

    Attributes:
        probability: of erasing at all.
        smallest, largest: area, as shares of the image's.
        flattest: the ratio of height to width is drawn from U(flattest, 1 / flattest).
    """

    probability: float = 0.5
    smallest: float = 0.02
    largest: float = 0.4
    flattest: float = 0.3

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return rgb
        height, width = rgb.shape[:2]
        for _ in range(100):
            area = height * width * rng.uniform(self.smallest, self.largest)
            ratio = rng.uniform(self.flattest, 1 / self.flattest)
            h, w = int(math.sqrt(area * ratio)), int(math.sqrt(area / ratio))
            top, left = rng.integers(height), rng.integers(width)
            if top + h <= height and left + w <= width:
                rgb = rgb.copy()
                rgb[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
                break
        return rgb


@dataclass(frozen=True)
class HideAndSeek:
    """The cells of a grid are hidden with probability 1/2 each (Kumar Singh & Lee, arXiv:1704.04232).

    Attributes:
        fill: colour of a hidden cell.
        sizes: side of a cell, drawn for each image; 0 hides nothing.
    """

    fill: Colour
    sizes: tuple[int, ...] = (0, 16, 32, 44, 56)
    probability: float = 0.5

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = self.sizes[rng.integers(len(self.sizes))]
        if not size:
            return rgb
        rgb = rgb.copy()
        height, width = rgb.shape[:2]
        hidden = rng.random((-(-height // size), -(-width // size))) < self.probability
        for row, column in np.argwhere(hidden):
            rgb[row * size : (row + 1) * size, column * size : (column + 1) * size] = self.fill
        return rgb


@dataclass(frozen=True)
class GridMask:
    """Squares on a regular grid are hidden (Chen et al., arXiv:2001.04086).

    Attributes:
        fill: colour of the squares.
        smallest, largest: period of the grid in pixels, drawn for each image.
        kept: share of a period between two squares: (1 - kept)^2 of the image is hidden.
        probability: of masking at all. The paper's rises from 0 to 0.8 during training; this is its mean.
    """

    fill: Colour
    smallest: int = 96
    largest: int = 224
    kept: float = 0.6
    probability: float = 0.5

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return rgb
        period = int(rng.integers(self.smallest, self.largest + 1))
        side = period - round(period * self.kept)
        rows, columns = ((np.arange(length) + rng.integers(period)) % period < side for length in rgb.shape[:2])
        rgb = rgb.copy()
        rgb[np.ix_(rows, columns)] = self.fill
        return rgb


# The flag that asks for an operation.
FLAGS: dict[type, str] = {
    RandomRotation: "random_rotation",
    ColorJitter: "color_jitter",
    AutoAugment: "use_aa",
    RandAugment: "use_ra",
    Cutout: "use_cutout",
    RandomErasing: "random_erasing",
    HideAndSeek: "use_hide_and_seek",
    GridMask: "use_gridmask",
}


def image_operations(args: Namespace) -> tuple[ImageOperation, ...]:
    """The operations that train.py's flags ask for, in the order in which they are applied: rotation, colours,
    policies, masks. Masks are filled with the mean colour, which is 0 after normalisation."""
    mean: Colour = tuple(round(255 * value) for value in args.image_mean)
    operations: list[ImageOperation] = []
    if args.random_rotation:
        operations.append(RandomRotation(args.random_rotation, mean))
    if any(args.color_jitter):
        operations.append(ColorJitter(*_jitter_strengths(args.color_jitter)))
    if args.use_aa:
        operations.append(AutoAugment())
    if args.use_ra:
        operations.append(RandAugment(args.ra_num_ops, args.ra_magnitude))
    if args.use_cutout:
        operations.append(Cutout(args.cutout_length, mean))
    if args.random_erasing:
        operations.append(RandomErasing(args.random_erasing))
    if args.use_hide_and_seek:
        operations.append(HideAndSeek(mean))
    if args.use_gridmask:
        operations.append(GridMask(mean))
    return tuple(operations)


def _jitter_strengths(values: list[float]) -> list[float]:
    """--color_jitter: one value for brightness, contrast and saturation, or one each and perhaps the hue."""
    if len(values) == 1:
        return values * 3
    if len(values) not in (3, 4) or (len(values) == 4 and values[3] > 0.5):
        raise FlagError(
            f"--color_jitter {' '.join(f'{value:g}' for value in values)}: give one value, or brightness, contrast and "
            "saturation, and perhaps the hue (0 to 0.5)"
        )
    return values


# ----------------------------------------------------------------------------------------------------- whole batches
