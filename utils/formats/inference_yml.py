"""Reads inference.yml, in which PaddleClas says how an exported model's images are prepared and what its outputs mean.

    Global:       {model_name: PPLCNet_x1_0}
    PreProcess:   {transform_ops: [{ResizeImage: {resize_short: 256}}, {CropImage: {size: 224}}, {NormalizeImage: ...}]}
    PostProcess:  {Topk: {topk: 5, label_list: [...]}}

The files in PaddleClas's deploy/configs have the same form, with `class_id_map_file` instead of `label_list`, and
`main_indicator` if PostProcess has several entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from utils.errors import FormatError
from utils.formats.yaml_data import read_yaml

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# OpenCV's numbers, which a file may have instead of names.
_INTERPOLATIONS = {
    "cv2": ("nearest", "bilinear", "bicubic", "area", "lanczos"),
    "pil": ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"),
}

_MAX_SIZE = 1 << 14


@dataclass(frozen=True)
class Resize:
    """How an image is resized.

    Attributes:
        short: new length of the short side; None: the image is resized to exactly `size`.
        size: width and height. If `short` is set as well, the centre, `size` / `short` of the short side, is cropped
            and resized to `size`.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos"; of OpenCV "area"; of Pillow "box", "hamming".
        backend: "cv2" (OpenCV) or "pil" (Pillow).
    """

    short: int | None
    size: tuple[int, int] | None
    interpolation: str = "bilinear"
    backend: str = "cv2"


@dataclass(frozen=True)
class PostProcess:
    """How the outputs are post-processed.

    Attributes:
        kind: Topk, ThreshOutput, MultiLabelThreshOutput, PersonAttribute, VehicleAttribute, ...
        arguments: its numbers and texts: topk, threshold, label_0, class_id_map_file, ...
        class_names: one per class, if the file has them.
    """

    kind: str
    arguments: dict[str, int | float | str | bool]
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class InferenceSettings:
    """The content of inference.yml.

    Attributes:
        network: the network's name; None if missing.
        decoder: "cv2" or "pil".
        rgb: whether the network takes RGB; else BGR.
        resize: None: images keep their size.
        crop: width and height of the centre crop; None: the whole image.
        scale: factor for pixels, 0 to 255, before the mean is subtracted.
        mean, std: per channel.
        channels: 3; or 4 with zeros in the last.
        post: how the outputs are post-processed into results; None: they are not.
        save_dir: the folder into which images are copied, in a subfolder per class; None: they are not.
    """

    network: str | None = None
    decoder: str = "cv2"
    rgb: bool = True
    resize: Resize | None = None
    crop: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3
    post: PostProcess | None = None
    save_dir: str | None = None


# ------------------------------------------------------------------------------------------------------ single values


def _shown(value: Any) -> str:
    return ascii(value)[:60]


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise FormatError(f"{what} should be a mapping, not {_shown(value)}")
    return value


def _number(value: Any, what: str) -> float:
    """A number, or a text with a number or a fraction such as 1.0/255.0."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str):
            numerator, _, denominator = value.partition("/")
            number = float(numerator) / float(denominator or 1)
        else:
            number = float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise FormatError(f"{what} should be a number, not {_shown(value)}")
    return number


def _size(value: Any, what: str) -> int:
    if type(value) is not int or not 0 < value <= _MAX_SIZE:
        raise FormatError(f"{what} should be a number of pixels, 1 to {_MAX_SIZE}, not {_shown(value)}")
    return value


def _width_and_height(value: Any, what: str) -> tuple[int, int]:
    sizes = value if isinstance(value, list) else [value, value]
    if len(sizes) != 2:
        raise FormatError(f"{what} should be a size, or width and height, not {_shown(value)}")
    return _size(sizes[0], what), _size(sizes[1], what)


def _per_channel(value: Any, what: str, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError(f"{what} should be three numbers, not {_shown(value)}")
    return tuple(_number(element, what) for element in value)


def _one_of(value: Any, what: str, *allowed: Any) -> Any:
    if not any(value == choice and type(value) is type(choice) for choice in allowed):
        raise FormatError(f"{what} should be one of {', '.join(map(str, allowed))}, not {_shown(value)}")
    return value


# --------------------------------------------------------------------------------------------------------- transforms


def _decode(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _one_of(arguments.get("channel_first", False), "DecodeImage.channel_first", False)
    return {
        "rgb": _one_of(arguments.get("to_rgb", True), "DecodeImage.to_rgb", True, False),
        "decoder": _one_of(arguments.get("backend", "cv2"), "DecodeImage.backend", "cv2", "pil"),
    }


def _resize(arguments: Mapping[str, Any]) -> dict[str, Any]:
    backend = arguments.get("backend", "cv2")
    backend = _one_of(backend.lower() if isinstance(backend, str) else backend, "ResizeImage.backend", "cv2", "pil")
    known = _INTERPOLATIONS[backend]
    interpolation = arguments.get("interpolation")
    if type(interpolation) is int and 0 <= interpolation < len(known):
        interpolation = known[interpolation]
    elif interpolation is None:
        interpolation = "bilinear"
    elif isinstance(interpolation, str):
        interpolation = interpolation.lower()
    interpolation = _one_of(interpolation, "ResizeImage.interpolation", *known)
    short, size = arguments.get("resize_short"), None
    if short is None or short == 0:
        short, size = None, _width_and_height(arguments.get("size"), "ResizeImage.size")
    else:
        short = _size(short, "ResizeImage.resize_short")
    return {"resize": Resize(short, size, interpolation, backend)}


def _crop_at_ratio(arguments: Mapping[str, Any]) -> dict[str, Any]:
    size = _size(arguments.get("size"), "CropImageAtRatio.size")
    pad = arguments.get("pad", 0)
    if type(pad) is not int or not 0 <= pad <= _MAX_SIZE:
        raise FormatError(f"CropImageAtRatio.pad should be a number of pixels, not {_shown(pad)}")
    resize = _resize({**arguments, "size": size})["resize"]
    return {"resize": Resize(size + pad, (size, size), resize.interpolation, resize.backend)}


def _crop(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"crop": _width_and_height(arguments.get("size"), "CropImage.size")}


def _normalize(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _one_of(arguments.get("order", "chw"), "NormalizeImage.order", "", "hwc", "chw")
    scale = arguments.get("scale")
    found = {
        "scale": 1 / 255 if scale is None else _number(scale, "NormalizeImage.scale"),
        "mean": _per_channel(arguments.get("mean"), "NormalizeImage.mean", IMAGENET_MEAN),
        "std": _per_channel(arguments.get("std"), "NormalizeImage.std", IMAGENET_STD),
        "channels": _one_of(arguments.get("channel_num", 3), "NormalizeImage.channel_num", 3, 4),
    }
    if found["scale"] <= 0 or min(found["std"]) <= 0:
        raise FormatError("NormalizeImage.scale and .std should be above 0")
    return found


# The transforms in their required order, each with its allowed arguments.
_TRANSFORMS = {
    "DecodeImage": (_decode, {"to_rgb", "to_np", "channel_first", "backend"}),
    "ResizeImage": (_resize, {"size", "resize_short", "interpolation", "backend", "return_numpy"}),
    "CropImageAtRatio": (_crop_at_ratio, {"size", "pad", "interpolation"}),
    "CropImage": (_crop, {"size"}),
    "NormalizeImage": (_normalize, {"scale", "mean", "std", "order", "channel_num", "output_fp16"}),
    "ToCHWImage": (lambda _: {}, set()),
}


def read_transforms(transforms: Any) -> InferenceSettings:
    """How a list of transforms prepares an image.

    Raises:
        FormatError: a transform is not supported; the message names it.
    """
    if not isinstance(transforms, list):
        raise FormatError("lacks the list PreProcess.transform_ops, which says how images are prepared")
    found: dict[str, Any] = {}
    order = list(_TRANSFORMS)
    last = -1
    for transform in transforms:
        entry = _mapping(transform, "each of PreProcess.transform_ops")
        if len(entry) != 1:
            raise FormatError(f"each of PreProcess.transform_ops should be one transform, not {_shown(transform)}")
        ((name, value),) = entry.items()
        if name not in _TRANSFORMS:
            raise FormatError(f"the transform {_shown(name)} is not supported; known are {', '.join(_TRANSFORMS)}")
        if order.index(name) <= last:
            raise FormatError(f"{name} is in the wrong place; the order should be {', '.join(_TRANSFORMS)}")
        last = order.index(name)
        read, known = _TRANSFORMS[name]
        arguments = _mapping(value, name)
        if unknown := sorted(set(arguments) - known):
            raise FormatError(f"{name} has the unknown argument {_shown(unknown[0])}")
        found |= read(arguments)
    if "mean" not in found:
        # Without NormalizeImage the pixels stay as they are.
        found |= {"scale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return InferenceSettings(**found)


# -------------------------------------------------------------------------------------------------------- what follows


def _label(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise FormatError(f"a name in label_list should be a text, not {_shown(value)}")
    return str(value)


def _class_names(labels: Any) -> tuple[str, ...] | None:
    if isinstance(labels, dict) and set(labels) == set(range(len(labels))):
        labels = [labels[number] for number in range(len(labels))]
    if labels is None:
        return None
    if not isinstance(labels, list):
        raise FormatError(f"label_list should be a list of names, not {_shown(labels)}")
    return tuple(map(_label, labels)) or None


def _read_post(section: Mapping[str, Any]) -> tuple[PostProcess | None, str | None]:
    """How the outputs are post-processed, and the folder of SavePreLabel."""
    entries = {name: _mapping(value, name) for name, value in section.items() if name != "main_indicator"}
    save_dir = entries.pop("SavePreLabel", {}).get("save_dir")
    if save_dir is not None and not isinstance(save_dir, str):
        raise FormatError(f"SavePreLabel.save_dir should be a folder, not {_shown(save_dir)}")
    main = section.get("main_indicator")
    if main is None and len(entries) > 1:
        raise FormatError(f"PostProcess has {', '.join(entries)}, but no main_indicator that names one")
    kind = next(iter(entries), None) if main is None else main
    if kind is None:
        return None, save_dir
    if not isinstance(kind, str) or kind not in entries:
        raise FormatError(f"PostProcess.main_indicator is {_shown(kind)}, which PostProcess does not have")
    arguments = {}
    for name, value in entries[kind].items():
        if name == "label_list" or value is None:
            continue
        if not isinstance(value, str | int | float):
            raise FormatError(f"{kind}.{name} should be a number or a text, not {_shown(value)}")
        arguments[name] = value
    return PostProcess(kind, arguments, _class_names(entries[kind].get("label_list"))), save_dir


def read_inference_yml(text: str) -> InferenceSettings:
    """Reads an inference.yml, or a file from PaddleClas's deploy/configs.

    Raises:
        FormatError: it is neither, or a part of it is not supported; the message names the part.
    """
    content = _mapping(read_yaml(text), "the file")
    network = _mapping(content.get("Global"), "Global").get("model_name")
    found = read_transforms(_mapping(content.get("PreProcess"), "PreProcess").get("transform_ops"))
    post, save_dir = _read_post(_mapping(content.get("PostProcess"), "PostProcess"))
    return replace(found, network=network if isinstance(network, str) else None, post=post, save_dir=save_dir)
