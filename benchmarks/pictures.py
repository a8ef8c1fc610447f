"""Synthetic pictures for benchmarks."""

from __future__ import annotations

import os

import cv2
import numpy as np


def write_pictures(folder: str, count: int) -> None:
    """Writes pictures with about as much detail as photographs: files of about 100 kB."""
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = np.zeros((375, 500, 3), np.float32)
        for cells, strength in ((4, 60), (16, 30), (64, 20), (375, 10)):
            noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
            picture += cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 93]
        cv2.imwrite(os.path.join(folder, f"{number}.jpg"), np.clip(picture + 128, 0, 255).astype(np.uint8), quality)
