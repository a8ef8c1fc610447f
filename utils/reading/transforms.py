"""Crops and resizes decoded images on the CPU.

Images are uint8, height x width x channels from the file to the device, where `utils.reading.normalize` turns a batch
into the network's input. They are RGB; conversion to BGR, if the network needs it, is the last step here. Nothing else
changes pixel values, so train.py's validation, eval.py, infer.py and predict.py see the same numbers for the same
image.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from utils.errors import FlagError
from utils.flags.inputs import check_short_size
from utils.reading.augment import ImageOperation
from utils.reading.decode import Jpeg, decode, decode_region, decode_rows, parse_jpeg
from utils.reading.resize import INTERPOLATIONS, Colour, Resizer, in_order

# Maximum pixels of a resized image before cropping: 100 MB.
LARGEST = 1 << 25


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Evaluation preprocessing: resizing and the centre crop.

    Attributes:
        image_size: height and width of the result.
        resize_short_size: see `resize_mode`.
        interpolation: a key of `INTERPOLATIONS`.
        resize_mode: short: resize the short side to `resize_short_size`, or more if the centre crop needs it, and take
            the centre crop; exact: resize to `image_size`, ignoring the aspect ratio; pad: resize to fit into
            `image_size`, and fill the rest; crop: cut out the centre, image_size / resize_short_size of the short side,
            and resize it.
        resize_backend, decode_backend: cv2 or pil; see `Resizer` and `utils.reading.decode`.
        channel_order: of the result, rgb or bgr.
        fill: RGB colour for padding.
        background, image_depth_range: see `utils.reading.decode.decode`.
    """

    image_size: tuple[int, int]
    resize_short_size: int = 256
    interpolation: int | None = None
    resize_mode: str = "short"
    resize_backend: str = "cv2"
    decode_backend: str = "cv2"
    channel_order: str = "rgb"
    fill: Colour = (0, 0, 0)
    background: Colour | None = None
    image_depth_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_short_size(self.resize_short_size, self.image_size, self.resize_mode)

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Resizes and crops `rgb`, uint8 (h, w, 3), to `image_size`. Deterministic: `rng` is not used."""
        resize = Resizer(self.interpolation, self.resize_backend)
        if self.resize_mode == "exact":
            image = resize(rgb, *self.image_size)
        elif self.resize_mode == "pad":
            image = resize.into(rgb, *self.image_size, self.fill)
        elif self.resize_mode == "crop":
            short = min(rgb.shape[:2])
            sides = (max(1, int(side / self.resize_short_size * short)) for side in self.image_size)
            image = resize(_centre(rgb, *sides), *self.image_size)
        else:
            image = _centre(self._short_side_resized(rgb, resize), *self.image_size)
        return in_order(image, self.channel_order)

    def decode(self, data: bytes, path: str, rng: np.random.Generator | None = None) -> np.ndarray:
        """The same from an encoded image; raises `UnreadableImage`."""
        return self(self.decode_whole(data, path))

    def decode_whole(self, data: bytes, path: str) -> np.ndarray:
        """The whole of an encoded image, uint8 (h, w, 3) RGB; raises `UnreadableImage`."""
        return decode(data, path, self.decode_backend, self.background, self.image_depth_range)

    def _short_side_resized(self, rgb: np.ndarray, resize: Resizer) -> np.ndarray:
        """The image, or the middle of a very long one, with a short side of `resize_short_size` or more."""
        height, width = rgb.shape[:2]
        needed = max(self.image_size[0] / height, self.image_size[1] / width)
        scale = max(self.resize_short_size / min(height, width), needed)
        # A long strip: its ends are outside the crop, and would take gigabytes to resize.
        longest = max(16 * min(height, width), int(LARGEST / (min(height, width) * scale**2)))
        if max(height, width) > longest:
            return self._short_side_resized(_centre(rgb, longest, longest), resize)
        return resize(rgb, round(height * scale), round(width * scale))


def _centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image, at most `height` rows and `width` columns of it."""
    top, left = max(0, image.shape[0] - height) // 2, max(0, image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def random_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    lower_scale: float = 0.08,
    lower_ratio: float = 3 / 4,
    upper_ratio: float = 4 / 3,
    log_ratio: bool = False,
) -> tuple[int, int, int, int]:
    """Draws the box of a training crop like the original.

    The sides are side * a and side / a with a = sqrt(U(lower_ratio, upper_ratio)), or with `log_ratio` a ratio uniform
    in its logarithm; side^2 is a fraction of the image's area from U(lower_scale, 1), with both ends limited to the
    largest fraction that fits this aspect ratio. The position is uniform.

    Returns:
        top, left, height, width.
    """
    ratio_draw, share_draw, top_draw, left_draw = rng.random(4)
    if log_ratio:
        aspect = math.sqrt(lower_ratio * (upper_ratio / lower_ratio) ** ratio_draw)
    else:
        aspect = math.sqrt(lower_ratio + (upper_ratio - lower_ratio) * ratio_draw)
    largest = min(width / height / aspect**2, height / width * aspect**2)
    smallest = min(lower_scale, largest)
    side = math.sqrt(height * width * (smallest + (min(1.0, largest) - smallest) * share_draw))
    # Rounding may make a side one pixel too long, or 0 in a tiny image.
    crop_width = min(width, max(1, int(side * aspect)))
    crop_height = min(height, max(1, int(side / aspect)))
    left = int(left_draw * (width - crop_width + 1))
    top = int(top_draw * (height - crop_height + 1))
    return top, left, crop_height, crop_width


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Training preprocessing: random crop, resize, flips, augmentation.

    Attributes:
        image_size: height and width of the result.
        lower_scale: smallest fraction of the image's area.
        lower_ratio, upper_ratio: range of the crop's aspect ratio; see `random_crop_box`.
        interpolation: a key of `INTERPOLATIONS`.
        operations: augmentations of the resized image, in this order; see `utils.reading.augment`.
        decoder: of JPEG regions; see `decode_region`.
        resize_mode: as in `EvalTransform`. With exact or pad and a `lower_scale` of 1, the whole image is resized as in
            evaluation.
        resize_backend, decode_backend, channel_order, fill, background, image_depth_range: as in `EvalTransform`.
        log_ratio: see `random_crop_box`.
        flip_prob, vertical_flip_prob: probability of mirroring left to right, and top to bottom.
    """

    image_size: tuple[int, int]
    lower_scale: float = 0.08
    lower_ratio: float = 3 / 4
    upper_ratio: float = 4 / 3
    interpolation: int | None = None
    operations: tuple[ImageOperation, ...] = ()
    decoder: str = "auto"
    resize_mode: str = "short"
    resize_backend: str = "cv2"
    decode_backend: str = "cv2"
    channel_order: str = "rgb"
    fill: Colour = (0, 0, 0)
    log_ratio: bool = False
    flip_prob: float = 0.5
    vertical_flip_prob: float = 0.0
    background: Colour | None = None
    image_depth_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.lower_ratio > self.upper_ratio:
            raise FlagError(f"--lower_ratio {self.lower_ratio:g} is above --upper_ratio {self.upper_ratio:g}")

    @property
    def whole(self) -> bool:
        """Whether to resize the whole image instead of a crop."""
        return self.lower_scale == 1 and self.resize_mode in ("exact", "pad")

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Randomly crops `rgb`, uint8 (h, w, 3), to `image_size`."""
        if self.whole:
            resize = Resizer(self.interpolation, self.resize_backend)
            pad = self.resize_mode == "pad"
            height, width = self.image_size
            return self._finish(resize.into(rgb, height, width, self.fill) if pad else resize(rgb, height, width), rng)
        top, left, height, width = self._draw_box(rgb.shape[0], rgb.shape[1], rng)
        return self._finish(self._resize(rgb[top : top + height, left : left + width]), rng)

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """The same from an encoded image, of which OpenCV decodes only what the crop needs.

        The pixels equal those of a full decode, except if a crop is at least twice as large as `image_size`: then the
        file is decoded at a reduced size, at least `image_size`, so that pixels are averages instead of the samples
        that interpolation would pick. (Not with nearest interpolation, which should pick, nor with area interpolation
        or Pillow, which average anyway.)

        Raises:
            UnreadableImage: see `utils.reading.decode`.
        """
        jpeg = None if self.whole or self.decode_backend == "pil" else parse_jpeg(data, path)
        if jpeg is None:
            whole = decode(data, path, self.decode_backend, self.background, self.image_depth_range)
            return self(whole, rng)
        box = self._draw_box(jpeg.height, jpeg.width, rng)
        shrink = min(box[2] / self.image_size[0], box[3] / self.image_size[1])
        picks = self.resize_backend == "cv2" and self.interpolation in (None, 1, 2, 4)
        if shrink < 2 or not picks:
            resized = self._resize(decode_region(jpeg, box, self.decoder))
        else:
            resized = self._resize_reduced(jpeg, box, 2 if shrink < 4 else 4 if shrink < 8 else 8)
        return self._finish(resized, rng)

    def _draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        return random_crop_box(height, width, rng, self.lower_scale, self.lower_ratio, self.upper_ratio, self.log_ratio)

    def _resize(self, crop: np.ndarray) -> np.ndarray:
        return Resizer(self.interpolation, self.resize_backend)(crop, *self.image_size)

    def _resize_reduced(self, jpeg: Jpeg, box: tuple[int, int, int, int], reduction: int) -> np.ndarray:
        """`_resize` of a box from the file decoded at a reduced size, where the box has fractional borders."""
        top, left, height, width = box
        reduced = decode_rows(jpeg, top + height, reduction)
        # Pixel centres: column u of the result samples column left + (u + 1/2) step - 1/2 of the full size.
        step_y, step_x = height / self.image_size[0], width / self.image_size[1]
        matrix = np.array([[step_x, 0, left + step_x / 2], [0, step_y, top + step_y / 2]]) / reduction
        matrix[:, 2] -= 0.5
        flags = INTERPOLATIONS[self.interpolation] | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(reduced, matrix, self.image_size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _finish(self, resized: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The steps after resizing, on small images."""
        image = cv2.flip(resized, 1) if rng.random() < self.flip_prob else resized
        # Drawn only if enabled, so that later draws equal those of a run without it.
        if self.vertical_flip_prob and rng.random() < self.vertical_flip_prob:
            image = cv2.flip(image, 0)
        for operation in self.operations:
            image = operation(image, rng)
        return in_order(image, self.channel_order)
