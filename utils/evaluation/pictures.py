"""Pictures of a network's input, its predictions and its Grad-CAM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from utils.console import warn
from utils.errors import FlagError, UserError, one_line
from utils.evaluation.predictions import Prediction
from utils.reading.fonts import drawable, fitted

# Minimum height and width of a map to locate something.
FINE = 4

PANEL_WIDTH = 300
ROW_HEIGHT = 44
INK, BAR, TRACK, PAPER = (30, 30, 30), (66, 103, 172), (230, 232, 238), (255, 255, 255)


def grad_cam(model: nn.Module, images: Tensor, classes: Sequence[int]) -> Tensor:
    """Where a network saw evidence for a class (Grad-CAM, Selvaraju et al., arXiv:1610.02391).

    Sums the last feature map's channels, weighted by the mean gradient of the class; negative values, evidence for
    other classes, become 0. If small images make the last map smaller than `FINE` x `FINE`, it uses the last finer map,
    if there is one.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W), normalized.
        classes: N class numbers.

    Returns:
        (N, H, W), from 0 to 1, the maximum of each image (unless there is no evidence for the class).

    Raises:
        FlagError: the network does not end with a feature map.
    """
    maps: list[Tensor] = []
    fine: list[Tensor] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() > 2 and output.shape[2:].numel() > 1:
            maps[:] = [output]
            if output.dim() == 4 and len(output) == len(images) and min(_sides(output)) >= FINE:
                fine[:] = [output]

    hooks = [module.register_forward_hook(note) for module in model.modules() if module is not model]
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_())
            if not maps or maps[0].dim() != 4:
                raise FlagError(
                    f"--grad_cam: {type(model).__name__} does not end with a feature map: leave the flag out"
                )
            score = logits.gather(1, torch.as_tensor(classes, device=logits.device)[:, None]).sum()
            chosen = maps[0]
            if min(_sides(chosen)) < FINE:
                chosen = fine[0] if fine else chosen
                _note_coarse(_sides(maps[0]), _sides(chosen))
            (gradient,) = torch.autograd.grad(score, chosen)
    finally:
        for hook in hooks:
            hook.remove()
    features, gradient = _channels_first(chosen.detach()), _channels_first(gradient)
    heat = (features * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu().float()
    heat = F.interpolate(heat, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def _channels_first(features: Tensor) -> Tensor:
    """A feature map as (N, C, H, W), converted from (N, H, W, C) if necessary."""
    by_place = features.shape[1] == features.shape[2] != features.shape[3]
    return features.permute(0, 3, 1, 2) if by_place else features


def _sides(features: Tensor) -> tuple[int, int]:
    """Height and width of a feature map."""
    height, width = _channels_first(features).shape[2:]
    return height, width


@cache
def _note_coarse(last: tuple[int, int], shown: tuple[int, int]) -> None:
    """Warns once per network that its last feature map is too coarse."""
    what = (
        "and no earlier one is finer" if shown == last else f"the map shown is an earlier one, {shown[0]} x {shown[1]}"
    )
    warn(f"Grad-CAM: the last feature map is {last[0]} x {last[1]}, too coarse to show where something is; {what}")


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image, uint8 (H, W, 3) RGB, overlaid with a heat map of `heat`, (H, W) from 0 to 1."""
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    opacity = 0.55 * heat[..., None]
    return (pixels * (1 - opacity) + colours * opacity).astype(np.uint8)


def draw(pixels: np.ndarray, prediction: Prediction, heat: np.ndarray | None = None) -> Image.Image:
    """An image as the network saw it, next to a bar chart of its best classes.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        prediction: of that image.
        heat: (H, W) from 0 to 1; shows the image a second time, overlaid with it.
    """
    views = [pixels] if heat is None else [pixels, overlay(pixels, heat)]
    scale = max(1, round(224 / len(pixels)))  # even digits of 8 pixels should be visible
    views = [view.repeat(scale, 0).repeat(scale, 1) for view in views]
    width = sum(view.shape[1] for view in views)
    height = max(views[0].shape[0], ROW_HEIGHT * len(prediction.score) + 34)
    picture = Image.new("RGB", (width + PANEL_WIDTH, height), PAPER)
    left = 0
    for view in views:
        picture.paste(Image.fromarray(view), (left, 0))
        left += view.shape[1]
    pen = ImageDraw.Draw(picture)
    numbers = [f"class {number}" for number in prediction.classes]
    names = [name or number for name, number in zip_longest(prediction.class_name or [], numbers)]
    text = drawable(names, numbers)
    title = drawable([prediction.image], [prediction.image.encode("ascii", "replace").decode()])
    font, small = text.pillow_font(15), title.pillow_font(12)
    left, right = width + 12, width + PANEL_WIDTH - 12
    pen.text((left, 8), fitted(title.lines[0], small, right - left), INK, small)
    for row, (score, name) in enumerate(zip(prediction.score, text.lines, strict=True)):
        top = 30 + row * ROW_HEIGHT
        percent = f"{score:.1%}"
        room = right - left - font.getlength(percent) - 8
        pen.text((left, top), fitted(name, font, room), INK, font)
        pen.text((right - font.getlength(percent), top), percent, INK, font)
        pen.rectangle((left, top + 22, right, top + 32), TRACK)
        if score > 0:
            pen.rectangle((left, top + 22, left + score * (right - left), top + 32), BAR)
    return picture


def save_picture(picture: Image.Image, folder: str, image: str) -> None:
    """Writes a picture to `folder`, with the name and folders of the image file `image`.

    Pictures of images elsewhere also stay in `folder`: `/a/b.jpg` becomes a/b.jpg, and `../b.jpg` _/b.jpg.

    Raises:
        UserError: it cannot be written.
    """
    parts = ["_" if part == os.pardir else part for part in os.path.normpath(image).lstrip(os.sep).split(os.sep)]
    name = os.path.join(*parts)
    path = Path(folder, name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=92)
    except OSError as error:
        raise UserError(f"--vis_dir: cannot write {path}: {error.strerror or error}") from None


# Images without a picture: one warning is enough.
_left_out: list[str] = []


def save_pictures(
    folder: str, pixels: Tensor, predictions: Sequence[Prediction], heats: np.ndarray | None = None
) -> None:
    """Writes a picture of each image in a batch and its best classes.

    Skips pictures that cannot be drawn or written, with a warning for the first; the answers do not depend on them.

    Args:
        folder: see `save_picture`.
        pixels: uint8 (N, H, W, 3), RGB, on the CPU.
        predictions: N of them.
        heats: (N, H, W) from 0 to 1, from `grad_cam`.
    """
    for number, (image, prediction) in enumerate(zip(pixels.numpy(), predictions, strict=True)):
        heat = None if heats is None else heats[number]
        try:
            save_picture(draw(image, prediction, heat), folder, prediction.image)
        except Exception as error:  # a full disk, a long name, or any error of fonts
            if not _left_out:
                why = one_line(error) if isinstance(error, UserError) else f"--vis_dir: {one_line(error)}"
                warn(f"{why}; skipping this picture and any others that fail")
            _left_out.append(prediction.image)
