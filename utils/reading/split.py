"""Class folders into two lists, for training and for validation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from utils.console import log, warn
from utils.errors import UserError
from utils.files import write_text
from utils.reading.folders import LeftOut, class_folders, image_files, without_images


def split_class_folders(data_dir: str, share: float, seed: int) -> None:
    """Writes train_list.txt and val_list.txt into a folder of class folders, NAME/ or train/NAME/. No image is moved.

    Of each class the share nearest to the one asked for is held out, drawn at random, but one image at least, and one
    at least is left: validation has all classes. Classes are numbered in the order of their names.

    Args:
        data_dir: the folder.
        share: of the images of each class, for validation.
        seed: of the draw.

    Raises:
        UserError: there are no class folders, there are lists or validation images already, an image's name cannot be
            in a list, or the lists cannot be written.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir {data_dir}: no such folder")
    for name in ("train_list.txt", "val_list.txt", "val"):
        if os.path.exists(path := os.path.join(data_dir, name)):
            raise UserError(f"--split: {path} is there already, so it is settled what to validate on: remove it first")
    below = "train" if os.path.isdir(os.path.join(data_dir, "train")) else ""
    root = os.path.join(data_dir, below)
    left_out = LeftOut(data_dir)
    files = {name: image_files(os.path.join(root, name), left_out) for name in class_folders(root)}
    if empty := [name for name, images in files.items() if not images]:
        warn(f"--split: {len(empty)} folders in {root} have no image and are left out: {without_images(empty)}")
    files = {name: images for name, images in files.items() if images}
    if len(files) < 2:
        raise UserError(
            f"--split: {root} has images in {len(files)} folders: it takes one for each class, two at least"
        )

    rng = np.random.default_rng(seed)
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for label, (name, images) in enumerate(files.items()):
        held_out = min(max(1, round(share * len(images))), len(images) - 1)
        validation = set(rng.permutation(len(images))[:held_out].tolist())
        for number, image in enumerate(images):
            path = os.path.join(below, name, image)
            if path != path.lstrip() or len(path.splitlines()) > 1:
                raise UserError(f"--split: {path!r} has a line break in it, or begins with a blank: rename it")
            lines["val" if number in validation else "train"].append(f"{path} {label}\n")
    if single := [name for name, images in files.items() if len(images) == 1]:
        warn(f"--split: {len(single)} classes have one image, which is for training: {without_images(single)}")
    if len(left_out):
        log(str(left_out))
    for part, text in lines.items():
        write_text(Path(data_dir, f"{part}_list.txt"), "".join(text), "--data_dir")
    log(
        f"wrote {len(lines['train'])} images to {os.path.join(data_dir, 'train_list.txt')}, and {len(lines['val'])} to "
        f"val_list.txt beside it: train.py --data_dir={data_dir} --class_dim={len(files)}"
    )
