"""Custom training pipelines, and operations used only there: see `utils.reading.words`."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from utils.reading.augment import ImageOperation
from utils.reading.decode import decode
from utils.reading.labelling import Labelling
from utils.reading.resize import Colour, Resizer, in_order
from utils.reading.transforms import TrainTransform


@dataclass(frozen=True)
class Pipeline:
    """Training preprocessing: a sequence of operations on the decoded image.

    Attributes:
        operations: each from uint8 (h, w, 3), RGB, to one of the same kind; the last result has `image_size`.
        image_size: height and width of the result.
        decode_backend, channel_order: as in `EvalTransform`.
    """

    operations: tuple[ImageOperation, ...]
    image_size: tuple[int, int]
    decode_backend: str = "cv2"
    channel_order: str = "rgb"

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Makes training pixels of `rgb`, uint8 (h, w, 3)."""
        return self._apply(self.operations, rgb, rng)

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """The same from an encoded image; if a random crop comes first, decodes only what it needs. Raises
        `UnreadableImage`.
        """
        return self._apply(*self._begun(data, path, rng), rng)

    def _begun(self, data: bytes, path: str, rng: np.random.Generator) -> tuple[tuple[ImageOperation, ...], np.ndarray]:
        """The decoded, perhaps cropped image, and the remaining operations."""
        first, *rest = self.operations
        if isinstance(first, RandomResizedCrop):
            return tuple(rest), first.decode(data, path, rng)
        return self.operations, decode(data, path, self.decode_backend)

    def _apply(self, operations: tuple[ImageOperation, ...], rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for operation in operations:
            rgb = operation(rgb, rng)
        return in_order(rgb, self.channel_order)


@dataclass(frozen=True, kw_only=True)
class LabellingPipeline(Pipeline):
    """A pipeline that sets the labels (--label_from).

    Attributes:
        labelling: the one of `operations` that chooses the label.
    """

    labelling: Labelling

    def decode_labelled(self, data: bytes, path: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """The pixels, as `decode` makes them, and the label."""
        operations, rgb = self._begun(data, path, rng)
        label = -1
        for operation in operations:
            if operation is self.labelling:
                rgb, label = self.labelling.labelled(rgb, rng)
            else:
                rgb = operation(rgb, rng)
        return in_order(rgb, self.channel_order), label


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random crop, resized. Each image uses a random one of `crops`, which differ in how they resize."""

    crops: tuple[TrainTransform, ...]

    def _crop(self, rng: np.random.Generator) -> TrainTransform:
        return self.crops[0] if len(self.crops) == 1 else self.crops[rng.integers(len(self.crops))]

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._crop(rng)(rgb, rng)

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        """The same from an encoded image; raises `UnreadableImage`."""
        return self._crop(rng).decode(data, path, rng)


@dataclass(frozen=True)
class Resize:
    """Resizes to a height and width, or the short side to a single number."""

    size: tuple[int, int] | int
    resizer: Resizer = field(default_factory=Resizer)

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not isinstance(self.size, int):
            return self.resizer(rgb, *self.size)
        scale = self.size / min(rgb.shape[:2])
        height, width = (max(self.size, round(side * scale)) for side in rgb.shape[:2])
        return self.resizer(rgb, height, width)


@dataclass(frozen=True)
class Crop:
    """Crops to a height and width, at random or in the centre; the image must be at least as large."""

    size: tuple[int, int]
    random: bool

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        spare = [have - wanted for have, wanted in zip(rgb.shape[:2], self.size, strict=True)]
        top, left = (int(rng.integers(room + 1)) if self.random else room // 2 for room in spare)
        return rgb[top : top + self.size[0], left : left + self.size[1]]


@dataclass(frozen=True)
class Pad:
    """Pads to a height and width, with the image in the middle, at the top left or at the bottom right; it must not be
    larger.
    """

    size: tuple[int, int]
    fill: Colour
    place: str = "center"

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        share = {"center": 2, "top_left": 0, "bottom_right": 1}[self.place]
        spare = [frame - have for frame, have in zip(self.size, rgb.shape[:2], strict=True)]
        top, left = (room // share if share else 0 for room in spare)
        framed = np.empty((*self.size, 3), np.uint8)
        framed[:] = self.fill
        framed[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
        return framed


@dataclass(frozen=True)
class Flip:
    """Mirrors left to right (1), top to bottom (0) or both (-1: OpenCV's numbers), with a probability."""

    probability: float = 0.5
    code: int = 1

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.flip(rgb, self.code) if rng.random() < self.probability else rgb


@dataclass(frozen=True)
class Sometimes:
    """An operation with a probability."""

    operation: ImageOperation
    probability: float

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.operation(rgb, rng) if rng.random() < self.probability else rgb


@dataclass(frozen=True)
class Lighting:
    """Adds colour along the principal components of ImageNet's colours (Krizhevsky et al., NIPS 2012).

    Attributes:
        deviation: standard deviation of the three components' weights.
    """

    deviation: float = 0.1

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        cast = 255 * _COMPONENTS @ (_VARIANCES * rng.normal(0, self.deviation, 3))
        return np.clip(np.rint(rgb + cast), 0, 255).astype(np.uint8)


# Of the colours of ImageNet's pixels, scaled to 0..1: as published with Torch's training of ResNets.
_VARIANCES = np.array([0.2175, 0.0188, 0.0045])
_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
