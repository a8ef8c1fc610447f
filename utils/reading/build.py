"""Builds loaders from flags."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import FlagError
from utils.files import check_can_write_into
from utils.flags.inputs import INPUT_FLAGS, check_short_size
from utils.flags.kinds import sides
from utils.reading import augment
from utils.reading.balance import POWERS
from utils.reading.class_names import Names
from utils.reading.crops import MultiCropTransform
from utils.reading.dali_loader import DaliLoader
from utils.reading.dataset import MissingPart, open_dataset
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader
from utils.reading.opencv_loader import OpenCVLoader
from utils.reading.range_cache import RangeCache
from utils.reading.remote import is_url
from utils.reading.resize import Colour, Resizer
from utils.reading.transforms import EvalTransform, TrainTransform
from utils.reading.varying import Scales, Stages, Varying, scaled_batches

if TYPE_CHECKING:
    from utils.reading.pipeline import Pipeline


def share_of_batch(flag: str, batch_size: int, world_size: int) -> int:
    """Images per process of a global batch; raises `FlagError` if they do not divide evenly."""
    if batch_size % world_size:
        raise FlagError(f"--{flag} {batch_size} does not divide evenly over {world_size} processes")
    return batch_size // world_size


def eval_transform(settings: object) -> EvalTransform:
    """Evaluation preprocessing by the `INPUT_FLAGS`, given as attributes of `settings`: flags, or an exported network's
    description.
    """
    values = {name: getattr(settings, name) for name in INPUT_FLAGS}
    fill = mean_colour(values.pop("image_mean"), values["channel_order"])
    del values["image_std"]
    values |= decoding(settings)
    return EvalTransform(tuple(values.pop("image_shape")[1:]), fill=fill, **values)


def decoding(settings: Any) -> dict[str, Any]:
    """The decoding settings for transforms."""
    depth_range = settings.image_depth_range and tuple(settings.image_depth_range)
    if depth_range and depth_range[0] >= depth_range[1]:
        raise FlagError(
            f"--image_depth_range {depth_range[0]} {depth_range[1]}: the first value must be below the second"
        )
    return {
        "decode_backend": settings.decode_backend,
        "background": settings.background and tuple(settings.background),
        "image_depth_range": depth_range,
    }


def mean_colour(image_mean: Sequence[float], channel_order: str) -> Colour:
    """The RGB colour closest to 0 after normalisation."""
    levels = [min(255, max(0, round(255 * value))) for value in image_mean]
    red, green, blue = levels if channel_order == "rgb" else levels[::-1]
    return red, green, blue


def train_transform(args: Namespace) -> TrainTransform | Pipeline:
    """The training preprocessing."""
    if args.train_transforms:
        if args.use_dali:
            raise FlagError("--train_transforms does not work with --use_dali: leave out one of them")
        from utils.reading.words import pipeline_of_words  # imports Pillow, which only train.py needs

        return pipeline_of_words(args.train_transforms, args)
    mean = mean_colour(args.image_mean, args.channel_order)
    return TrainTransform(
        tuple(args.image_shape[1:]),
        args.lower_scale,
        args.lower_ratio,
        args.upper_ratio,
        args.interpolation,
        augment.image_operations(args, mean),
        resize_mode=args.resize_mode,
        resize_backend=args.resize_backend,
        channel_order=args.channel_order,
        fill=mean,
        flip_prob=args.flip_prob,
        vertical_flip_prob=args.vertical_flip_prob,
        **decoding(args),
    )


def range_cache(args: Namespace) -> RangeCache | None:
    """The cache of remote shards in --cache_dir; None without the flag.

    Raises:
        UserError: the folder is not writable.
    """
    if not args.cache_dir:
        return None
    check_can_write_into(Path(args.cache_dir), "--cache_dir")
    return RangeCache(args.cache_dir, int(args.cache_size * 1e9))


def training_images(args: Namespace) -> ImageList:
    """The training list, followed by that of --unlabeled_list if there is one."""
    if args.unlabeled_list and is_url(args.data_dir):
        raise FlagError(f"--unlabeled_list needs loose image files, but --data_dir={args.data_dir} has tar shards")
    images = open_dataset(
        args.data_dir,
        "train",
        args.class_dim,
        args.multi_label,
        list_path=args.train_list,
        delimiter=args.list_delimiter,
        labelled=args.label_from is None,
        cache=range_cache(args),
    )
    if not args.unlabeled_list:
        return images
    unlabeled = ImageList.find(os.path.join(args.data_dir, args.unlabeled_list))
    # Its paths are relative to --data_dir; the training list's may be relative to a folder in it.
    prefix = os.path.relpath(args.data_dir, images.root)
    return images.with_unlabeled(
        os.path.normpath(os.path.join(prefix, unlabeled.name(index))) for index in range(len(unlabeled))
    )


def validation_images(args: Namespace, class_names: Names = ()) -> ImageList:
    """The validation list; raises `UserError` if there is none. For `class_names` see `val_loader`."""
    try:
        root = args.val_dir or args.data_dir
        delimiter, cache = args.list_delimiter, range_cache(args)
        return open_dataset(
            root, "val", args.class_dim, args.multi_label, class_names, args.val_list, delimiter, cache=cache
        )
    except MissingPart as error:
        if args.script != "train":
            raise
        raise MissingPart(f"{error}; or train without validation: --validate=False") from None


def _pipeline(args: Namespace) -> type[Loader]:
    """The pipeline that --use_dali chooses."""
    return DaliLoader if args.use_dali else OpenCVLoader


def train_loader(
    args: Namespace,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    images: ImageList | None = None,
) -> Loader:
    """The training loader for train.py's flags; `images` is its list, if already read."""
    _check_training(args)
    batch_size = share_of_batch("batch_size", args.batch_size, world_size)
    return _pipeline(args)(
        training_images(args) if images is None else images,
        train_transform(args),
        batch_size,
        training=True,
        workers=args.reader_thread,
        read_ahead_images=args.reader_buf_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
        drop_last=args.drop_last,
        shuffle=args.shuffle,
        repeats=args.augment_repeats,
        balance=None if args.balance_classes is None else POWERS[args.balance_classes],
        varying=varying_transforms(args, batch_size),
    )


def _check_training(args: Namespace) -> None:
    """Raises `FlagError` for flags of the training images that cannot work together."""
    opencv = {
        "drop_last=False": not args.drop_last,
        "augment_repeats": args.augment_repeats > 1,
        "balance_classes": args.balance_classes,
        "multi_scale": args.multi_scale,
        "progressive_sizes": args.progressive_sizes,
    }
    if args.use_dali and (wrong := next((flag for flag, given in opencv.items() if given), None)):
        raise FlagError(f"--{wrong} does not work with --use_dali: leave out one of them")
    if args.label_from and (args.multi_label or not args.train_transforms):
        why = "sets a single label" if args.multi_label else f"needs --train_transforms with the word {args.label_from}"
        raise FlagError(f"--label_from={args.label_from} {why}" + (": leave out --multi_label" * args.multi_label))
    drawing = {
        "augment_repeats": args.augment_repeats > 1,
        "unlabeled_list": args.unlabeled_list,
        "shuffle=False": not args.shuffle,
        "multi_label": args.multi_label,
        "label_from": args.label_from,
    }
    if args.balance_classes and (wrong := next((flag for flag, given in drawing.items() if given), None)):
        raise FlagError(f"--balance_classes needs one label per image, from the list: leave it out, or --{wrong}")
    if args.multi_scale and args.progressive_sizes:
        raise FlagError("--multi_scale and --progressive_sizes both set the training sizes: leave out one of them")
    for flag in ("progressive_magnitudes", "progressive_dropouts"):
        values = getattr(args, flag)
        if values and len(values) != len(args.progressive_sizes or ()):
            raise FlagError(
                f"--{flag} has {len(values)} values, and --progressive_sizes {len(args.progressive_sizes or ())}: give "
                "one for each part of the run"
            )


def varying_transforms(args: Namespace, batch_size: int) -> Varying | None:
    """The alternating training transforms of --multi_scale or --progressive_sizes; else None.

    Args:
        args: train.py's flags.
        batch_size: images per batch of this process.
    """
    if args.multi_scale:
        factor = args.multi_scale_factor
        sizes = [sides(size) for size in args.multi_scale]
        if small := next((size for size in sizes if min(size) < factor), None):
            raise FlagError(f"--multi_scale {small[0]}x{small[1]} is below --multi_scale_factor {factor}: lower it")
        scales = scaled_batches(sizes, factor, batch_size)
        transforms = tuple(_transform_of_size(args, "multi_scale", size) for size, _ in scales)
        return Scales(transforms, tuple(images for _, images in scales))
    if args.progressive_sizes:
        drawn = args.use_ra or any(word.startswith("rand_augment") for word in args.train_transforms or ())
        if args.progressive_magnitudes and not drawn:
            raise FlagError(
                "--progressive_magnitudes needs RandAugment: give --use_ra=True or a word such as rand_augment"
            )
        magnitudes = args.progressive_magnitudes or [None] * len(args.progressive_sizes)
        transforms = tuple(
            _transform_of_size(args, "progressive_sizes", sides(size), magnitude)
            for size, magnitude in zip(args.progressive_sizes, magnitudes, strict=True)
        )
        return Stages(transforms, batch_size, args.num_epochs, args.drop_last)
    return None


def _transform_of_size(
    args: Namespace, flag: str, size: tuple[int, int], magnitude: float | None = None
) -> TrainTransform | Pipeline:
    """The training transform for another image size than --image_shape and another RandAugment magnitude."""
    values = vars(args) | {"image_shape": [3, *size]}
    if magnitude is not None:
        values["ra_magnitude"] = magnitude
        from utils.reading.words import words_of_magnitude

        values["train_transforms"] = words_of_magnitude(args.train_transforms, magnitude)
    transform = train_transform(Namespace(**values))
    if transform.image_size != size:
        made = "x".join(map(str, transform.image_size))
        raise FlagError(
            f"--{flag} {size[0]}x{size[1]}: the words of --train_transforms make images of {made}: leave out size="
        )
    return transform


def val_loader(
    args: Namespace, rank: int = 0, world_size: int = 1, pin_memory: bool = False, class_names: Names = ()
) -> Loader:
    """The validation loader of train.py (--test_batch_size) and eval.py (--batch_size).

    Class folders are numbered like the training's `class_names`, as far as known.
    """
    flag = "test_batch_size" if args.script == "train" else "batch_size"
    return _pipeline(args)(
        validation_images(args, class_names),
        eval_transform(args),
        share_of_batch(flag, getattr(args, flag), world_size),
        training=False,
        workers=args.reader_thread,
        read_ahead_images=args.reader_buf_size,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def crop_loader(
    args: Namespace, rank: int = 0, world_size: int = 1, pin_memory: bool = False, class_names: Names = ()
) -> Loader:
    """The validation loader of eval.py for many crops per image, uint8 (images, crops, height, width, 3).

    --batch_size and --reader_buf_size count crops, so memory use matches that of single images. For `class_names` see
    `val_loader`.
    """
    height, width = args.image_shape[1:]
    if height != width:
        raise FlagError(f"--crop_num={args.crop_num} needs a square --image_shape, not {height} x {width}")
    if args.resize_mode != "short" and "resize_mode" in args.given:
        raise FlagError(f"--crop_num={args.crop_num} defines its own crops: leave out --resize_mode")
    check_short_size(args.resize_short_size, (height, width), "short")
    transform = MultiCropTransform(
        args.crop_num,
        height,
        args.resize_short_size,
        Resizer(args.interpolation, args.resize_backend),
        channel_order=args.channel_order,
        **decoding(args),
    )
    share = share_of_batch("batch_size", args.batch_size, world_size)
    return OpenCVLoader(
        validation_images(args, class_names),
        transform,
        max(1, share // args.crop_num),
        training=False,
        workers=args.reader_thread,
        read_ahead_images=2 * args.reader_buf_size // args.crop_num,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def infer_loader(
    args: Namespace,
    images: ImageList,
    transform: EvalTransform,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Loader:
    """The loader of infer.py and predict.py. A single batch is read in this process, as workers take longer to start.

    --batch_size is per process, unlike elsewhere.
    """
    share = -(-len(images) // world_size)
    return OpenCVLoader(
        images,
        transform,
        min(args.batch_size, share),
        training=False,
        workers=args.reader_thread if share > args.batch_size else 0,
        read_ahead_images=args.reader_buf_size,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )
