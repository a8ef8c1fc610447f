"""More random policies: timm's RandAugment, and PaddleClas's three.

Each draws operations with a magnitude. As in the originals, Pillow rotates, shears and shifts, which gives the same
pixels; the rest is in `utils.reading.operations`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.reading.operations import (
    GREY,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    invert,
    posterize,
    solarize,
)
from utils.reading.resize import Colour

# Pillow's filters.
NEAREST, BILINEAR, BICUBIC = Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def _affine(rgb: np.ndarray, matrix: tuple[float, ...], resample: Image.Resampling, fill: Colour) -> np.ndarray:
    picture = Image.fromarray(rgb)
    return np.array(picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill))


def _rotate(rgb: np.ndarray, degrees: float, resample: Image.Resampling, fill: Colour) -> np.ndarray:
    return np.array(Image.fromarray(rgb).rotate(degrees, resample, fillcolor=fill))


def solarize_add(rgb: np.ndarray, amount: int) -> np.ndarray:
    """Adds to the values below 128, up to 255."""
    return np.where(rgb < 128, np.minimum(rgb.astype(np.int32) + amount, 255), rgb).astype(np.uint8)


def _cutout(rgb: np.ndarray, half: int, fill: Colour, rng: np.random.Generator) -> np.ndarray:
    """Hides a square of 2 x `half` pixels around a random place, which may be at the image's edges."""
    row, column = (int(rng.integers(length + 1)) for length in rgb.shape[:2])
    rgb = rgb.copy()
    rgb[max(0, row - half) : row + half, max(0, column - half) : column + half] = fill
    return rgb


Turn = Callable[[np.ndarray, float, Image.Resampling, Colour], np.ndarray]

# Operations that move pixels, by an angle, a slope, pixels or a fraction of the side.
_TURNS: dict[str, Turn] = {
    "Rotate": _rotate,
    "ShearX": lambda rgb, x, how, fill: _affine(rgb, (1, x, 0, 0, 1, 0), how, fill),
    "ShearY": lambda rgb, x, how, fill: _affine(rgb, (1, 0, 0, x, 1, 0), how, fill),
    "TranslateX": lambda rgb, x, how, fill: _affine(rgb, (1, 0, x, 0, 1, 0), how, fill),
    "TranslateY": lambda rgb, x, how, fill: _affine(rgb, (1, 0, 0, 0, 1, x), how, fill),
    "TranslateXRel": lambda rgb, x, how, fill: _affine(rgb, (1, 0, x * rgb.shape[1], 0, 1, 0), how, fill),
    "TranslateYRel": lambda rgb, x, how, fill: _affine(rgb, (1, 0, 0, 0, 1, x * rgb.shape[0]), how, fill),
}
# Operations that change values, by a factor, a number of bits, a threshold or a number.
_CHANGES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "Color": adjust_saturation,
    "Contrast": adjust_contrast,
    "Brightness": adjust_brightness,
    "Sharpness": adjust_sharpness,
    "Posterize": lambda rgb, x: rgb if x >= 8 else posterize(rgb, int(x)),
    "Solarize": solarize,
    "SolarizeAdd": lambda rgb, x: solarize_add(rgb, int(x)),
    "AutoContrast": lambda rgb, x: autocontrast(rgb),
    "Equalize": lambda rgb, x: equalize(rgb),
    "Invert": lambda rgb, x: invert(rgb),
}


@dataclass(frozen=True)
class Strength:
    """The strength of an operation at a level, which is 1 at magnitude 10: base + slope level; `signed`: on either side
    of the base; `whole`: a whole number.
    """

    slope: float = 0.0
    base: float = 0.0
    signed: bool = False
    whole: bool = False

    def at(self, level: float, rng: np.random.Generator) -> float:
        """The amount, with a random sign if `signed`."""
        amount = int(self.slope * level) if self.whole else self.slope * level
        return self.base + (-amount if self.signed and rng.random() < 0.5 else amount)


def apply(
    rgb: np.ndarray, name: str, amount: float, resample: Image.Resampling, fill: Colour, rng: np.random.Generator
) -> np.ndarray:
    """Applies an operation of the tables below by an amount; `rng` draws the place of a cutout."""
    if name in _TURNS:
        return _TURNS[name](rgb, amount, resample, fill)
    return _cutout(rgb, int(amount), fill, rng) if name == "Cutout" else _CHANGES[name](rgb, amount)


_NONE = Strength()
_FIXED = {"AutoContrast": _NONE, "Equalize": _NONE, "Invert": _NONE}
_ENHANCED = ("Color", "Contrast", "Brightness", "Sharpness")
_TIMM_TURNS = {
    "Rotate": Strength(30, signed=True),
    "ShearX": Strength(0.3, signed=True),
    "ShearY": Strength(0.3, signed=True),
    "TranslateXRel": Strength(0.45, signed=True),
    "TranslateYRel": Strength(0.45, signed=True),
}
# timm's operations with `inc1`, and without it, where not all become stronger with the magnitude.
TIMM_INCREASING = {
    **_FIXED,
    **_TIMM_TURNS,
    "Posterize": Strength(-4, 4, whole=True),
    "Solarize": Strength(-256, 256, whole=True),
    "SolarizeAdd": Strength(110, whole=True),
    **{name: Strength(0.9, 1, signed=True) for name in _ENHANCED},
}
TIMM = {
    **_FIXED,
    **_TIMM_TURNS,
    "Posterize": Strength(4, whole=True),
    "Solarize": Strength(256, whole=True),
    "SolarizeAdd": Strength(110, whole=True),
    **{name: Strength(1.8, 0.1) for name in _ENHANCED},
}


@dataclass(frozen=True)
class TimmAugment:
    """timm's RandAugment, which PaddleClas's TimmAutoAugment copies.

    Attributes:
        magnitude: mean per operation, 0 to 10; above that, nearly all are 10.
        deviation: standard deviation of the magnitudes, drawn from a normal distribution and clipped to 0..10.
        count: operations per image; each is skipped with probability 1/2.
        increasing: all become stronger with the magnitude.
        resamples: filters, one of which is drawn for each rotation.
        fill: colour of the exposed edges.
    """

    magnitude: float = 9
    deviation: float = 0.5
    count: int = 2
    increasing: bool = True
    resamples: tuple[Image.Resampling, ...] = (BICUBIC,)
    fill: Colour = GREY

    @classmethod
    def parse(cls, policy: str, resamples: tuple[Image.Resampling, ...], fill: Colour) -> TimmAugment:
        """Parses timm's notation, such as rand-m9-mstd0.5-inc1; raises ValueError with the invalid part."""
        kind, *parts = policy.split("-")
        if kind != "rand":
            raise ValueError(f"{kind!r}: only rand-... policies are supported, such as rand-m9-mstd0.5-inc1")
        found = {"m": 10.0, "mstd": 0.0, "n": 2.0, "inc": 0.0}
        for part in parts:
            match = re.fullmatch(r"(m|mstd|n|inc)(\d+(?:\.\d+)?)", part)
            if match is None:
                raise ValueError(f"{part!r} is not m, mstd, n or inc with a number")
            found[match[1]] = float(match[2])
        if not (found["m"] <= 30 and 1 <= found["n"] <= 100):
            raise ValueError("give m up to 30 and n from 1 to 100")
        return cls(found["m"], found["mstd"], int(found["n"]), bool(found["inc"]), resamples, fill)

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        table = TIMM_INCREASING if self.increasing else TIMM
        names = tuple(table)
        for draw in rng.integers(len(names), size=self.count):
            if rng.random() >= 0.5:
                continue
            level = min(10.0, max(0.0, rng.normal(self.magnitude, self.deviation))) / 10
            resample = self.resamples[rng.integers(len(self.resamples))]
            rgb = apply(rgb, names[draw], table[names[draw]].at(level, rng), resample, self.fill, rng)
        return rgb


_PADDLE_TURNS = {
    "ShearX": Strength(0.3, signed=True),
    "ShearY": Strength(0.3, signed=True),
    "TranslateXRel": Strength(150 / 331, signed=True),
    "TranslateYRel": Strength(150 / 331, signed=True),
}
# The operations of PaddleClas's RandAugment, RandAugmentV2 (EfficientNetV2) and RandAugmentV3 (MobileViTV2). The
# first keeps fewer bits, and inverts more, at small magnitudes.
PADDLECLAS = {
    1: {
        **_FIXED,
        **_PADDLE_TURNS,
        "Rotate": Strength(30),
        **{name: Strength(0.9, 1, signed=True) for name in _ENHANCED},
        "Posterize": Strength(4, whole=True),
        "Solarize": Strength(256),
    },
    2: {
        **_FIXED,
        "ShearX": Strength(0.3, signed=True),
        "ShearY": Strength(0.3, signed=True),
        "TranslateX": Strength(100, signed=True),
        "TranslateY": Strength(100, signed=True),
        "Rotate": Strength(30, signed=True),
        **{name: Strength(1.8, 0.1) for name in _ENHANCED},
        "Posterize": Strength(4, whole=True),
        "Solarize": Strength(256, whole=True),
        "SolarizeAdd": Strength(110, whole=True),
        "Cutout": Strength(40, whole=True),
    },
    3: {
        **_FIXED,
        **_PADDLE_TURNS,
        "Rotate": Strength(30, signed=True),
        **{name: Strength(0.9, 1, signed=True) for name in _ENHANCED},
        "Posterize": Strength(-4, 8, whole=True),
        "Solarize": Strength(-255, 255),
    },
}


@dataclass(frozen=True)
class PaddleRandAugment:
    """One of PaddleClas's RandAugments.

    Attributes:
        version: 1, 2 or 3.
        count: operations drawn for each image.
        magnitude: of all operations, intended up to 10.
        resample: for shears and, except in version 1, shifts and rotations. (Version 1 uses the nearest pixel there.)
        fill: colour of the exposed edges.
    """

    version: int
    count: int = 2
    magnitude: float = 5
    resample: Image.Resampling = BICUBIC
    fill: Colour = GREY

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        table = PADDLECLAS[self.version]
        names = tuple(table)
        for draw in rng.integers(len(names), size=self.count):
            name = names[draw]
            nearest = self.version == 1 and not name.startswith("Shear")
            resample = NEAREST if nearest else self.resample
            rgb = apply(rgb, name, table[name].at(self.magnitude / 10, rng), resample, self.fill, rng)
        return rgb
