"""A picture of many pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from utils.errors import UserError


def write_grid(path: str, pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> None:
    """Writes pictures of one size, uint8 (h, w, 3) RGB, in rows of `columns`, with a line of text below each."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * (height + 24), columns * (width + 4), 3), 255, np.uint8)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top, left = number // columns * (height + 24), number % columns * (width + 4)
        grid[top : top + height, left : left + width] = picture
        # OpenCV's fonts know ASCII only.
        text = caption.encode("ascii", "replace").decode()
        cv2.putText(
            grid, text, (left + 2, top + height + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA
        )
    suffix = os.path.splitext(path)[1].lower() or ".png"
    options = [cv2.IMWRITE_JPEG_QUALITY, 85] if suffix in (".jpg", ".jpeg") else []
    try:
        data = cv2.imencode(suffix, grid[..., ::-1], options)[1].tobytes()
        with open(path, "wb") as file:
            file.write(data)
    except (cv2.error, OSError) as error:
        raise UserError(f"{path}: the picture cannot be written ({error})") from None
