"""PaddleClas's evaluation preprocessing as our flags."""

from __future__ import annotations

from typing import Any

from utils.errors import FormatError
from utils.flags.inputs import of_another_scale
from utils.flags.paddleclas.section import Section, boolean, choice
from utils.formats.inference_yml import InferenceSettings, Resize, read_transforms

# Of --interpolation.
INTERPOLATIONS = {"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3, "box": 3, "lanczos": 4}


def input_flags(settings: InferenceSettings) -> tuple[dict[str, Any], dict[str, str]]:
    """The `INPUT_FLAGS` equivalent to the transforms, and flag -> why it has no equivalent.

    Args:
        settings: how the transforms change an image.
    """
    # We scale pixels to 0..1, PaddleClas by `scale`.
    factor = 255 * settings.scale
    # PaddleClas's files write 1/255 as 0.00392157.
    if abs(factor - 1) < 1e-6:
        factor = 1.0
    found: dict[str, Any] = {
        "image_mean": [value / factor for value in settings.mean],
        "image_std": [value / factor for value in settings.std],
        "decode_backend": settings.decoder,
        "channel_order": "rgb" if settings.rgb else "bgr",
    }
    unsaid = {}
    resize = settings.resize
    if resize is None:
        unsaid["resize_mode"] = "does not resize images"
    else:
        if resize.interpolation not in INTERPOLATIONS:
            unsaid["interpolation"] = f"resizes with the unsupported filter {resize.interpolation}"
        if resize.short is None and settings.crop not in (None, resize.size):
            unsaid["resize_mode"] = "crops images after resizing them to a fixed size"
        found |= _resizing(resize)
    size = settings.crop or (resize and resize.size)
    if size is not None:
        found["image_shape"] = [3, size[1], size[0]]
    return found, unsaid


def _resizing(resize: Resize) -> dict[str, Any]:
    """The resizing flags."""
    mode = "exact" if resize.short is None else "short" if resize.size is None else "crop"
    return {
        "interpolation": INTERPOLATIONS.get(resize.interpolation),
        "resize_backend": resize.backend,
        "resize_mode": mode,
        **({} if resize.short is None else {"resize_short_size": resize.short}),
    }


def decoded_order(options: Section) -> str:
    """The channel order that DecodeImage returns: without `to_np`, OpenCV's order is kept."""
    to_rgb = options.take("to_rgb", boolean, True)
    pillow = options.take("backend", choice("cv2", "pil"), "cv2") == "pil"
    as_array = options.take("to_np", boolean, True)
    return "rgb" if (to_rgb if as_array else pillow) else "bgr"


def read_evaluation(section: Section, name: str) -> dict[str, Any]:
    """The `INPUT_FLAGS` of a list of transforms; refuses unsupported ones.

    Args:
        section: has the list.
        name: its key.
    """
    operations = list(section.entries(name))
    transforms = [{operation: options.values} for operation, options in operations]
    for transform, (_, options) in zip(transforms, operations, strict=True):
        try:
            read_transforms([transform])
        except FormatError as error:
            options.refuse(None, str(error))
            return {}
    try:
        settings = read_transforms(transforms)
    except FormatError as error:
        section.refuse(name, str(error))
        return {}
    found, unsaid = input_flags(settings)
    for why in unsaid.values():
        section.refuse(name, why)
    for operation, options in operations:
        if operation == "DecodeImage":
            found["channel_order"] = decoded_order(options)
    if scale := of_another_scale(found["image_mean"], found["image_std"]):
        section.refuse(name, scale)
    if settings.channels == 4:
        section.reading.note("leaves out the images' fourth channel, which is zero, and its weights")
    return found
