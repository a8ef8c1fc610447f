"""Translates what inference.yml says about images into flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.errors import FlagError
from utils.flags.inputs import UNNOTED, of_another_scale
from utils.flags.paddleclas.inputs import input_flags
from utils.formats.inference_yml import IMAGENET_MEAN, IMAGENET_STD, InferenceSettings

# The usual evaluation resizes to 256 pixels and crops the middle 224.
_CROPPED, _RESIZED = 224, 256


def usual_input(image_shape: list[int]) -> dict[str, Any]:
    """The `INPUT_FLAGS` of most networks, for another image size."""
    return {
        "image_shape": image_shape,
        "resize_short_size": round(min(image_shape[1:]) * _RESIZED / _CROPPED),
        "interpolation": None,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        **UNNOTED,
    }


def described_input(settings: InferenceSettings, given: Mapping[str, Any], model_file: str) -> dict[str, Any]:
    """The `INPUT_FLAGS` that an inference.yml sets.

    Args:
        settings: its content.
        given: flags that were typed, which override it.
        model_file: the model's name, for errors.

    Raises:
        FlagError: it prepares images in a way that no flag can express.
    """
    found, unsaid = input_flags(settings)
    scale = of_another_scale(found["image_mean"], found["image_std"])
    if scale and not {"image_mean", "image_std"} <= given.keys():
        raise FlagError(
            f"--model_file {model_file}: with the scale {settings.scale:g} of its inference.yml, {scale}: give "
            "--image_mean and --image_std for pixels from 0 to 1"
        )
    for flag, why in unsaid.items():
        if flag not in given:
            raise FlagError(f"--model_file {model_file}: its inference.yml {why}: give --{flag}")
    return found
