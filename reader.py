"""From image files to batches, for train.py, eval.py, infer.py and predict.py: the OpenCV pipeline, in worker
processes, and the DALI pipeline, behind one interface.

    images = open_dataset("data/ILSVRC2012", "train", class_dim=1000)
    loader = OpenCVLoader(images, TrainTransform((224, 224)), batch_size=64, training=True, workers=8, seed=0)
    for batch in loader.epoch(0):
        inputs = normalize(batch.images.to(device, non_blocking=True), mean, std)

As a script it shows what the network sees, or checks a dataset:

    python reader.py --data_dir=data/ILSVRC2012 --use_aa=True --show=grid.png
    python reader.py --data_dir=data/ILSVRC2012 --check

It also splits a folder of class folders into training and validation:

    python reader.py --data_dir=flowers --split=0.2

The reader itself is utils/reading/; this is its front end. Images cross processes and the bus as uint8, never as
floating point.
"""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from utils.errors import LESS_MEMORY, FlagError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("reader")  # answers --help and misspelt flags before the slow import of PyTorch

import numpy as np
import torch

from utils.console import check_readable, is_main_process, log, report_unreadable
from utils.files import check_can_write
from utils.flags.idle import note_idle_flags
from utils.processes import check_agreement, process_group, refuse_several
from utils.reading.build import (
    crop_loader,
    decoding,
    eval_transform,
    infer_loader,
    train_loader,
    train_transform,
    training_images,
    val_loader,
    validation_images,
)
from utils.reading.class_names import Names, name_of, read_class_names
from utils.reading.crops import MultiCropTransform
from utils.reading.dali_loader import DaliLoader
from utils.reading.dataset import open_dataset
from utils.reading.dataset_report import describe_dataset, describe_overlap, draw_batch, note_cut_off
from utils.reading.duplicates import groups_of
from utils.reading.file_report import report_contents
from utils.reading.image_list import ImageList
from utils.reading.inspection import Inspect, Inspected, inspect_images
from utils.reading.loader import Batch, Loader
from utils.reading.normalize import normalize
from utils.reading.numbering import check_parts, known_names
from utils.reading.opencv_loader import OpenCVLoader
from utils.reading.problems import Problem, write_problems
from utils.reading.split import split_class_folders
from utils.reading.transforms import EvalTransform, TrainTransform
from utils.training.loss import Targets
from utils.training.mixing import mix

# What other programs may import from here.
__all__ = (
    "Batch",
    "DaliLoader",
    "EvalTransform",
    "ImageList",
    "Loader",
    "MultiCropTransform",
    "OpenCVLoader",
    "TrainTransform",
    "crop_loader",
    "eval_transform",
    "infer_loader",
    "normalize",
    "open_dataset",
    "train_loader",
    "train_transform",
    "val_loader",
)


def show(args: Namespace) -> None:
    """Saves the first training batch to --show, as the network sees it, with labels below the images."""
    loader = train_loader(args, args.random_seed or 0)
    batch = next(loader.epoch(0))
    inputs = normalize(batch.images, args.image_mean, args.image_std)
    alphas = args.use_mixup * args.mixup_alpha, args.use_cutmix * args.cutmix_alpha
    rng = np.random.default_rng(args.random_seed or 0)
    inputs, targets = mix(inputs, batch.labels.to(inputs.device), *alphas, rng, args.mixup_prob, args.cutmix_prob)
    known = class_names(args, loader.images)
    numbers = [*map(str, range(args.class_dim)), "unlabeled"]  # -1 is the last
    names = [name_of(known, number) or text for number, text in enumerate(numbers)]
    captions, instead = (captions_of(targets, texts) for texts in (names, numbers))
    draw_batch(args.show, inputs, args.image_mean, args.image_std, args.channel_order, captions, instead)


def captions_of(targets: Targets, names: list[str]) -> list[str]:
    """A caption for each image of a batch: its class name, or both names for a mixed image."""
    if targets.mixed_labels is None:
        return names_of(targets.labels, names)
    pairs = zip(names_of(targets.labels, names), names_of(targets.mixed_labels, names), strict=True)
    return [f"{targets.weight:.2f} {own} + {other}" for own, other in pairs]


def names_of(labels: torch.Tensor, names: list[str]) -> list[str]:
    """The name of each image's label, or the names of its labels."""
    if labels.dim() == 1:
        return [names[label] for label in labels.tolist()]
    return [" ".join(names[label] for label in row.nonzero()[:, 0].tolist()) or "none" for row in labels]


def class_names(args: Namespace, images: ImageList) -> Names:
    """The names of the classes: from --class_map_path, or else from the dataset."""
    if args.class_map_path:
        return read_class_names(args.class_map_path, args.class_dim)
    return known_names(images, args.data_dir, args.class_dim if "class_dim" in args.given else None)


def duplicate_groups(args: Namespace, images: ImageList) -> np.ndarray:
    """For each image the number of its group of near-duplicates, int64 (images,)."""
    transform = Inspect(quick=True, **decoding(args))
    found = inspect_images(images, transform, args.reader_thread, args.reader_buf_size)
    report_unreadable(found.unreadable)
    groups = np.arange(len(images))
    groups[found.rows] = found.rows[groups_of(found.records["fingerprint"])]
    return groups


def check(args: Namespace, part: str) -> tuple[Inspected, list[Problem]]:
    """Reads every image of a part of the dataset once, divided among the processes, and reports what it finds."""
    images = training_images(args) if part == "train" else validation_images(args)
    check_agreement({"data_dir": images.summary()})
    transform = Inspect(**decoding(args))
    found = inspect_images(images, transform, args.reader_thread, args.reader_buf_size, report_contents)
    check_readable(found.unreadable, len(found.rows))
    problems = []
    if is_main_process():
        problems = describe_dataset(part, found, args.class_dim, class_names(args, images))
        sizes = np.stack((found.records["height"], found.records["width"]), 1)
        note_cut_off(part, sizes, (args.image_shape[1], args.image_shape[2]), args.resize_mode)
    return found, problems


def check_parts_of(args: Namespace) -> None:
    """Checks the parts that --check names: one, or both and whether they fit together."""
    found: dict[str, Inspected] = {}
    problems: list[Problem] = []
    if args.check_path:
        check_can_write(Path(args.check_path), "--check_path")
    with process_group(torch.device("cpu")):
        for part in ("train", "val") if args.check == "*" else (args.check,):
            found[part], more = check(args, part)
            problems += more
        if not is_main_process():
            return
        if len(found) == 2:
            problems += describe_overlap(found["train"], found["val"])
        if args.check_path:
            write_problems(Path(args.check_path), problems)
            log(f"{args.check_path}: {len(problems)} findings, one per line")
    if len(found) == 2 and args.label_from is None:
        check_parts(found["train"].images, found["val"].images, args.data_dir)


def main() -> None:
    args = parse("reader")
    if args.check not in (None, "*", "train", "val"):
        raise FlagError(f"--check={args.check}: give train or val, or no value for both")
    if not args.show and not args.check and not args.split:
        raise FlagError("nothing to do: give --show=FILE.png, --check or --split=0.2")
    note_idle_flags(args)
    if args.split:
        refuse_several("--split")
        group = partial(duplicate_groups, args) if args.group_duplicates else None
        split_class_folders(args.data_dir, args.split, args.random_seed or 0, group)
    if args.show:
        refuse_several("--show")
        show(args)
    if args.check:
        check_parts_of(args)


if __name__ == "__main__":
    run_script(main, LESS_MEMORY)
