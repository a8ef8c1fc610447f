"""What a network takes: the size and the preprocessing of the images that it was published to be evaluated with.

The facts themselves stand beside the networks, in an `INPUTS` at the end of their module: a pattern of names -> the
input, of which the first match counts. A network that none matches takes the usual input, `InputConfig()`.

Where PaddleClas evaluates a network of fluid's zoo with other pixels than fluid did, the input for its weights
is in `PADDLECLAS_INPUTS`. docs/inputs.md lists them all.
"""

from __future__ import annotations

from typing import NamedTuple

# How images are resized, as numbers of --interpolation.
BILINEAR = 1
BICUBIC = 2


class Normalisation(NamedTuple):
    """What pixels scaled to 0..1 are normalised by, per channel, RGB: (pixel - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MINUS_ONE_TO_ONE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ZERO_TO_ONE = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# Pixels of 0 to 255, less 128, by 128.
AROUND_128 = Normalisation((128 / 255, 128 / 255, 128 / 255), (128 / 255, 128 / 255, 128 / 255))


class InputConfig(NamedTuple):
    """How a network was published to be evaluated.

    Attributes:
        image_size: height and width of the network's input.
        resize_short_size: length of the image's short side before the centre crop.
        interpolation: of the resizing, as in --interpolation.
        mean, std: per channel, for pixels scaled to 0..1, as in --image_mean and --image_std.
        resize_mode: how the short side and the crop go together, as in --resize_mode.
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
