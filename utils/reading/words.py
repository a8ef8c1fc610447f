"""--train_transforms: a training pipeline in words, `NAME` or `NAME:option=value:option=value`.

    resize:size=256x192 timm_augment:policy=rand-m9-mstd0.5-inc1:p=0.8 pad:size=276x212 random_crop:size=256x192 flip

An option without a value is turned on. Join several numbers with `/`; sizes are `224` or HEIGHTxWIDTH.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from utils.errors import FlagError
from utils.flags.kinds import (
    LARGEST_SIDE,
    boolean,
    fraction,
    image_size,
    non_negative,
    number,
    positive,
    positive_int,
    sides,
)
from utils.flags.words import Kind, nearest, options_of
from utils.reading.augment import AutoAugment, ColorJitter, ImageOperation
from utils.reading.labelling import Blur, RandomRot90, labelling_of
from utils.reading.masks import Cutout, ErasingInside, GridMask, HideAndSeek
from utils.reading.pipeline import (
    Crop,
    Flip,
    LabellingPipeline,
    Lighting,
    Pad,
    Pipeline,
    RandomResizedCrop,
    Resize,
    Sometimes,
)
from utils.reading.policies import BICUBIC, BILINEAR, NEAREST, PaddleRandAugment, TimmAugment
from utils.reading.resize import Colour, Resizer
from utils.reading.transforms import TrainTransform

# Maximum number of operations or attempts in a word.
_MOST = 1000
_INTERPOLATIONS = {"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3, "lanczos": 4}
_RESAMPLES = {"nearest": (NEAREST,), "bilinear": (BILINEAR,), "bicubic": (BICUBIC,), "random": (BILINEAR, BICUBIC)}


def _side(text: str) -> int:
    return number(int, 1, LARGEST_SIDE)(text)


def _size(text: str) -> tuple[int, int]:
    """A side, or HEIGHTxWIDTH."""
    return sides(image_size(text))


def _one_of(*choices: str) -> Kind:
    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return parse


def _range(kind: Kind) -> Kind:
    """LOW/HIGH."""

    def parse(text: str) -> tuple[float, float]:
        parts = text.split("/")
        if len(parts) != 2:
            raise argparse.ArgumentTypeError(f"{text!r} is not LOW/HIGH")
        low, high = map(kind, parts)
        if low > high:
            raise argparse.ArgumentTypeError(f"{text!r}: {low:g} is above {high:g}")
        return low, high

    return parse


_count = number(int, 1, _MOST)
_share = number(float, 0, 1, above=True)
_byte = number(int, 0, 255)
_kernel = number(int, 6, 255)
_backend = _one_of("cv2", "pil")


def _colour(text: str) -> Colour:
    """RED/GREEN/BLUE."""
    levels = text.split("/")
    if len(levels) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not RED/GREEN/BLUE")
    red, green, blue = map(_byte, levels)
    return red, green, blue


@dataclass(frozen=True)
class Setting:
    """The context of a pipeline's words.

    Attributes:
        image_size: of --image_shape.
        mean, std: of the normalisation, RGB, for pixels scaled to 0..1.
        decode_backend: see `EvalTransform`.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    decode_backend: str

    @property
    def fill(self) -> Colour:
        """The mean colour."""
        red, green, blue = (min(255, max(0, round(255 * value))) for value in self.mean)
        return red, green, blue


def _resize(setting: Setting, values: dict[str, Any]) -> ImageOperation:
    if ("size" in values) == ("short" in values):
        raise argparse.ArgumentTypeError("give one of size=HEIGHTxWIDTH and short=SIDE")
    interpolation = _INTERPOLATIONS[values.get("interpolation", "bilinear")]
    size = values["size"] if "size" in values else values["short"]
    return Resize(size, Resizer(interpolation, values.get("backend", "cv2")))


def _random_resized_crop(setting: Setting, values: dict[str, Any]) -> ImageOperation:
    low, high = values.get("scale", (0.08, 1.0))
    if high != 1 or not low:
        raise argparse.ArgumentTypeError(f"scale={low:g}/{high:g}: give values above 0 and up to 1")
    name = values.get("interpolation", "bilinear")
    names = ("bilinear", "bicubic") if name == "random" else (name,)
    lower_ratio, upper_ratio = values.get("ratio", (3 / 4, 4 / 3))
    return RandomResizedCrop(
        tuple(
            TrainTransform(
                values.get("size", setting.image_size),
                low,
                lower_ratio,
                upper_ratio,
                _INTERPOLATIONS[each],
                resize_backend=values.get("backend", "cv2"),
                decode_backend=setting.decode_backend,
                log_ratio=values.get("log_ratio", False),
                flip_prob=0.0,
            )
            for each in names
        )
    )


def _timm_augment(setting: Setting, values: dict[str, Any]) -> ImageOperation:
    resamples = _RESAMPLES[values.get("interpolation", "bicubic")]
    try:
        policy, fill = values.get("policy", "rand-m9-mstd0.5-inc1"), values.get("fill", setting.fill)
        operation = TimmAugment.parse(policy, resamples, fill)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"policy: {error}") from None
    return Sometimes(operation, values["p"]) if "p" in values else operation


def _rand_augment(version: int) -> Callable[[Setting, dict[str, Any]], ImageOperation]:
    def build(setting: Setting, values: dict[str, Any]) -> ImageOperation:
        resample = {1: BICUBIC, 2: NEAREST, 3: BICUBIC}[version]
        if "interpolation" in values:
            resample = _RESAMPLES[values["interpolation"]][0]
        fill = (0, 0, 0) if version == 3 else (128, 128, 128)
        magnitude = values.get("magnitude", 3.0 if version == 3 else 5.0)
        return PaddleRandAugment(version, values.get("ops", 2), magnitude, resample, fill)

    return build


def _color_jitter(setting: Setting, values: dict[str, Any]) -> ImageOperation:
    strengths = {name: value for name, value in values.items() if name != "p"}
    if not strengths:
        raise argparse.ArgumentTypeError("give brightness=, contrast=, saturation= or hue=")
    operation = ColorJitter(**strengths)
    return Sometimes(operation, values["p"]) if "p" in values else operation


def _random_erasing(setting: Setting, values: dict[str, Any]) -> ImageOperation:
    smallest, largest = values.get("area", (0.02, 0.4))
    return ErasingInside(
        values.get("p", 0.5),
        smallest,
        largest,
        values.get("ratio", 0.3),
        values.get("log_ratio", False),
        values.get("mode", "const"),
        values.get("attempts", 100),
        setting.mean,
        setting.std,
    )


def _cutout(setting: Setting, values: dict[str, Any]) -> ImageOperation:
    return Repeated(Cutout(values.get("length", 112), setting.fill), values.get("holes", 1))


def _grid_mask(setting: Setting, values: dict[str, Any]) -> ImageOperation:
    smallest, largest = values.get("smallest", 96), values.get("largest", 224)
    if smallest > largest:
        raise argparse.ArgumentTypeError(f"smallest={smallest} is above largest={largest}")
    if values.get("rotate", 1) != 1:
        raise argparse.ArgumentTypeError("rotate: only 1 is supported, which does not rotate the grid")
    # PaddleClas's mode 0 hides the bars between squares, mode 1 the squares.
    squares = values.get("mode", 0) == 1
    share = values.get("ratio", 0.5)
    kept = share if squares else 1 - share
    return GridMask(setting.fill, smallest, largest, kept, values.get("p", 1.0), inverse=not squares)


@dataclass(frozen=True)
class Repeated:
    """An operation applied several times."""

    operation: ImageOperation
    times: int

    def __call__(self, rgb: Any, rng: Any) -> Any:
        for _ in range(self.times):
            rgb = self.operation(rgb, rng)
        return rgb


_RESIZED = {"interpolation": _one_of(*_INTERPOLATIONS), "backend": _backend}
_RESAMPLED = _one_of("nearest", "bilinear", "bicubic")
_AUGMENTED = {"ops": _count, "magnitude": number(float, 0, 30), "interpolation": _RESAMPLED}
# Each word: the factory of its operation, and its options.
WORDS: dict[str, tuple[Callable[[Setting, dict[str, Any]], ImageOperation], dict[str, Kind]]] = {
    "resize": (_resize, {"size": _size, "short": _side, **_RESIZED}),
    "random_resized_crop": (
        _random_resized_crop,
        {
            "size": _size,
            "scale": _range(fraction),
            "ratio": _range(positive),
            "interpolation": _one_of(*_INTERPOLATIONS, "random"),
            "backend": _backend,
            "log_ratio": boolean,
        },
    ),
    "random_crop": (lambda setting, values: Crop(values.get("size", setting.image_size), True), {"size": _size}),
    "center_crop": (lambda setting, values: Crop(values.get("size", setting.image_size), False), {"size": _size}),
    "pad": (
        lambda setting, values: Pad(
            values.get("size", setting.image_size), (values.get("fill", 127),) * 3, values.get("mode", "center")
        ),
        {"size": _size, "fill": _byte, "mode": _one_of("center", "top_left", "bottom_right")},
    ),
    "flip": (
        lambda setting, values: Flip(
            values.get("p", 0.5),
            {"horizontal": 1, "vertical": 0, "both": -1}[values.get("direction", "horizontal")],
        ),
        {"p": fraction, "direction": _one_of("horizontal", "vertical", "both")},
    ),
    "auto_augment": (lambda setting, values: AutoAugment(), {}),
    "rand_augment": (_rand_augment(1), _AUGMENTED),
    "rand_augment_v2": (_rand_augment(2), _AUGMENTED),
    "rand_augment_v3": (_rand_augment(3), _AUGMENTED),
    "timm_augment": (
        _timm_augment,
        {"policy": str, "p": fraction, "interpolation": _one_of(*_RESAMPLES), "fill": _colour},
    ),
    "color_jitter": (
        _color_jitter,
        {"brightness": non_negative, "contrast": non_negative, "saturation": non_negative, "p": fraction}
        | {"hue": number(float, 0, 0.5)},
    ),
    "random_erasing": (
        _random_erasing,
        {"p": fraction, "area": _range(_share), "ratio": _share, "log_ratio": boolean, "attempts": _count}
        | {"mode": _one_of("pixel", "rand", "const")},
    ),
    "cutout": (_cutout, {"length": positive_int, "holes": _count}),
    "grid_mask": (
        _grid_mask,
        {"smallest": number(int, 2, LARGEST_SIDE), "largest": number(int, 2, LARGEST_SIDE), "ratio": _share}
        | {"mode": number(int, 0, 1), "rotate": positive_int, "p": fraction},
    ),
    "hide_and_seek": (lambda setting, values: HideAndSeek(setting.fill), {}),
    "blur": (
        lambda setting, values: Blur(
            values.get("p", 0.5),
            values.get("gaussian_size", 12),
            values.get("motion_size", 12),
            values.get("motion_angle", 45),
        ),
        {"p": fraction, "gaussian_size": _kernel, "motion_size": _kernel, "motion_angle": number(int, 1, 180)},
    ),
    "random_rot90": (lambda setting, values: RandomRot90(), {}),
    "pca_lighting": (lambda setting, values: Lighting(values.get("std", 0.1)), {"std": non_negative}),
}
_DECODE: dict[str, Kind] = {"backend": _backend, "order": _one_of("rgb", "bgr")}


def pipeline_of_words(words: list[str], args: Namespace) -> Pipeline:
    """The training pipeline that --train_transforms describes.

    Args:
        words: see the module.
        args: the script's flags; image_shape is the default size of words.

    Raises:
        FlagError: a word or option is unknown, or the images do not all get one size.
    """
    in_rgb = slice(None, None, 1 if args.channel_order == "rgb" else -1)
    decode_backend, channel_order = args.decode_backend, args.channel_order
    operations: list[ImageOperation] = []
    size: tuple[int, int] | int | None = None
    for position, word in enumerate(words):
        name = word.split(":")[0]
        try:
            if name == "decode" and not position:
                values = options_of(word, _DECODE)
                decode_backend, channel_order = (
                    values.get("backend", decode_backend),
                    values.get("order", channel_order),
                )
                continue
            if name not in WORDS:
                raise argparse.ArgumentTypeError(f"no such operation: {nearest(name, WORDS)}")
            build, options = WORDS[name]
            mean, std = tuple(args.image_mean[in_rgb]), tuple(args.image_std[in_rgb])
            setting = Setting(tuple(args.image_shape[1:]), mean, std, decode_backend)
            operations.append(build(setting, options_of(word, options)))
            size = _size_after(operations[-1], size)
        except argparse.ArgumentTypeError as error:
            raise FlagError(f"--train_transforms: {word}: {error}") from None
    if not isinstance(size, tuple):
        raise FlagError(
            "--train_transforms: no word gives all images the same size: add random_resized_crop, "
            "resize:size=HEIGHTxWIDTH or a crop"
        )
    pipeline = tuple(operations), size, decode_backend, channel_order
    if args.label_from is None:
        return Pipeline(*pipeline)
    return LabellingPipeline(*pipeline, labelling=labelling_of(operations, args.label_from, args.class_dim))


def words_of_magnitude(words: list[str] | None, magnitude: float) -> list[str] | None:
    """The words with another magnitude for PaddleClas's RandAugments."""
    if words is None:
        return None
    changed = []
    for word in words:
        name, *options = word.split(":")
        if name in ("rand_augment", "rand_augment_v2", "rand_augment_v3"):
            options = [
                *(option for option in options if not option.startswith("magnitude=")),
                f"magnitude={magnitude:.12g}",
            ]
        changed.append(":".join((name, *options)))
    return changed


def _size_after(operation: ImageOperation, size: tuple[int, int] | int | None) -> tuple[int, int] | int | None:
    """What is known about the image size after an operation: height and width, the short side, or nothing.

    Raises:
        ArgumentTypeError: the operation does not work at the previous size.
    """
    if isinstance(operation, RandomResizedCrop):
        return operation.crops[0].image_size
    if isinstance(operation, Resize):
        return operation.size
    if isinstance(operation, RandomRot90) and isinstance(size, tuple) and size[0] != size[1]:
        raise argparse.ArgumentTypeError(f"it needs square images, not {size[0]}x{size[1]}, to keep their size")
    if not isinstance(operation, Crop | Pad):
        return size
    if size is None or (isinstance(operation, Pad) and isinstance(size, int)):
        raise argparse.ArgumentTypeError("the image size is unknown before it: add a resize first")
    sides = (size, size) if isinstance(size, int) else size
    bad = [
        have < want if isinstance(operation, Crop) else have > want
        for have, want in zip(sides, operation.size, strict=True)
    ]
    if any(bad):
        have, want = ("x".join(map(str, each)) for each in (sides, operation.size))
        raise argparse.ArgumentTypeError(f"images of {have} do not fit {want}")
    return operation.size
