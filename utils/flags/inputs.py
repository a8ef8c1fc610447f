"""The flags that say how images become a network's input, and their values in files."""

from __future__ import annotations

import math
from typing import Any

# The flags that say how images become a network's input, which its weights are right with.
INPUT_FLAGS = ("image_shape", "resize_short_size", "interpolation", "image_mean", "image_std")


def check_input(image_shape: Any, resize_short_size: Any, interpolation: Any, image_mean: Any, image_std: Any) -> None:
    """Refuses values of `INPUT_FLAGS`, read from a file, that are none.

    Raises:
        ValueError, TypeError: what is wrong.
    """
    means, stds = (list(map(float, values)) for values in (image_mean, image_std))
    if [len(image_shape), len(means), len(stds)] != [3, 3, 3]:
        raise ValueError("not three channels")
    if not all(type(size) is int and 0 < size < 1 << 16 for size in (*image_shape, resize_short_size)):
        raise ValueError("not sizes")
    if not all(map(math.isfinite, means + stds)) or min(stds) <= 0:
        raise ValueError("not means and standard deviations")
    if interpolation not in (None, 0, 1, 2, 3, 4):
        raise ValueError("not an interpolation")
