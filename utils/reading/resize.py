"""Resizing, by OpenCV or by Pillow.

The two are not interchangeable. OpenCV interpolates between neighbouring pixels, however much an image shrinks; Pillow
averages over all pixels that become one (its filter grows with the scale). A network needs the resizing that it was
trained with.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Numbers of --interpolation; None is bilinear.
INTERPOLATIONS = {
    None: cv2.INTER_LINEAR,
    0: cv2.INTER_NEAREST,
    1: cv2.INTER_LINEAR,
    2: cv2.INTER_CUBIC,
    3: cv2.INTER_AREA,
    4: cv2.INTER_LANCZOS4,
}
# Pillow's filters by the same numbers: BILINEAR, NEAREST, BILINEAR, BICUBIC, BOX, LANCZOS. (Pillow is slow to import,
# and most networks do not need it.)
_PILLOW_FILTERS = {None: 2, 0: 0, 1: 2, 2: 3, 3: 4, 4: 1}

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Resizer:
    """Resizes images, uint8 (height, width, 3).

    Attributes:
        interpolation: a key of `INTERPOLATIONS`.
        backend: cv2 or pil, as in --resize_backend.
    """

    interpolation: int | None = None
    backend: str = "cv2"

    def __call__(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """The whole image as (height, width, 3), ignoring its aspect ratio."""
        if self.backend == "cv2":
            return cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[self.interpolation])
        from PIL import Image

        method = Image.Resampling(_PILLOW_FILTERS[self.interpolation])
        picture = Image.fromarray(image)
        if method != Image.Resampling.NEAREST:
            # Pillow filters rows, rounds, and filters columns. From version 13 on it starts with the columns if that is
            # less work, which changes pixels by up to 8 levels. Two separate calls keep the order.
            picture = picture.resize((width, picture.height), method)
        return np.array(picture.resize((width, height), method))

    def into(self, image: np.ndarray, height: int, width: int, fill: Colour) -> np.ndarray:
        """The whole image, keeping its aspect ratio, in the middle of (height, width, 3), with the rest set to
        `fill`.
        """
        scale = min(height / image.shape[0], width / image.shape[1])
        # Rounding may make a side one pixel too long, or a thin one 0.
        rows, columns = (
            max(1, min(room, round(side * scale))) for side, room in zip(image.shape[:2], (height, width), strict=True)
        )
        framed = np.empty((height, width, 3), np.uint8)
        framed[:] = fill
        top, left = (height - rows) // 2, (width - columns) // 2
        framed[top : top + rows, left : left + columns] = self(image, rows, columns)
        return framed


def in_order(rgb: np.ndarray, channel_order: str) -> np.ndarray:
    """An RGB image with its channels in --channel_order, rgb or bgr."""
    return rgb if channel_order == "rgb" else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
