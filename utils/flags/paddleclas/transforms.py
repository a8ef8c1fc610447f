"""PaddleClas's training transforms of images as flags.

The pipeline becomes --train_transforms, with a word for each operation in order; a plain random crop and flip become
the ordinary flags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

from utils.errors import FormatError
from utils.flags.paddleclas.inputs import INTERPOLATIONS, decoded_order, input_flags
from utils.flags.paddleclas.section import (
    Section,
    boolean,
    choice,
    fraction,
    integer,
    list_of,
    number,
    numbers,
    positive,
    text,
    typed,
    width_and_height,
    written_size,
)
from utils.formats.inference_yml import read_transforms

_RATIO = [3 / 4, 4 / 3]
# PaddleClas's EfficientNetV2_S, by part of its training.
_DROPOUTS = [0.1, 1 / 6, 7 / 30, 0.3]
_IMAGENET_FILL = [0.485, 0.456, 0.406]


@dataclass
class Pipeline:
    """A training pipeline while it is read.

    Attributes:
        size: height and width of the network's input.
        evaluation: the `INPUT_FLAGS` of evaluation; training may differ.
        operations: words of --train_transforms, with their options.
        scaled: a MultiScaleSampler draws the image sizes.
        progressive: the run has parts with different sizes and magnitudes: `progress`.
        progress: flags of the parts.
        normalized: whether NormalizeImage has been read.
    """

    size: tuple[int, int]
    evaluation: dict[str, Any]
    scaled: bool = False
    progressive: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    normalized: bool = False

    def add(self, name: str, **options: Any) -> None:
        """Adds an operation; leaves out options that are None."""
        self.operations.append((name, {option: value for option, value in options.items() if value is not None}))

    def words(self) -> list[str]:
        """The operations as typed: NAME:option=value, or just :option if it is True."""
        return [":".join([name, *starmap(_option, options.items())]) for name, options in self.operations]

    def sized(self, size: tuple[int, int] | None) -> str | None:
        """A size, given as width and height, as HEIGHTxWIDTH; None if it is the network's input size."""
        return None if size is None or size[::-1] == self.size else written_size(size)


def _option(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name}={'/'.join(map(typed, value)) if isinstance(value, list) else typed(value)}"


def _resizing(options: Section, mode: str = "") -> dict[str, str | None]:
    """The resizing options that differ from the defaults."""
    kinds = choice(*INTERPOLATIONS, "hamming", "random") if mode == "random" else choice(*INTERPOLATIONS, "hamming")
    interpolation = options.take("interpolation", kinds, "bilinear")
    backend = options.take("backend", choice("cv2", "pil"), "cv2")
    if interpolation == "hamming":
        options.refuse("interpolation", "hamming is not supported")
    return {
        "interpolation": None if interpolation == "bilinear" else interpolation,
        "backend": None if backend == "cv2" else backend,
    }


def _decode(options: Section, pipeline: Pipeline) -> None:
    options.only("channel_first", False)
    order = decoded_order(options)
    backend = options.take("backend", choice("cv2", "pil"), "cv2")
    differing = {
        "backend": None if backend == pipeline.evaluation.get("decode_backend", backend) else backend,
        "order": None if order == pipeline.evaluation.get("channel_order", order) else order,
    }
    if any(differing.values()):
        pipeline.add("decode", **differing)


def _resize(options: Section, pipeline: Pipeline) -> None:
    short = options.take("resize_short", positive, 0)
    size = options.take("size", width_and_height, None)
    if short:
        pipeline.add("resize", short=short, **_resizing(options))
    else:
        if size is None:
            options.refuse("size", "is missing")
        pipeline.add("resize", size=written_size(size or (1, 1)), **_resizing(options))
    options.idle("return_numpy")


# Number of parts of a progressive training in PaddleClas.
_PARTS = 4


def _progress(options: Section, pipeline: Pipeline, key: str, flag: str, values: list[Any] | None) -> bool:
    """Whether an option changes from part to part of the run; `values` are the values of `key`."""
    if not pipeline.progressive or values is None:
        return False
    if len(values) != _PARTS:
        options.refuse(
            key, f"has {len(values)} values, but a progressive training has {_PARTS} parts: give {_PARTS} values"
        )
    pipeline.progress[flag] = values
    return True


def _random_resized_crop(options: Section, pipeline: Pipeline) -> None:
    if pipeline.scaled:
        _scaled_crop(options, pipeline)
        return
    size = options.take("size", width_and_height, None)
    sizes = options.take("progress_size", list_of(width_and_height), None)
    if _progress(options, pipeline, "progress_size", "progressive_sizes", sizes and [written_size(s) for s in sizes]):
        size = None
    scale = options.take("scale", numbers(2), [0.08, 1.0])
    ratio = options.take("ratio", numbers(2), _RATIO)
    pipeline.add(
        "random_resized_crop",
        size=pipeline.sized(size),
        scale=None if scale == [0.08, 1.0] else scale,
        ratio=None if ratio == _RATIO else ratio,
        log_ratio=options.take("use_log_aspect", boolean, False) or None,
        **_resizing(options, "random"),
    )


def _scaled_crop(options: Section, pipeline: Pipeline) -> None:
    """The crop of a MultiScaleDataset, which PaddleClas recreates for each size without its other options."""
    ignored = sorted(options.values.keys() - {"size"})
    options.asked.update(("size", "scale", "ratio", "interpolation", "backend", "use_log_aspect"))
    if lost := [name for name in ignored if name in options.asked]:
        place = options.reading.document.place(options.path)
        options.reading.note(f"{place}: {', '.join(lost)} has no effect, as PaddleClas's MultiScaleDataset ignores it")
    pipeline.add("random_resized_crop")


def _random_crop(options: Section, pipeline: Pipeline) -> None:
    pipeline.add("random_crop", size=pipeline.sized(options.take("size", width_and_height, None)))
    options.only("padding", 0)
    options.only("pad_if_needed", False)


def _center_crop(options: Section, pipeline: Pipeline) -> None:
    pipeline.add("center_crop", size=pipeline.sized(options.take("size", width_and_height, None)))


def _pad(options: Section, pipeline: Pipeline) -> None:
    options.only("pad_mode", 1)
    if options.values.get("pad_mode") is None:
        options.refuse("pad_mode", "padding below and to the right is not supported: give 1 (centred)")
    size = options.take("size", width_and_height, None)
    if size is None:
        options.refuse("size", "is missing")
        return
    pipeline.add("pad", size=pipeline.sized(size), fill=options.take("fill_value", integer, 127))


def _flip(options: Section, pipeline: Pipeline) -> None:
    code = options.take("flip_code", number, 1.0)
    directions = {1: "horizontal", 0: "vertical", -1: "both"}
    if code not in directions:
        options.refuse("flip_code", f"{typed(code)} should be 1, 0 or -1")
    direction = directions.get(int(code), "horizontal")
    pipeline.add("flip", direction=None if direction == "horizontal" else direction)


def _auto_augment(options: Section, pipeline: Pipeline) -> None:
    pipeline.add("auto_augment")


def _rand_augment(name: str) -> Callable[[Section, Pipeline], None]:
    def add(options: Section, pipeline: Pipeline) -> None:
        operations = options.take("num_layers", positive, 2)
        magnitude = None if name == "rand_augment_v3" else options.take("magnitude", number, 5.0)
        interpolation = None
        if name == "rand_augment_v3":
            interpolation = options.take("interpolation", choice(*INTERPOLATIONS), "bicubic")
        if name == "rand_augment_v2":
            magnitudes = options.take("progress_magnitude", list_of(number), None)
            _progress(options, pipeline, "progress_magnitude", "progressive_magnitudes", magnitudes)
        pipeline.add(name, ops=operations, magnitude=magnitude, interpolation=interpolation)

    return add


def _timm_augment(options: Section, pipeline: Pipeline) -> None:
    policy = options.take("config_str", text, "rand-m9-mstd0.5-inc1")
    probability = options.take("prob", fraction, 1.0)
    interpolation = options.take("interpolation", choice("random", *INTERPOLATIONS), "bicubic")
    # Shifts are fractions of the image's size.
    options.take("img_size", width_and_height, (224, 224))
    mean = options.take("mean", numbers(3), _IMAGENET_FILL)
    without = "config_str" in options.values and options.values["config_str"] is None
    if without or not probability:
        return  # without a policy there is nothing to do
    pipeline.add(
        "timm_augment",
        policy=policy,
        p=None if probability == 1 else probability,
        interpolation=None if interpolation == "bicubic" else interpolation,
        fill=None if mean == pipeline.evaluation.get("image_mean") else [round(255 * level) for level in mean],
    )


def _color_jitter(options: Section, pipeline: Pipeline) -> None:
    probability = options.take("p", fraction, 1.0)
    strengths = {
        name: options.take(name, number, 0.0) or None for name in ("brightness", "contrast", "saturation", "hue")
    }
    pipeline.add("color_jitter", **strengths, p=None if probability == 1 else probability)


def _random_erasing(options: Section, pipeline: Pipeline) -> None:
    probability = options.take("EPSILON", fraction, 0.5)
    area = [options.take("sl", fraction, 0.02), options.take("sh", fraction, 0.4)]
    ratio = options.take("r1", number, 0.3)
    mode = options.take("mode", choice("pixel", "rand", "const"), "const")
    if options.take("mean", numbers(3), [0.0] * 3) != [0.0] * 3 and mode == "const":
        options.refuse("mean", "only the mean colour, [0.0, 0.0, 0.0], is supported")
    log_ratio = options.take("use_log_aspect", boolean, False) or None
    attempts = options.take("attempt", positive, 100)
    if probability:
        pipeline.add(
            "random_erasing",
            p=probability,
            area=area,
            ratio=ratio,
            log_ratio=log_ratio,
            mode=mode,
            attempts=attempts,
        )


def _cutout(options: Section, pipeline: Pipeline) -> None:
    pipeline.add("cutout", length=options.take("length", positive, 112), holes=options.take("n_holes", positive, 1))


def _grid_mask(options: Section, pipeline: Pipeline) -> None:
    pipeline.add(
        "grid_mask",
        smallest=options.take("d1", positive, 96),
        largest=options.take("d2", positive, 224),
        rotate=options.take("rotate", positive, 1),
        ratio=options.take("ratio", fraction, 0.5),
        mode=options.take("mode", integer, 0),
        p=options.take("prob", fraction, 1.0),
    )


def _blur(options: Section, pipeline: Pipeline) -> None:
    defaults = {"p": 0.5, "gaussian_size": 12, "motion_size": 12, "motion_angle": 45}
    found = {
        "p": options.take("ratio", fraction, 0.5),
        "gaussian_size": options.take("gaussian_max_ksize", positive, 12),
        "motion_size": options.take("motion_max_ksize", positive, 12),
        "motion_angle": options.take("motion_max_angle", positive, 45),
    }
    pipeline.add("blur", **{name: None if value == defaults[name] else value for name, value in found.items()})


def _plain(name: str) -> Callable[[Section, Pipeline], None]:
    """An operation whose options are converted directly, with defaults."""
    return lambda options, pipeline: pipeline.add(name)


def _nothing(options: Section, pipeline: Pipeline) -> None:
    """An operation that we always do."""


# PaddleClas's name -> function that adds the word; whether it must precede NormalizeImage (False: follow; None:
# either).
_OPERATIONS: dict[str, tuple[Callable[[Section, Pipeline], None], bool | None]] = {
    "DecodeImage": (_decode, True),
    "ResizeImage": (_resize, True),
    "RandCropImage": (_random_resized_crop, True),
    "RandomCropImage": (_random_crop, True),
    "CropImage": (_center_crop, True),
    "Padv2": (_pad, True),
    "RandFlipImage": (_flip, None),
    "AutoAugment": (_auto_augment, True),
    "RandAugment": (_rand_augment("rand_augment"), True),
    "RandAugmentV2": (_rand_augment("rand_augment_v2"), True),
    "RandAugmentV3": (_rand_augment("rand_augment_v3"), True),
    "TimmAutoAugment": (_timm_augment, True),
    "ColorJitter": (_color_jitter, True),
    "PCALighting": (_plain("pca_lighting"), True),
    "RandomErasing": (_random_erasing, False),
    "Cutout": (_cutout, False),
    "GridMask": (_grid_mask, False),
    "HideAndSeek": (_plain("hide_and_seek"), False),
    "BlurImage": (_blur, True),
    "RandomRot90": (_plain("random_rot90"), None),
    "ToCHWImage": (_nothing, None),
}


def read_training(section: Section, evaluation: dict[str, Any], scaled: bool = False) -> dict[str, Any]:
    """The flags of a training pipeline, `transform_ops` of `section`.

    Args:
        section: of the training data set.
        evaluation: the `INPUT_FLAGS` of evaluation.
        scaled: whether it is a MultiScaleDataset.
    """
    shape = evaluation.get("image_shape", [3, 224, 224])
    pipeline = Pipeline((shape[1], shape[2]), evaluation, scaled, section.reading.progressive)
    for name, options in section.entries("transform_ops"):
        if name == "NormalizeImage":
            _check_normalization(options, evaluation)
            pipeline.normalized = True
        elif scaled and name in ("ResizeImage", "CropImage"):
            options.refuse(None, "is not supported in a MultiScaleDataset: use RandCropImage")
        elif name not in _OPERATIONS:
            options.refuse(None, f"the transform is not supported; choose from {', '.join(_OPERATIONS)}")
        else:
            add, before = _OPERATIONS[name]
            if before is not None and before is pipeline.normalized:
                options.refuse(None, f"is supported only {'before' if before else 'after'} NormalizeImage")
            add(options, pipeline)
            options.finish()
    if not pipeline.operations:
        section.refuse("transform_ops", "no operation gives all images the same size: add RandCropImage or ResizeImage")
    if pipeline.progressive and "progressive_sizes" not in pipeline.progress:
        section.refuse("transform_ops", "a progressive training needs RandCropImage with a progress_size")
    simple = _simple(pipeline)
    found = {"train_transforms": pipeline.words()} if simple is None else simple
    if pipeline.progress and section.reading.flags.get("model") == "EfficientNetV2_S":
        pipeline.progress["progressive_dropouts"] = _DROPOUTS
    return found | pipeline.progress


def _check_normalization(options: Section, evaluation: dict[str, Any]) -> None:
    """Refuses a normalisation that differs from evaluation's."""
    try:
        found, _ = input_flags(read_transforms([{"NormalizeImage": options.values}]))
    except FormatError as error:
        options.refuse(None, str(error))
        return
    for name in ("image_mean", "image_std"):
        if evaluation and any(abs(a - b) > 1e-6 for a, b in zip(found[name], evaluation[name], strict=True)):
            options.refuse(None, "the normalisation differs from that of evaluation")
            return


def _simple(pipeline: Pipeline) -> dict[str, Any] | None:
    """The flags of a pipeline that is just a random crop and a flip, resized as in evaluation; None for any other."""
    if [name for name, _ in pipeline.operations] != ["random_resized_crop", "flip"]:
        return None
    (_, crop), (_, flip) = pipeline.operations
    scale, ratio = crop.get("scale", [0.08, 1.0]), crop.get("ratio", _RATIO)
    resizing = INTERPOLATIONS.get(crop.get("interpolation", "bilinear")), crop.get("backend", "cv2")
    evaluation = pipeline.evaluation
    same = resizing == (evaluation.get("interpolation"), evaluation.get("resize_backend"))
    # With these, a scale of 1 would not crop.
    whole = scale[0] == 1 and evaluation.get("resize_mode") in ("exact", "pad")
    if flip or {"size", "log_ratio"} & set(crop) or not same or whole or scale[1] != 1:
        return None
    flags: dict[str, Any] = {} if scale[0] == 0.08 else {"lower_scale": scale[0]}
    return flags if ratio == _RATIO else {**flags, "lower_ratio": ratio[0], "upper_ratio": ratio[1]}
