"""What `python reader.py` draws of a batch, and says of a dataset."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.reading import augment
from utils.reading.decode import decode
from utils.reading.grid import write_grid
from utils.reading.image_list import ImageList
from utils.reading.transforms import normalize


def draw_batch(args: Namespace, images: Tensor, labels: Tensor, class_names: list[str] | None) -> None:
    """Writes a training batch, as the network gets it, to the picture --show, with the labels below the images.

    Args:
        args: reader.py's flags.
        images: uint8 (n, height, width, 3), RGB.
        labels: int64 (n,); -1 where there is none.
        class_names: in label order; None: their numbers.

    Raises:
        UserError: the picture cannot be written.
    """
    inputs = normalize(images, args.image_mean, args.image_std)
    alphas = args.use_mixup * args.mixup_alpha, args.use_cutmix * args.cutmix_alpha
    inputs, targets = augment.mix(
        inputs, labels.to(inputs.device), *alphas, np.random.default_rng(args.random_seed or 0)
    )
    mean, std = (
        torch.tensor(values, device=inputs.device).view(3, 1, 1) for values in (args.image_mean, args.image_std)
    )
    pixels = ((inputs * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()

    names = [*(class_names or map(str, range(args.class_dim))), "unlabeled"]  # -1 is the last
    captions = [names[label] for label in targets.labels.tolist()]
    if targets.mixed_labels is not None:
        captions = [
            f"{targets.weight:.2f} {caption} + {names[label]}"
            for caption, label in zip(captions, targets.mixed_labels.tolist(), strict=True)
        ]
    write_grid(args.show, pixels, captions, columns=math.ceil(math.sqrt(2 * len(pixels))))
    print(f"{args.show}: {len(pixels)} images")


@dataclass(frozen=True)
class Measure:
    """In place of a transform: the size of the image, three bytes each for its height and its width."""

    image_size: tuple[int, int] = (1, 2)

    def decode(self, data: bytes, path: str, rng: np.random.Generator) -> np.ndarray:
        height, width = decode(data, path).shape[:2]
        return np.frombuffer(height.to_bytes(3, "big") + width.to_bytes(3, "big"), np.uint8).reshape(1, 2, 3)

    @staticmethod
    def sizes(images: Tensor) -> np.ndarray:
        """The heights and widths, int64 (n, 2), of a batch of what `decode` made."""
        return images[:, 0].numpy().astype(np.int64) @ [65536, 256, 1]


def describe_dataset(
    part: str, images: ImageList, class_dim: int, sizes: np.ndarray, unreadable: dict[str, str]
) -> None:
    """Prints what there is in a part of a dataset.

    Args:
        part: train or val.
        images: its list.
        class_dim: number of classes.
        sizes: height and width, (n, 2), of the images that can be read; at least one.
        unreadable: path -> reason of the others.
    """
    print(f"{part}: {len(images)} images, {len(unreadable)} of them unreadable")
    for path, reason in unreadable.items():
        print(f"  unreadable: {path}: {reason}")
    counts = np.bincount(images.labels, minlength=class_dim)
    print(f"  classes: {np.count_nonzero(counts)} of {class_dim} have images, {_spread(counts[counts > 0])} each")
    ranked = np.argsort(counts, kind="stable")
    for what, labels in (("fewest", ranked[:5]), ("most", ranked[::-1][:5])):
        print(f"  {what} images: " + ", ".join(f"class {label} has {counts[label]}" for label in labels))
    for what, values in zip(("height", "width"), sizes.T, strict=True):
        print(f"  {what}: {_spread(values)} pixels")


def _spread(values: np.ndarray) -> str:
    low, first, median, last, high = np.percentile(values, [0, 5, 50, 95, 100], method="nearest")
    return f"{low} to {high} (5%: {first}, median: {median}, 95%: {last})"
