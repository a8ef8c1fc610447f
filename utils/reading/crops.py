"""Evaluation with many crops per image, as published for the Caffe zoo.

12 crops: the image is resized to a square, ignoring its aspect ratio; the crops are the four corners, the centre and
the resized whole square, and their mirror images. 144 crops: the image is resized to four short sides, keeping its
aspect ratio, and three squares along the long side give 12 crops each. Scores are averaged after the softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from utils.reading.decode import decode
from utils.reading.resize import Colour, Resizer

# Side of the crops -> the image's short sides for 144 crops, as published.
SHORT_SIDES = {
    224: (256, 288, 320, 352),
    235: (270, 300, 330, 360),
    299: (320, 352, 384, 416),
    320: (352, 384, 416, 448),
}


def short_sides(crop_size: int) -> tuple[int, ...]:
    """The four short sides for 144 crops; for unpublished sizes, in proportion to those for 224."""
    return SHORT_SIDES.get(crop_size) or tuple(round(crop_size * eighths / 7) for eighths in (8, 9, 10, 11))


def corners_and_centre(side: int, crop_size: int) -> list[tuple[int, int]]:
    """(top, left) of the five crops of a square: the corners, row by row, and the centre."""
    end, middle = side - crop_size, (side - crop_size) // 2
    return [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]


def squares_along(height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of three squares as large as the short side: at both ends of the long side and in its middle."""
    slack = abs(height - width)
    places = (0, slack // 2, slack)
    return [(place, 0) if height > width else (0, place) for place in places]


RESIZE = Resizer()


@dataclass(frozen=True)
class MultiCropTransform:
    """Makes half of an image's crops; the others are their mirror images, made on the device.

    Attributes:
        crop_num: 12 or 144.
        crop_size: side of the crops, which are square.
        base_size: side of the square for 12 crops, at least `crop_size`.
        resize: does all resizing.
        decode_backend, channel_order, background, image_depth_range: as in `utils.reading.transforms.EvalTransform`.
    """

    crop_num: int
    crop_size: int
    base_size: int
    resize: Resizer = RESIZE
    decode_backend: str = "cv2"
    channel_order: str = "rgb"
    background: Colour | None = None
    image_depth_range: tuple[int, int] | None = None

    @property
    def image_size(self) -> tuple[int, int, int]:
        """Crops, height, width: the result's shape without channels."""
        return self.crop_num // 2, self.crop_size, self.crop_size

    def squares(self, rgb: np.ndarray) -> Iterator[np.ndarray]:
        """The squares that give 12 crops each."""
        if self.crop_num == 12:
            yield self.resize(rgb, self.base_size, self.base_size)
            return
        height, width = rgb.shape[:2]
        for side in short_sides(self.crop_size):
            scale = side / min(height, width)
            resized = self.resize(rgb, round(height * scale), round(width * scale))
            for top, left in squares_along(*resized.shape[:2]):
                yield resized[top : top + side, left : left + side]

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """The crops of `rgb`, uint8 (h, w, 3), as (crop_num / 2, crop_size, crop_size, 3)."""
        size = self.crop_size
        crops = np.empty((*self.image_size, 3), np.uint8)
        number = 0
        for square in self.squares(rgb):
            for top, left in corners_and_centre(len(square), size):
                crops[number] = square[top : top + size, left : left + size]
                number += 1
            crops[number] = self.resize(square, size, size)
            number += 1
        return crops if self.channel_order == "rgb" else np.ascontiguousarray(crops[..., ::-1])

    def decode(self, data: bytes, path: str, rng: np.random.Generator | None = None) -> np.ndarray:
        """The same from an encoded image; raises `UnreadableImage`."""
        return self(decode(data, path, self.decode_backend, self.background, self.image_depth_range))
