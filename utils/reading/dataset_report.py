"""What `python reader.py` draws of a batch, and says of a dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.console import warn
from utils.reading.class_names import Names, name_of
from utils.reading.decode import decode
from utils.reading.grid import write_grid
from utils.reading.image_list import ImageList
from utils.reading.resize import Colour


def draw_batch(
    path: str,
    inputs: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    captions: list[str],
    instead: list[str],
) -> None:
    """Writes a batch, as the network gets it, to a picture.

    Args:
        path: of the picture.
        inputs: float (n, 3, height, width), normalised with `mean` and `std`.
        channel_order: of the channels, rgb or bgr.
        captions: a line below each image.
        instead: those where this machine has no font for a caption.

    Raises:
        UserError: the picture cannot be written.
    """
    means, stds = (torch.tensor(values, device=inputs.device).view(3, 1, 1) for values in (mean, std))
    pixels = ((inputs * stds + means) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    if channel_order == "bgr":
        pixels = pixels[..., ::-1]
    write_grid(path, [*pixels], captions, columns=math.ceil(math.sqrt(2 * len(pixels))), instead=instead)
    print(f"{path}: {len(pixels)} images")


@dataclass(frozen=True)
class Measure:
    """In place of a transform: the size of the image, three bytes each for its height and its width.

    Attributes:
        decode_backend, background, image_depth_range: as in `utils.reading.transforms.EvalTransform`.
    """

    image_size: tuple[int, int] = (1, 2)
    decode_backend: str = "cv2"
    background: Colour | None = None
    image_depth_range: tuple[int, int] | None = None

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        height, width = decode(data, path, self.decode_backend, self.background, self.image_depth_range).shape[:2]
        return np.frombuffer(height.to_bytes(3, "big") + width.to_bytes(3, "big"), np.uint8).reshape(1, 2, 3)

    @staticmethod
    def sizes(images: Tensor) -> np.ndarray:
        """The heights and widths, int64 (n, 2), of a batch of what `decode` made."""
        return images[:, 0].numpy().astype(np.int64) @ [65536, 256, 1]


def describe_dataset(
    part: str, images: ImageList, class_dim: int, names: Names, sizes: np.ndarray, unreadable: dict[str, str]
) -> None:
    """Prints what there is in a part of a dataset.

    Args:
        part: train or val.
        images: its list.
        class_dim: number of classes.
        names: of the classes, by number, as far as they are known.
        sizes: height and width, (n, 2), of the images that can be read; at least one.
        unreadable: path -> reason of the others.
    """
    print(f"{part}: {len(images)} images, {len(unreadable)} of them unreadable")
    for path, reason in unreadable.items():
        print(f"  unreadable: {path}: {reason}")
    many = images.labels.ndim > 1
    counts = images.labels.sum(0, dtype=np.int64) if many else np.bincount(images.labels, minlength=class_dim)
    spread = f", {_spread(counts[counts > 0])} each" if counts.any() else ""  # images may have none of the labels
    print(f"  classes: {np.count_nonzero(counts)} of {class_dim} have images{spread}")
    ranked = np.argsort(counts, kind="stable")
    for what, labels in (("fewest", ranked[:5]), ("most", ranked[::-1][:5])):
        shown = ((label, f" ({name})" if (name := name_of(names, label)) else "") for label in labels.tolist())
        print(f"  {what} images: " + ", ".join(f"class {label}{name} has {counts[label]}" for label, name in shown))
    for what, values in zip(("height", "width"), sizes.T, strict=True):
        print(f"  {what}: {_spread(values)} pixels")


def _spread(values: np.ndarray) -> str:
    low, first, median, last, high = np.percentile(values, [0, 5, 50, 95, 100], method="nearest")
    return f"{low} to {high} (5%: {first}, median: {median}, 95%: {last})"


def note_cut_off(part: str, sizes: np.ndarray, image_size: tuple[int, int], resize_mode: str) -> None:
    """Warns where the centre crop of evaluation cannot show half of the usual image, which is too long for it.

    Args:
        part: train or val.
        sizes: height and width, (n, 2), of the images.
        image_size: height and width of the network's input.
        resize_mode: as in `utils.reading.transforms.EvalTransform`.
    """
    if resize_mode not in ("short", "crop"):
        return
    scale = (np.array(image_size) / sizes).max(1)  # the smallest by which an image fills the crop
    shown = float(np.median(np.prod(image_size) / (np.prod(sizes, 1) * scale**2)))
    if shown < 0.5:
        warn(
            f"{part}: the images are long, and of the usual one the centre crop shows {shown:.0%} at most: "
            "--resize_mode=exact or pad shows all of it, and so does an --image_shape that is as long"
        )
