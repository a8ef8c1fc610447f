"""What inference.yml says of images, as the flags that say it here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.errors import FlagError
from utils.flags.inputs import UNNOTED, of_another_scale
from utils.formats.inference_yml import IMAGENET_MEAN, IMAGENET_STD, InferenceSettings, Resize

# Of --interpolation.
_INTERPOLATIONS = {"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3, "box": 3, "lanczos": 4}

# The usual evaluation shows the middle 224 of 256 pixels.
_CROPPED, _RESIZED = 224, 256


def usual_input(image_shape: list[int]) -> dict[str, Any]:
    """The `INPUT_FLAGS` of most networks, at another size."""
    return {
        "image_shape": image_shape,
        "resize_short_size": round(min(image_shape[1:]) * _RESIZED / _CROPPED),
        "interpolation": None,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        **UNNOTED,
    }


def described_input(settings: InferenceSettings, given: Mapping[str, Any], model_file: str) -> dict[str, Any]:
    """The `INPUT_FLAGS` that an inference.yml stands for, as far as it says them.

    Args:
        settings: what it says.
        given: flags that were typed, and so need not be in it.
        model_file: for errors.

    Raises:
        FlagError: it prepares images in a way that no flags stand for.
    """
    # Pixels are scaled to 0..1 here, and by `scale` there.
    factor = 255 * settings.scale
    if abs(factor - 1) < 1e-12:
        factor = 1.0
    found: dict[str, Any] = {
        "image_mean": [value / factor for value in settings.mean],
        "image_std": [value / factor for value in settings.std],
        "decode_backend": settings.decoder,
        "channel_order": "rgb" if settings.rgb else "bgr",
    }
    scale = of_another_scale(found["image_mean"], found["image_std"])
    if scale and not {"image_mean", "image_std"} <= given.keys():
        raise FlagError(
            f"--model_file {model_file}: by the scale {settings.scale:g} of its inference.yml, {scale}: give "
            "--image_mean and --image_std, of pixels of 0 to 1"
        )
    if settings.resize is not None:
        found |= _resizing(settings.resize, given, model_file)
    size = settings.crop or (settings.resize and settings.resize.size)
    if size is not None:
        found["image_shape"] = [3, size[1], size[0]]
    exact = settings.resize is not None and settings.resize.short is None
    fits = not exact or settings.crop in (None, settings.resize and settings.resize.size)
    if "resize_mode" not in given and (settings.resize is None or not fits):
        how = "does not resize images" if settings.resize is None else "cuts images after resizing them to a size"
        raise FlagError(
            f"--model_file {model_file}: its inference.yml {how}: give --resize_mode, and what goes with it"
        )
    return found


def _resizing(resize: Resize, given: Mapping[str, Any], model_file: str) -> dict[str, Any]:
    """The flags of how images are resized."""
    if resize.interpolation not in _INTERPOLATIONS and "interpolation" not in given:
        raise FlagError(
            f"--model_file {model_file}: its inference.yml resizes with the filter {resize.interpolation}, which "
            "is not known here: give --interpolation"
        )
    return {
        "interpolation": _INTERPOLATIONS.get(resize.interpolation),
        "resize_backend": resize.backend,
        "resize_mode": "exact" if resize.short is None else "short",
        **({} if resize.short is None else {"resize_short_size": resize.short}),
    }
