"""Image operations with a magnitude, as defined by Pillow's ImageEnhance and ImageOps and by AutoAugment.

Images are uint8 (height, width, 3), RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from utils.reading.resize import Colour

# Fill colour of AutoAugment and its successors where a rotated or shifted image has no pixels.
GREY: Colour = (128, 128, 128)


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
    """Rotates the hue by `shift` of the full circle, -0.5 to 0.5."""
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
    """Equalizes the histogram of each channel; one with too few pixels outside its last value stays."""
    histograms = _histograms(rgb)
    table = np.empty((256, 3), np.int64)
    for channel, histogram in enumerate(histograms.T):
        last = histogram[np.flatnonzero(histogram)[-1]]
        step = (histogram.sum() - last) // 255
        before = np.cumsum(histogram) - histogram
        table[:, channel] = (step // 2 + before) // step if step else np.arange(256)
    return _look_up(rgb, table)


def _warp(
    rgb: np.ndarray, matrix: Sequence[Sequence[float]] | np.ndarray, fill: Colour, interpolation: int
) -> np.ndarray:
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


# The operations of AutoAugment and RandAugment, each with its largest magnitude; in the second group it has a random
# sign, and for the adjustments it is the factor's distance from 1.
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
        level: fraction of the largest magnitude, 0 to 1.
        rng: draws the sign, if any.
    """
    if name in _BY_SIGNED_LEVEL:
        return _BY_SIGNED_LEVEL[name](rgb, level if rng.random() < 0.5 else -level)
    return _BY_LEVEL[name](rgb, level)
