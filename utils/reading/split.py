"""Splits class folders into a training and a validation list."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.console import log, warn
from utils.errors import UserError
from utils.files import write_text
from utils.reading.folders import LeftOut, class_folders, image_files, without_images
from utils.reading.image_list import ImageList


def split_class_folders(
    data_dir: str, share: float, seed: int, group: Callable[[ImageList], np.ndarray] | None = None
) -> None:
    """Writes train_list.txt and val_list.txt into a folder of class folders, NAME/ or train/NAME/. Moves no images.

    Holds out a random share of each class, as close as possible to `share`, but at least one image for each side, so
    validation has all classes. Groups from `group` stay on one side, even if the share suffers. Classes are numbered in
    the order of their names.

    Args:
        data_dir: the folder.
        share: fraction of each class for validation.
        seed: of the random choice.
        group: returns each image's group number, int64 (images,); None: no groups.

    Raises:
        UserError: there are no class folders, lists or validation images already exist, an image's name cannot be in a
            list, or the lists cannot be written.
    """
    below, files = _class_files(data_dir)
    paths, labels = [], []
    for label, (name, images) in enumerate(files.items()):
        paths += [os.path.join(below, name, image) for image in images]
        labels += [label] * len(images)
    if odd := next((path for path in paths if path != path.lstrip() or len(path.splitlines()) > 1), None):
        raise UserError(f"--split: {odd!r} contains a line break or begins with a blank: rename it")

    images = ImageList.from_paths(paths, labels, data_dir)
    groups = np.arange(len(paths)) if group is None else group(images)
    held_out = draw(images.labels, groups, share, np.random.default_rng(seed))
    _say_groups(images.labels, groups)
    if single := [name for name, images in files.items() if len(images) == 1]:
        warn(f"--split: classes with only one image, which goes to training ({len(single)}): {without_images(single)}")
    missing = np.bincount(images.labels[held_out], minlength=len(files)) == 0
    if alone := [name for name, none in zip(files, missing, strict=True) if none and name not in single]:
        warn(
            f"--split: all images of {len(alone)} classes are near-duplicates of each other and go to training: "
            f"{without_images(alone)}"
        )
    for part, chosen in (("train", ~held_out), ("val", held_out)):
        lines = (f"{paths[row]} {labels[row]}\n" for row in np.flatnonzero(chosen).tolist())
        write_text(Path(data_dir, f"{part}_list.txt"), "".join(lines), "--data_dir")
    log(
        f"wrote {np.count_nonzero(~held_out)} images to {os.path.join(data_dir, 'train_list.txt')}, and "
        f"{np.count_nonzero(held_out)} to val_list.txt next to it: train.py --data_dir={data_dir} "
        f"--class_dim={len(files)}"
    )


def _class_files(data_dir: str) -> tuple[str, dict[str, list[str]]]:
    """The folder in `data_dir` with the class folders, "" for `data_dir` itself, and the images of each class; raises
    `UserError`.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir {data_dir}: no such folder")
    for name in ("train_list.txt", "val_list.txt", "val"):
        if os.path.exists(path := os.path.join(data_dir, name)):
            raise UserError(f"--split: {path} already exists, so the images are already divided: remove it first")
    below = "train" if os.path.isdir(os.path.join(data_dir, "train")) else ""
    root = os.path.join(data_dir, below)
    left_out = LeftOut(data_dir)
    files = {name: image_files(os.path.join(root, name), left_out) for name in class_folders(root)}
    if empty := [name for name, images in files.items() if not images]:
        warn(f"--split: folders in {root} without images, which are skipped ({len(empty)}): {without_images(empty)}")
    files = {name: images for name, images in files.items() if images}
    if len(files) < 2:
        raise UserError(f"--split: {root} has images in {len(files)} folders: make one folder per class, at least two")
    if len(left_out):
        log(str(left_out))
    return below, files


def draw(labels: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which images to hold out, bool (images,): as close as possible to `share` of each class, in whole groups.

    In random order, groups are held out as long as none of their classes exceeds its share. If a class is left without
    any, its smallest group is held out, provided that all classes keep an image to train on.

    Args:
        labels: of the images, from 0.
        groups: each image's group number.
        share: fraction of each class.
        rng: source of randomness.
    """
    held_out = np.zeros(len(labels), bool)
    totals = np.bincount(labels)
    wanted = np.minimum(np.maximum(1, np.round(share * totals).astype(np.int64)), totals - 1).tolist()
    there = [0] * len(wanted)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)

    def hold_out(rows: np.ndarray, limits: list[int]) -> None:
        counts = Counter(labels[rows].tolist())
        if all(there[label] + count <= limits[label] for label, count in counts.items()):
            held_out[rows] = True
            for label, count in counts.items():
                there[label] += count

    for number in rng.permutation(len(members)).tolist():
        hold_out(members[number], wanted)
    without = {label for label, count in enumerate(there) if not count}
    most = [total - 1 for total in totals.tolist()]
    for rows in sorted(members, key=len) if without else ():
        if any(not there[label] for label in without.intersection(labels[rows].tolist())):
            hold_out(rows, most)
    return held_out


def _say_groups(labels: np.ndarray, groups: np.ndarray) -> None:
    """Reports how many images are in groups, and warns about groups with several labels."""
    counts = np.bincount(groups)
    if not (counts > 1).any():
        return
    log(
        f"{counts[counts > 1].sum()} images are near-duplicates of others, in {np.count_nonzero(counts > 1)} groups, "
        "which stay on one side"
    )
    pairs = np.unique(np.stack((groups, labels), 1), axis=0)[:, 0]
    if mixed := np.count_nonzero(np.bincount(pairs) > 1):
        warn(f"--split: {mixed} groups of near-duplicates have several labels: list them with reader.py --check")
