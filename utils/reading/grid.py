"""Saves a grid of pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from utils.errors import UserError, reason
from utils.reading.fonts import drawable, fitted

# Minimum width of a caption, in pixels, below narrower pictures.
CAPTION_WIDTH = 120


def write_grid(
    path: str,
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    instead: Sequence[str] | None = None,
) -> None:
    """Writes pictures of one size, uint8 (h, w, 3) RGB, in rows of `columns`, with a line of text below each.

    Args:
        path: of the file; its suffix selects the format.
        pictures, captions: equally many.
        instead: Latin captions, in case no font has the others' letters.

    Raises:
        UserError: it cannot be written.
    """
    height, width = pictures[0].shape[:2]
    text = drawable(captions, captions if instead is None else instead)
    font = text.pillow_font(14)
    # Small pictures are spaced wider, to fit their captions.
    longest = math.ceil(max(map(font.getlength, text.lines)))
    room = max(width, min(longest, CAPTION_WIDTH))
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * (room + 4), rows * (height + 24)), (255, 255, 255))
    pen = ImageDraw.Draw(grid)
    for number, (picture, caption) in enumerate(zip(pictures, text.lines, strict=True)):
        top, left = number // columns * (height + 24), number % columns * (room + 4)
        pen.text((left, top + height + 3), fitted(caption, font, room), (0, 0, 0), font)
        grid.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, top))
    suffix = os.path.splitext(path)[1].lower() or ".png"
    options = [cv2.IMWRITE_JPEG_QUALITY, 85] if suffix in (".jpg", ".jpeg") else []
    try:
        data = cv2.imencode(suffix, np.asarray(grid)[..., ::-1], options)[1].tobytes()
        with open(path, "wb") as file:
            file.write(data)
    except cv2.error:  # OpenCV's message has two lines, with a place in its code
        raise UserError(f"{path}: {suffix} is not a picture format: name it {os.path.basename(path)}.png") from None
    except OSError as error:
        raise UserError(f"{path}: the picture cannot be written ({reason(error)})") from None
