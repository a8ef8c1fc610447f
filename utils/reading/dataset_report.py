"""Draws a batch and reports on a dataset for `python reader.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.console import warn
from utils.reading.class_names import Names, name_of
from utils.reading.grid import write_grid
from utils.reading.inspection import Inspected
from utils.reading.problems import Problem, duplicates, problems_of, say, say_few


def draw_batch(
    path: str,
    inputs: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    captions: list[str],
    instead: list[str],
) -> None:
    """Saves a batch, as the network sees it, as a picture.

    Args:
        path: of the picture.
        inputs: float (n, 3, height, width), normalised with `mean` and `std`.
        channel_order: of the channels, rgb or bgr.
        captions: a line below each image.
        instead: captions to use if this machine has no font for them.

    Raises:
        UserError: the picture cannot be written.
    """
    means, stds = (torch.tensor(values, device=inputs.device).view(3, 1, 1) for values in (mean, std))
    pixels = ((inputs * stds + means) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    if channel_order == "bgr":
        pixels = pixels[..., ::-1]
    write_grid(path, [*pixels], captions, columns=math.ceil(math.sqrt(2 * len(pixels))), instead=instead)
    print(f"{path}: {len(pixels)} images")


def describe_dataset(part: str, found: Inspected, class_dim: int, names: Names) -> list[Problem]:
    """Prints a summary of a part of a dataset and its possible problems.

    Args:
        part: train or val.
        found: the inspection of its images, at least one of which is readable.
        class_dim: number of classes.
        names: of the classes, by number, as far as known.

    Returns:
        All possible problems.
    """
    images = found.images
    print(f"{part}: {len(images)} images, {len(found.unreadable)} of them unreadable")
    many = images.labels.ndim > 1
    counts = images.labels.sum(0, dtype=np.int64) if many else np.bincount(images.labels, minlength=class_dim)
    spread = f", {_spread(counts[counts > 0])} each" if counts.any() else ""  # images may have no label
    print(f"  classes: {np.count_nonzero(counts)} of {class_dim} have images{spread}")
    shown = (name_of(names, number) for number in range(len(counts)))
    called = [f"class {number} ({name})" if name else f"class {number}" for number, name in enumerate(shown)]
    ranked = np.argsort(counts, kind="stable")
    for what, labels in (("fewest", ranked[:5]), ("most", ranked[::-1][:5])):
        print(f"  {what} images: " + ", ".join(f"{called[label]} has {counts[label]}" for label in labels.tolist()))
    for side in ("height", "width"):
        print(f"  {side}: {_spread(found.records[side])} pixels")
    if part == "train":
        say_few(counts, called)
    problems = problems_of(part, found)
    say(problems, len(images))
    return problems


def describe_overlap(train: Inspected, val: Inspected) -> list[Problem]:
    """Prints the validation images that are also in train, which inflate the accuracy; returns them."""
    problems = duplicates([("train", train), ("val", val)], across=True)
    if any(problem.kind in ("same", "duplicate") for problem in problems):
        print("val and train: the network has seen images that are in both, which inflates the accuracy")
        say(problems, len(val.images))
    return problems


def _spread(values: np.ndarray) -> str:
    low, first, median, last, high = np.percentile(values, [0, 5, 50, 95, 100], method="nearest")
    return f"{low} to {high} (5%: {first}, median: {median}, 95%: {last})"


def note_cut_off(part: str, sizes: np.ndarray, image_size: tuple[int, int], resize_mode: str) -> None:
    """Warns if images are so long that the evaluation's centre crop shows less than half of a typical one.

    Args:
        part: train or val.
        sizes: height and width, (n, 2), of the images.
        image_size: height and width of the network's input.
        resize_mode: as in `utils.reading.transforms.EvalTransform`.
    """
    if resize_mode not in ("short", "crop"):
        return
    scale = (np.array(image_size) / sizes).max(1)  # the smallest scale at which an image fills the crop
    shown = float(np.median(np.prod(image_size) / (np.prod(sizes, 1) * scale**2)))
    if shown < 0.5:
        warn(
            f"{part}: the images are long, and the centre crop shows at most {shown:.0%} of a typical one: "
            "--resize_mode=exact or pad shows all of it, and so does a longer --image_shape"
        )
