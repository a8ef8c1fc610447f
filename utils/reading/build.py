"""From flags to loaders."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from utils.errors import FlagError
from utils.flags.inputs import INPUT_FLAGS, check_short_size
from utils.reading import augment
from utils.reading.class_names import Names
from utils.reading.crops import MultiCropTransform
from utils.reading.dali_loader import DaliLoader
from utils.reading.dataset import MissingPart, open_dataset
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader
from utils.reading.opencv_loader import OpenCVLoader
from utils.reading.pipeline import Pipeline
from utils.reading.resize import Colour, Resizer
from utils.reading.transforms import EvalTransform, TrainTransform
from utils.reading.words import pipeline_of_words


def share_of_batch(flag: str, batch_size: int, world_size: int) -> int:
    """Images per process of a global batch; raises `FlagError` if they do not divide evenly."""
    if batch_size % world_size:
        raise FlagError(f"--{flag} {batch_size} does not divide evenly over {world_size} processes")
    return batch_size // world_size


def eval_transform(settings: object) -> EvalTransform:
    """Evaluation preprocessing by the `INPUT_FLAGS`: `settings` has them for attributes, as flags or the description of
    an exported network do."""
    values = {name: getattr(settings, name) for name in INPUT_FLAGS}
    fill = mean_colour(values.pop("image_mean"), values["channel_order"])
    del values["image_std"]
    values |= decoding(settings)
    return EvalTransform(tuple(values.pop("image_shape")[1:]), fill=fill, **values)


def decoding(settings: Any) -> dict[str, Any]:
    """What transforms have to know of how files are decoded, by the flags."""
    depth_range = settings.image_depth_range and tuple(settings.image_depth_range)
    if depth_range and depth_range[0] >= depth_range[1]:
        raise FlagError(f"--image_depth_range {depth_range[0]} {depth_range[1]}: the first is not below the second")
    return {
        "decode_backend": settings.decode_backend,
        "background": settings.background and tuple(settings.background),
        "image_depth_range": depth_range,
    }


def mean_colour(image_mean: Sequence[float], channel_order: str) -> Colour:
    """The colour, RGB, that is nearest to 0 after normalisation."""
    levels = [min(255, max(0, round(255 * value))) for value in image_mean]
    red, green, blue = levels if channel_order == "rgb" else levels[::-1]
    return red, green, blue


def train_transform(args: Namespace) -> TrainTransform | Pipeline:
    """Training preprocessing by the flags."""
    if args.train_transforms:
        if args.use_dali:
            raise FlagError("--train_transforms is done by the readers of --use_dali=False: leave out one of them")
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


def training_images(args: Namespace) -> ImageList:
    """The training list, followed by that of --unlabeled_list if there is one."""
    images = open_dataset(args.data_dir, "train", args.class_dim, args.multi_label, list_path=args.train_list)
    if not args.unlabeled_list:
        return images
    unlabeled = ImageList.find(os.path.join(args.data_dir, args.unlabeled_list))
    # Its paths are relative to --data_dir, those of the training list may be to a folder in it.
    prefix = os.path.relpath(args.data_dir, images.root)
    return images.with_unlabeled(
        os.path.normpath(os.path.join(prefix, unlabeled.name(index))) for index in range(len(unlabeled))
    )


def validation_images(args: Namespace, class_names: Names = ()) -> ImageList:
    """The validation list; raises `UserError` if there is none. For `class_names` see `val_loader`."""
    try:
        root = args.val_dir or args.data_dir
        return open_dataset(root, "val", args.class_dim, args.multi_label, class_names, args.val_list)
    except MissingPart as error:
        if args.script != "train":
            raise
        raise MissingPart(f"{error}; or train without, by --validate=False") from None


def _pipeline(args: Namespace) -> type[Loader]:
    """The pipeline that --use_dali chooses."""
    return DaliLoader if args.use_dali else OpenCVLoader


def train_loader(args: Namespace, seed: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> Loader:
    """The training loader that train.py's flags ask for."""
    if args.use_dali and (not args.drop_last or args.augment_repeats > 1):
        flag = "augment_repeats" if args.drop_last else "drop_last=False"
        raise FlagError(f"--{flag} is done by the readers of --use_dali=False: leave out one of them")
    return _pipeline(args)(
        training_images(args),
        train_transform(args),
        share_of_batch("batch_size", args.batch_size, world_size),
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
    )


def val_loader(
    args: Namespace, rank: int = 0, world_size: int = 1, pin_memory: bool = False, class_names: Names = ()
) -> Loader:
    """The validation loader of train.py (--test_batch_size) and eval.py (--batch_size).

    Class folders are numbered by the training's `class_names`, as far as they are known.
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

    --batch_size and --reader_buf_size count crops, so that they need the memory of as many single images.
    For `class_names` see `val_loader`.
    """
    height, width = args.image_shape[1:]
    if height != width:
        raise FlagError(f"--crop_num={args.crop_num} takes squares: {height} x {width} of --image_shape is none")
    if args.resize_mode != "short" and "resize_mode" in args.given:
        raise FlagError(f"--crop_num={args.crop_num} has crops of its own: leave out --resize_mode")
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
    """The loader of infer.py and predict.py. A single batch is read in this process: workers take longer to start.

    --batch_size is of each process, unlike elsewhere.
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
