"""From decoded pixels to what a network takes: crops and resizing on the processor, normalisation on the device.

Images are uint8, RGB, height x width x channels from the file to the device, where `normalize` turns a batch into the
network's input. Nothing else touches pixel values, so training's validation, eval.py, infer.py and predict.py see the
same numbers for the same image.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from utils.errors import FlagError
from utils.reading.augment import ImageOperation
from utils.reading.decode import Jpeg, decode, decode_region, decode_rows, parse_jpeg

# Flag numbering of --interpolation; None is bilinear.
INTERPOLATIONS = {
    None: cv2.INTER_LINEAR,
    0: cv2.INTER_NEAREST,
    1: cv2.INTER_LINEAR,
    2: cv2.INTER_CUBIC,
    3: cv2.INTER_AREA,
    4: cv2.INTER_LANCZOS4,
}


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Evaluation preprocessing: short side to `resize_short_size`, then the centre crop.

    Attributes:
        image_size: height and width of the crop.
        resize_short_size: length of the short side before the crop.
        interpolation: a key of `INTERPOLATIONS`.
    """

    image_size: tuple[int, int]
    resize_short_size: int = 256
    interpolation: int | None = None

    def __post_init__(self) -> None:
        if self.resize_short_size < max(self.image_size):
            raise FlagError(
                f"--resize_short_size {self.resize_short_size} is smaller than the image "
                f"{self.image_size[0]} x {self.image_size[1]} of --image_shape: the crop would not fit"
            )

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Resizes and crops `rgb`, uint8 (h, w, 3), to `image_size`. Nothing is random: `rng` is not used."""
        height, width = rgb.shape[:2]
        if max(height, width) > 16 * min(height, width):
            # A strip: its far ends are not in the crop, and would take gigabytes to resize.
            top, left = (max(0, side - 16 * min(height, width)) // 2 for side in (height, width))
            return self(rgb[top : height - top, left : width - left][: 16 * width, : 16 * height])
        scale = self.resize_short_size / min(height, width)
        size = round(width * scale), round(height * scale)
        resized = cv2.resize(rgb, size, interpolation=INTERPOLATIONS[self.interpolation])
        top = (size[1] - self.image_size[0]) // 2
        left = (size[0] - self.image_size[1]) // 2
        return resized[top : top + self.image_size[0], left : left + self.image_size[1]]

    def decode(self, data: bytes, path: str, rng: np.random.Generator | None = None) -> np.ndarray:
        """The same from an encoded image; raises `UnreadableImage`."""
        return self(decode(data, path))


def random_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    lower_scale: float = 0.08,
    lower_ratio: float = 3 / 4,
    upper_ratio: float = 4 / 3,
) -> tuple[int, int, int, int]:
    """Draws the box of a training crop, as the original does.

    The sides are side * a and side / a with a = sqrt(U(lower_ratio, upper_ratio)); side^2 is a share of the image's
    area drawn from U(lower_scale, 1), both ends of which are lowered to the largest share that fits this aspect
    ratio. The position is uniform.

    Returns:
        top, left, height, width.
    """
    ratio_draw, share_draw, top_draw, left_draw = rng.random(4)
    aspect = math.sqrt(lower_ratio + (upper_ratio - lower_ratio) * ratio_draw)
    largest = min(width / height / aspect**2, height / width * aspect**2)
    smallest = min(lower_scale, largest)
    side = math.sqrt(height * width * (smallest + (min(1.0, largest) - smallest) * share_draw))
    # Rounding may put a side one pixel past the image, or at 0 in a tiny one.
    crop_width = min(width, max(1, int(side * aspect)))
    crop_height = min(height, max(1, int(side / aspect)))
    left = int(left_draw * (width - crop_width + 1))
    top = int(top_draw * (height - crop_height + 1))
    return top, left, crop_height, crop_width


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Training preprocessing: random crop, resize, horizontal flip with probability 1/2, augmentation.

    Attributes:
        image_size: height and width of the result.
        lower_scale: smallest share of the image's area.
        lower_ratio, upper_ratio: range of the crop's aspect ratio; see `random_crop_box`.
        interpolation: a key of `INTERPOLATIONS`.
        operations: augmentations of the resized image, in this order; see `utils.reading.augment`.
        decoder: of JPEG regions; see `decode_region`.
    """

    image_size: tuple[int, int]
    lower_scale: float = 0.08
    lower_ratio: float = 3 / 4
    upper_ratio: float = 4 / 3
    interpolation: int | None = None
    operations: tuple[ImageOperation, ...] = ()
    decoder: str = "auto"

    def __post_init__(self) -> None:
        if self.lower_ratio > self.upper_ratio:
            raise FlagError(f"--lower_ratio {self.lower_ratio:g} is above --upper_ratio {self.upper_ratio:g}")

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crops `rgb`, uint8 (h, w, 3), at random to `image_size`."""
        top, left, height, width = self._draw_box(*rgb.shape[:2], rng)
        return self._finish(self._resize(rgb[top : top + height, left : left + width]), rng)

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """The same from an encoded image, of which no more is decoded than the crop needs.

        The pixels are those of a full decode. Only where a crop is at least twice as large as `image_size` is the
        file decoded at a reduced size, not below `image_size`: averages then take the place of single pixels, which
        is what interpolation alone would pick. (Not with nearest interpolation, which is meant to pick, nor with
        area interpolation, which averages anyway.)

        Raises:
            UnreadableImage: see `utils.reading.decode`.
        """
        jpeg = parse_jpeg(data, path)
        if jpeg is None:
            return self(decode(data, path), rng)
        box = self._draw_box(jpeg.height, jpeg.width, rng)
        shrink = min(box[2] / self.image_size[0], box[3] / self.image_size[1])
        if shrink < 2 or INTERPOLATIONS[self.interpolation] in (cv2.INTER_NEAREST, cv2.INTER_AREA):
            resized = self._resize(decode_region(jpeg, box, self.decoder))
        else:
            resized = self._resize_reduced(jpeg, box, 2 if shrink < 4 else 4 if shrink < 8 else 8)
        return self._finish(resized, rng)

    def _draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        return random_crop_box(height, width, rng, self.lower_scale, self.lower_ratio, self.upper_ratio)

    def _resize(self, crop: np.ndarray) -> np.ndarray:
        return cv2.resize(crop, self.image_size[::-1], interpolation=INTERPOLATIONS[self.interpolation])

    def _resize_reduced(self, jpeg: Jpeg, box: tuple[int, int, int, int], reduction: int) -> np.ndarray:
        """`_resize` of a box, from the file decoded at a reduced size, where the box has fractional borders."""
        top, left, height, width = box
        reduced = decode_rows(jpeg, top + height, reduction)
        # Pixel centres: column u of the result looks at column left + (u + 1/2) step of the full size, less 1/2.
        step_y, step_x = height / self.image_size[0], width / self.image_size[1]
        matrix = np.array([[step_x, 0, left + step_x / 2], [0, step_y, top + step_y / 2]]) / reduction
        matrix[:, 2] -= 0.5
        flags = INTERPOLATIONS[self.interpolation] | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(reduced, matrix, self.image_size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _finish(self, resized: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """From the resized crop on, where images are small."""
        image = cv2.flip(resized, 1) if rng.random() < 0.5 else resized
        for operation in self.operations:
            image = operation(image, rng)
        return image


@functools.lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """`normalize` as one multiplication and one addition, for pixels in 0..255; each (1, 3, 1, 1) on `device`."""
    mean64, std64 = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
    return (1 / (255 * std64)).to(device, torch.float32), (-mean64 / std64).to(device, torch.float32)


def normalize(
    images: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Turns a batch of the reader's images into a network's input, on the device where the batch is.

    Args:
        images: uint8 (N, height, width, 3), RGB.
        mean, std: per channel, for pixels scaled to 0..1.
        memory_format: of the result; `torch.channels_last` costs no transposition.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (pixel / 255 - mean) / std as (N, 3, height, width).
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format)
    return planes.mul_(scale).add_(shift).to(dtype)
