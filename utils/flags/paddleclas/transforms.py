"""PaddleClas's training transforms of images as flags.

The pipeline becomes --train_transforms, a word for each operation in the order of the file; one that only takes a
random crop and flips it becomes the flags that say so.
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
# Of PaddleClas's EfficientNetV2_S in the parts of its training.
_DROPOUTS = [0.1, 1 / 6, 7 / 30, 0.3]
_IMAGENET_FILL = [0.485, 0.456, 0.406]


@dataclass
class Pipeline:
    """A training pipeline as it is read.

    Attributes:
        size: height and width of the network's input.
        evaluation: the `INPUT_FLAGS` of evaluation, from which training may differ.
        operations: of --train_transforms, with their options.
        scaled: the images are of the sizes that a MultiScaleSampler draws.
        progressive: the run has parts, of sizes and magnitudes of their own: `progress`.
        progress: flags of the parts.
        normalized: whether NormalizeImage has been met.
    """

    size: tuple[int, int]
    evaluation: dict[str, Any]
    scaled: bool = False
    progressive: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    normalized: bool = False

    def add(self, name: str, **options: Any) -> None:
        """Adds an operation; options that are None are left out."""
        self.operations.append((name, {option: value for option, value in options.items() if value is not None}))

    def words(self) -> list[str]:
        """The operations as they are typed: NAME:option=value, or :option alone where it is True."""
        return [":".join([name, *starmap(_option, options.items())]) for name, options in self.operations]

    def sized(self, size: tuple[int, int] | None) -> str | None:
        """A size, width and height, as it is written, HEIGHTxWIDTH; None for that of the network's input."""
        return None if size is None or size[::-1] == self.size else written_size(size)


def _option(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name}={'/'.join(map(typed, value)) if isinstance(value, list) else typed(value)}"


def _resizing(options: Section, mode: str = "") -> dict[str, str | None]:
    """The options of how something is resized, where they are not the usual ones."""
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


# Parts of a run of growing images in PaddleClas.
_PARTS = 4


def _progress(options: Section, pipeline: Pipeline, key: str, flag: str, values: list[Any] | None) -> bool:
    """Whether an option is another one in each part of the run; `values` are those of `key`."""
    if not pipeline.progressive or values is None:
        return False
    if len(values) != _PARTS:
        options.refuse(key, f"{len(values)} values, and a progressive training has {_PARTS} parts")
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
    """The crop of a MultiScaleDataset, which makes it anew for each size, without its other options."""
    ignored = sorted(options.values.keys() - {"size"})
    options.asked.update(("size", "scale", "ratio", "interpolation", "backend", "use_log_aspect"))
    if lost := [name for name in ignored if name in options.asked]:
        place = options.reading.document.place(options.path)
        options.reading.note(
            f"{place}: PaddleClas's MultiScaleDataset takes no {', '.join(lost)} of it, nor is it here"
        )
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
        options.refuse("pad_mode", "padding below and to the right is not supported: 1 (about the middle) is")
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
    # Shifts are shares of the image's own size.
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
        options.refuse("mean", "another colour than the mean, [0.0, 0.0, 0.0], is not supported")
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
    """An operation whose options are those of the file's defaults."""
    return lambda options, pipeline: pipeline.add(name)


def _nothing(options: Section, pipeline: Pipeline) -> None:
    """An operation that is done here anyway."""


# PaddleClas's name -> what adds the word; whether it is before NormalizeImage (False: after it; None: either).
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
        scaled: it is a MultiScaleDataset.
    """
    shape = evaluation.get("image_shape", [3, 224, 224])
    pipeline = Pipeline((shape[1], shape[2]), evaluation, scaled, section.reading.progressive)
    for name, options in section.entries("transform_ops"):
        if name == "NormalizeImage":
            _check_normalization(options, evaluation)
            pipeline.normalized = True
        elif scaled and name in ("ResizeImage", "CropImage"):
            options.refuse(None, "is not supported in a MultiScaleDataset: RandCropImage is")
        elif name not in _OPERATIONS:
            options.refuse(None, f"the transform is not supported; there are {', '.join(_OPERATIONS)}")
        else:
            add, before = _OPERATIONS[name]
            if before is not None and before is pipeline.normalized:
                options.refuse(None, f"is supported {'before' if before else 'after'} NormalizeImage only")
            add(options, pipeline)
            options.finish()
    if not pipeline.operations:
        section.refuse("transform_ops", "nothing gives the images one size: RandCropImage or ResizeImage does")
    if pipeline.progressive and "progressive_sizes" not in pipeline.progress:
        section.refuse("transform_ops", "a progressive training needs RandCropImage with a progress_size")
    simple = _simple(pipeline)
    found = {"train_transforms": pipeline.words()} if simple is None else simple
    if pipeline.progress and section.reading.flags.get("model") == "EfficientNetV2_S":
        pipeline.progress["progressive_dropouts"] = _DROPOUTS
    return found | pipeline.progress


def _check_normalization(options: Section, evaluation: dict[str, Any]) -> None:
    """Refuses pixels that are normalised otherwise than in evaluation."""
    try:
        found, _ = input_flags(read_transforms([{"NormalizeImage": options.values}]))
    except FormatError as error:
        options.refuse(None, str(error))
        return
    for name in ("image_mean", "image_std"):
        if evaluation and any(abs(a - b) > 1e-6 for a, b in zip(found[name], evaluation[name], strict=True)):
            options.refuse(None, "pixels are normalised otherwise than in evaluation")
            return


def _simple(pipeline: Pipeline) -> dict[str, Any] | None:
    """The flags of a pipeline of a random crop and a flip, resized as in evaluation; None for any other."""
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
