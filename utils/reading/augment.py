"""Augmentation of single images, in the reader's workers.

An operation takes uint8 (height, width, 3), RGB, and a generator, and returns the same kind of image. Images already
have the network's input size. Operations use tables and OpenCV on uint8, and draw only from the given generator;
torchvision's operations, on Pillow images, take two to eight times as long and draw from PyTorch's global generator.
The definitions are the published ones; tests/reading/test_augment.py compares the pixels with torchvision's.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from utils.errors import FlagError
from utils.reading.masks import Cutout, GridMask, HideAndSeek, RandomErasing
from utils.reading.operations import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    apply_operation,
    rotate,
)
from utils.reading.resize import Colour

ImageOperation = Callable[[np.ndarray, np.random.Generator], np.ndarray]

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
    """Rotates by an angle from U(-degrees, degrees), with bilinear interpolation; fills the corners with `fill`."""

    degrees: float
    fill: Colour

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rotate(rgb, rng.uniform(-self.degrees, self.degrees), self.fill, cv2.INTER_LINEAR)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors from U(1 - x, 1 + x), not below 0, and the hue by U(-hue, hue) of
    the circle, in random order (as in torchvision).
    """

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


# The flag for each operation.
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


def image_operations(args: Namespace, mean: Colour) -> tuple[ImageOperation, ...]:
    """The operations that train.py's flags ask for, in order: rotation, colours, policies, masks. Masks use the colour
    `mean`.
    """
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
        operations.append(Cutout(_cutout_length(args), mean))
    if args.random_erasing:
        operations.append(RandomErasing(args.random_erasing))
    if args.use_hide_and_seek:
        operations.append(HideAndSeek(mean))
    if args.use_gridmask:
        operations.append(GridMask(mean))
    return tuple(operations)


def _cutout_length(args: Namespace) -> int:
    """--cutout_length; raises `FlagError` if it would hide whole images."""
    side = min(args.image_shape[1:])
    if args.cutout_length >= side:
        raise FlagError(
            f"--cutout_length {args.cutout_length} hides whole images of {args.image_shape[1]} x "
            f"{args.image_shape[2]}: lower it, for example to {max(1, side // 2)}"
        )
    return args.cutout_length


def _jitter_strengths(values: list[float]) -> list[float]:
    """--color_jitter: one value for brightness, contrast and saturation, or one each and optionally the hue."""
    if len(values) == 1:
        return values * 3
    if len(values) not in (3, 4) or (len(values) == 4 and values[3] > 0.5):
        raise FlagError(
            f"--color_jitter {' '.join(f'{value:g}' for value in values)}: give one value, or brightness, contrast, "
            "saturation and optionally hue (0 to 0.5)"
        )
    return values
