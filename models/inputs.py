"""The input of a network: size and preprocessing of the images in its published evaluation.

The values are in `INPUTS` at the end of each network's module: a pattern of names -> the input; the first match is
used. Networks without a match have the usual input, `InputConfig()`.

If PaddleClas evaluates a network of fluid's zoo with another input than fluid, `PADDLECLAS_INPUTS` has the input for
PaddleClas's weights. docs/inputs.md lists them all.
"""

from __future__ import annotations

from typing import NamedTuple

# How images are resized, as numbers of --interpolation.
BILINEAR = 1
BICUBIC = 2


class Normalisation(NamedTuple):
    """Mean and deviation per channel, RGB, for pixels scaled to 0..1: (pixel - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MINUS_ONE_TO_ONE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ZERO_TO_ONE = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# (pixel - 128) / 128 for pixels from 0 to 255.
AROUND_128 = Normalisation((128 / 255, 128 / 255, 128 / 255), (128 / 255, 128 / 255, 128 / 255))


class InputConfig(NamedTuple):
    """The input of a network's published evaluation.

    Attributes:
        image_size: height and width of the network's input.
        resize_short_size: length of the image's short side before the centre crop.
        interpolation: of the resizing, as in --interpolation.
        mean, std: per channel, for pixels scaled to 0..1, as in --image_mean and --image_std.
        resize_mode: how resizing and cropping combine, as in --resize_mode.
        resize_backend, decode_backend: cv2 or pil, as in --resize_backend and --decode_backend.
        channel_order: rgb or bgr, as in --channel_order.
    """

    image_size: int = 224
    resize_short_size: int = 256
    interpolation: int = BILINEAR
    mean: tuple[float, float, float] = IMAGENET.mean
    std: tuple[float, float, float] = IMAGENET.std
    resize_mode: str = "short"
    resize_backend: str = "cv2"
    decode_backend: str = "cv2"
    channel_order: str = "rgb"
