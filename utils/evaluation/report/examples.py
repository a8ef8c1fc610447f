"""The images that a report shows: small, as data in the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import FlagError
from utils.evaluation.pictures import grad_cam, overlay
from utils.reading.decode import UnreadableImage
from utils.reading.image_list import ImageList
from utils.reading.transforms import EvalTransform

# Longest side of a picture, in pixels, and the quality of its JPEG.
SIDE, QUALITY = 160, 82
# Images that Grad-CAM looks at together.
AT_ONCE = 8


def data_url(data: bytes, kind: str) -> str:
    """An image file as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def as_jpeg(rgb: np.ndarray) -> str:
    """Pixels, uint8 (h, w, 3) RGB, as an address."""
    return data_url(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes(), "jpeg")


class Examples:
    """Pictures of the images of a list, read again: few of them, and each once.

    Args:
        images: the list.
        transform: that of the evaluation.
    """

    def __init__(self, images: ImageList, transform: EvalTransform) -> None:
        self.images = images
        self.transform = transform
        self._made: dict[int, str] = {}

    def picture(self, row: int) -> str:
        """The whole image as an address; empty if it has become unreadable since."""
        if row not in self._made:
            try:
                whole = self.transform.decode_whole(self.images.read(row), self.images.path(row))
                self._made[row] = as_jpeg(_small(whole))
            except (UnreadableImage, cv2.error):
                self._made[row] = ""
        return self._made[row]

    def seen(self, rows: Sequence[int]) -> Tensor:
        """What the network sees of images, uint8 (n, H, W, 3)."""
        return torch.stack(
            [
                torch.from_numpy(self.transform.decode(self.images.read(row), self.images.path(row)).copy())
                for row in rows
            ]
        )


def _small(rgb: np.ndarray) -> np.ndarray:
    """An image, made so much smaller that it fits into `SIDE`."""
    scale = SIDE / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def attention(
    model: nn.Module,
    examples: Examples,
    rows: Sequence[int],
    classes: Sequence[int],
    prepare: Callable[[Tensor], Tensor],
) -> list[str]:
    """Where the network saw what speaks for a class, a picture for each image; none if it has no map to tell by.

    Args:
        model: in evaluation mode.
        examples: of the images.
        rows: their places in the list.
        classes: a class for each.
        prepare: uint8 (n, H, W, 3) on the processor to the network's input.
    """
    found = []
    try:
        for start in range(0, len(rows), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            pixels = examples.seen(rows[part])
            heats = grad_cam(model, prepare(pixels), classes[part]).cpu().numpy()
            rgb = pixels.numpy() if examples.transform.channel_order == "rgb" else pixels.numpy()[..., ::-1]
            found += [as_jpeg(_small(overlay(image, heat))) for image, heat in zip(rgb, heats, strict=True)]
    except (FlagError, UnreadableImage):
        return []
    return found
