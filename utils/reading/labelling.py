"""Operations whose random choice may become the image's label: PaddleClas's BlurImage and RandomRot90."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import cv2
import numpy as np

from utils.errors import FlagError


class Labelling(Protocol):
    """An operation whose random choice may be the image's label.

    Attributes:
        count: number of its labels, 0 to count - 1.
    """

    count: ClassVar[int]

    def labelled(self, rgb: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """The image, uint8 (h, w, 3), and its label."""
        ...

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True)
class Blur:
    """A blurred image (1) or the unchanged image (0). Half of the blurs are Gaussian, half are linear motion blur.

    Attributes:
        probability: of a blur.
        gaussian_size, motion_size: kernels have odd sizes from 5 to below this.
        motion_angle: angle to the diagonal, in whole degrees from -motion_angle to below motion_angle.
    """

    probability: float = 0.5
    gaussian_size: int = 12
    motion_size: int = 12
    motion_angle: int = 45
    count: ClassVar[int] = 2

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.labelled(rgb, rng)[0]

    def labelled(self, rgb: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """The image and 1 if it is blurred, else 0."""
        if rng.random() >= self.probability:
            return rgb, 0
        if rng.random() < 0.5:
            width, height = (int(rng.choice(np.arange(5, self.gaussian_size, 2))) for _ in range(2))
            return cv2.GaussianBlur(rgb, (width, height), 0), 1
        size = int(rng.choice(np.arange(5, self.motion_size, 2)))
        return motion_blur(rgb, size, int(rng.integers(-self.motion_angle, self.motion_angle))), 1


def motion_blur(rgb: np.ndarray, size: int, angle: int) -> np.ndarray:
    """An image averaged along a line through `size` pixels, `angle` degrees from the diagonal; then stretched to
    0..255, as in PaddleClas.
    """
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), angle, 1)
    kernel = cv2.warpAffine(np.eye(size), turn, (size, size)) / size
    return cv2.normalize(cv2.filter2D(rgb, -1, kernel), None, 0, 255, cv2.NORM_MINMAX)  # pyright: ignore


@dataclass(frozen=True)
class RandomRot90:
    """Rotates counter-clockwise by 0, 90, 180 or 270 degrees: the number of quarter turns is the label."""

    count: ClassVar[int] = 4

    def __call__(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.labelled(rgb, rng)[0]

    def labelled(self, rgb: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """The image and its number of quarter turns."""
        turns = int(rng.integers(4))
        return np.ascontiguousarray(np.rot90(rgb, turns)), turns


# --label_from -> the operation that chooses the labels.
LABELLING: dict[str, type[Labelling]] = {"blur": Blur, "random_rot90": RandomRot90}


def labelling_of(operations: Iterable[object], name: str, class_dim: int) -> Labelling:
    """The operation that --label_from names.

    Raises:
        FlagError: it is missing or there are several, or the network has another number of classes.
    """
    kind = LABELLING[name]
    found = [operation for operation in operations if isinstance(operation, kind)]
    if len(found) != 1:
        raise FlagError(
            f"--label_from={name} needs exactly one word {name} in --train_transforms, which has {len(found) or 'none'}"
        )
    if class_dim != kind.count:
        raise FlagError(
            f"--label_from={name} makes {kind.count} classes, but --class_dim is {class_dim}: give "
            f"--class_dim={kind.count}"
        )
    return found[0]
