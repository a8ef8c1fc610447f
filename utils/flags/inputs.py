"""The preprocessing flags, which turn images into a network's input, and their values in files."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from utils.errors import FlagError

RESIZE_MODES = ("short", "exact", "pad", "crop")
BACKENDS = ("cv2", "pil")
CHANNEL_ORDERS = ("rgb", "bgr")

# The preprocessing flags; a network's weights fit only one setting of them.
INPUT_FLAGS = (
    "image_shape",
    "resize_short_size",
    "interpolation",
    "image_mean",
    "image_std",
    "resize_mode",
    "resize_backend",
    "decode_backend",
    "channel_order",
    "background",
    "image_depth_range",
)
# Values for files written before these flags existed.
UNNOTED: dict[str, Any] = {
    "resize_mode": "short",
    "resize_backend": "cv2",
    "decode_backend": "cv2",
    "channel_order": "rgb",
    "background": None,
    "image_depth_range": None,
}
# For pixels scaled to 0..1. A standard deviation cannot exceed 0.5, but 1 is often given for no scaling at all, and
# values may be rounded; on the scale 0..255 it is never as small as 2.
LARGEST_MEAN, LARGEST_STD = 1.0, 2.0
_CHOICES = {
    "interpolation": (None, 0, 1, 2, 3, 4),
    "resize_mode": RESIZE_MODES,
    "resize_backend": BACKENDS,
    "decode_backend": BACKENDS,
    "channel_order": CHANNEL_ORDERS,
}


class ScaleError(ValueError):
    """Means or standard deviations that are not for pixels scaled to 0..1; the message says which."""


def of_another_scale(means: Sequence[float], stds: Sequence[float]) -> str | None:
    """What is wrong with means and standard deviations that cannot be for pixels scaled to 0..1; None: nothing."""
    for name, values, largest in (("image_mean", means, LARGEST_MEAN), ("image_std", stds, LARGEST_STD)):
        if not all(0 <= value <= largest for value in values):
            return f"its {name} {' '.join(f'{value:g}' for value in values)} is not for pixels scaled to 0..1"
    return None


def given_input(args: Namespace) -> dict[str, Any]:
    """The `INPUT_FLAGS` that were typed; `args` are those of `utils.flags.parse`."""
    return {name: getattr(args, name) for name in INPUT_FLAGS if name in args.given}


def checked_input(notes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `INPUT_FLAGS` noted in a file; files older than a flag get the value they were written with.

    Args:
        notes: the flags' values, perhaps among others.

    Raises:
        ScaleError: means or deviations are not for pixels scaled to 0..1.
        KeyError, ValueError, TypeError: one is missing or invalid.
    """
    noted = {name: notes[name] if name in notes else UNNOTED[name] for name in INPUT_FLAGS}
    if not all(isinstance(noted[name], list | tuple) for name in ("image_mean", "image_std", "image_shape")):
        raise ValueError("not lists")
    try:
        means, stds = (list(map(float, noted[name])) for name in ("image_mean", "image_std"))
    except OverflowError:
        raise ValueError("not of the size of a mean") from None
    if [len(noted["image_shape"]), len(means), len(stds)] != [3, 3, 3]:
        raise ValueError("not three channels")
    if not all(
        type(size) is int and 0 < size < 1 << 16 for size in (*noted["image_shape"], noted["resize_short_size"])
    ):
        raise ValueError("not sizes")
    if not all(map(math.isfinite, means + stds)) or min(stds) <= 0:
        raise ValueError("not means and standard deviations")
    if scale := of_another_scale(means, stds):
        raise ScaleError(scale)
    if noted["background"] is not None and not _whole(noted["background"], 3, 255):
        raise ValueError("not a colour")
    depth_range = noted["image_depth_range"]
    if depth_range is not None and not (_whole(depth_range, 2, 65535) and depth_range[0] < depth_range[1]):
        raise ValueError("not a range")
    for name, choices in _CHOICES.items():
        if noted[name] not in choices:
            raise ValueError(f"not a value of --{name}")
    return noted


def _whole(values: Any, count: int, highest: int) -> bool:
    """Whether something is a list of that many whole numbers from 0 to `highest`."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) is int and 0 <= value <= highest for value in values)
    )


def check_short_size(resize_short_size: int, image_size: tuple[int, int], resize_mode: str) -> None:
    """Raises `FlagError` if `image_size` does not fit into an image whose short side is `resize_short_size`."""
    if resize_mode in ("short", "crop") and resize_short_size < min(image_size):
        height, width = image_size
        raise FlagError(
            f"--resize_short_size: {resize_short_size} is smaller than the crop of --image_shape {height} x {width}: "
            f"give at least {min(image_size)}, or --resize_mode=exact"
        )
