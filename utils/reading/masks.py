"""Augmentation by masking parts of an image. Each takes uint8 (height, width, 3) and a generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from utils.reading.resize import Colour


@dataclass(frozen=True)
class Cutout:
    """Fills a square around a random pixel, as far as it lies inside the image (DeVries & Taylor, arXiv:1708.04552)."""

    length: int
    fill: Colour

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = rng.integers(rgb.shape[0]) - self.length // 2, rng.integers(rgb.shape[1]) - self.length // 2
        rgb = rgb.copy()
        rgb[max(0, top) : max(0, top + self.length), max(0, left) : max(0, left + self.length)] = self.fill
        return rgb


@dataclass(frozen=True)
class RandomErasing:
    """Fills a rectangle of random area and aspect ratio with random pixels (Zhong et al., arXiv:1708.04896, algorithm
    1).

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
class ErasingInside:
    """Fills a rectangle inside the image, like random erasing in timm and PaddleClas, which do so after normalisation;
    noise has that scale.

    Attributes:
        probability: of erasing at all.
        smallest, largest: area, as shares of the image's.
        flattest: the ratio of height to width is drawn from flattest to 1 / flattest.
        log_ratio: draw it uniformly in its logarithm.
        mode: of filling: pixel for normal noise, rand for one random colour, const for the mean colour.
        attempts: to find a rectangle that fits.
        mean, std: of the normalisation, for pixels scaled to 0..1, RGB. Noise is clipped to black and white.
    """

    probability: float = 0.5
    smallest: float = 0.02
    largest: float = 0.4
    flattest: float = 0.3
    log_ratio: bool = False
    mode: str = "const"
    attempts: int = 100
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return rgb
        height, width = rgb.shape[:2]
        for _ in range(self.attempts):
            area = height * width * rng.uniform(self.smallest, self.largest)
            low, high = self.flattest, 1 / self.flattest
            ratio = math.exp(rng.uniform(math.log(low), math.log(high))) if self.log_ratio else rng.uniform(low, high)
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                rgb = rgb.copy()
                rgb[top : top + h, left : left + w] = self._filling(h, w, rng)
                break
        return rgb

    def _filling(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Pixels, uint8 (height, width, 3) or one (1, 1, 3)."""
        shape = {"pixel": (height, width, 3), "rand": (1, 1, 3)}.get(self.mode)
        noise = np.zeros((1, 1, 3)) if shape is None else rng.standard_normal(shape, np.float32)
        return np.clip(np.rint(255 * (np.array(self.mean) + np.array(self.std) * noise)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class HideAndSeek:
    """Hides each cell of a grid with probability 1/2 (Kumar Singh & Lee, arXiv:1704.04232).

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
    """Hides squares on a regular grid (Chen et al., arXiv:2001.04086).

    Attributes:
        fill: colour of the squares.
        smallest, largest: period of the grid in pixels, drawn for each image.
        kept: share of a period between two squares: (1 - kept)^2 of the image is hidden.
        probability: of masking at all. The paper's rises from 0 to 0.8 during training; this is its mean.
        inverse: hide the space between the squares instead.
    """

    fill: Colour
    smallest: int = 96
    largest: int = 224
    kept: float = 0.6
    probability: float = 0.5
    inverse: bool = False

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return rgb
        period = int(rng.integers(self.smallest, self.largest + 1))
        side = period - round(period * self.kept)
        rows, columns = ((np.arange(length) + rng.integers(period)) % period < side for length in rgb.shape[:2])
        hidden = ~np.logical_and.outer(~rows, ~columns) if self.inverse else np.logical_and.outer(rows, columns)
        rgb = rgb.copy()
        rgb[hidden] = self.fill
        return rgb
