"""The images of a dataset, however it is laid out."""

from __future__ import annotations

import glob
import os

from utils.errors import UserError
from utils.reading.folders import class_folders, is_dropping
from utils.reading.image_list import ImageList
from utils.reading.list_paths import explain_missing
from utils.reading.tar_shards import TarShards


class MissingPart(UserError):
    """A dataset has no training or no validation images, in any form."""


def open_dataset(data_dir: str, split: str, class_dim: int | None = None, multi_label: bool = False) -> ImageList:
    """Opens a part of a dataset: data_dir/{split}_list.txt if it exists, else tar shards data_dir/{split}*.tar or
    data_dir/{split}/*.tar, else the class folders data_dir/{split}/NAME/.

    Paths in the list are relative to `data_dir`, or to data_dir/{split} if that is where the files are.

    Args:
        data_dir: dataset root.
        split: "train" or "val".
        class_dim: number of classes; a label outside it is an error.
        multi_label: each image has several labels, which only a list can say.

    Raises:
        MissingPart: nothing is there.
        UserError: no such folder, or a bad list.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir {data_dir}: no such folder")
    list_path = os.path.join(data_dir, f"{split}_list.txt")
    folder = os.path.join(data_dir, split)
    if os.path.isfile(list_path):
        images = ImageList.from_list_file(list_path, data_dir, class_dim, multi_label)
        # A few lines tell which folder the paths are relative to; a single one might name a missing file.
        sample = [os.path.relpath(images.path(i), data_dir) for i in range(min(len(images), 16))]
        if not any(os.path.exists(os.path.join(data_dir, name)) for name in sample) and any(
            os.path.exists(os.path.join(folder, name)) for name in sample
        ):
            images.root = folder
        explain_missing(images, (data_dir, folder), list_path)
        return images
    if multi_label:
        raise MissingPart(
            f"--data_dir {data_dir} has no {split}_list.txt with lines `path 0,1,0,...`, which --multi_label needs"
        )
    where = (glob.escape(data_dir), f"{split}*.tar"), (glob.escape(folder), "*.tar")
    for shards in (sorted(glob.glob(os.path.join(*pattern))) for pattern in where):
        if shards:
            return TarShards(shards, class_dim)
    if os.path.isdir(folder):
        # Validation images have the training images' numbers, though a class may be without any.
        training = os.path.join(data_dir, "train")
        same = split != "train" and os.path.isdir(training) and not os.path.isfile(f"{data_dir}/train_list.txt")
        return ImageList.from_class_folders(folder, class_dim, class_folders(training) if same else None)
    raise MissingPart(
        f"--data_dir {data_dir} has neither {split}_list.txt nor class folders {split}/NAME/ "
        f"nor tar shards {split}*.tar{_near_miss(data_dir, split)}"
    )


# What others call the two parts, in small letters and without the ending of a list.
_OTHER_NAMES = {
    "train": ("train", "training", "trainset", "train_set", "trainval"),
    "val": ("val", "valid", "validation", "valset", "val_set", "dev", "eval", "test", "testing", "test_set"),
}


def _near_miss(data_dir: str, split: str) -> str:
    """What is there in place of a part of a dataset, and what to do with it; empty if nothing is like it."""
    names = sorted(name for name in os.listdir(data_dir) if not is_dropping(name))
    for other in _OTHER_NAMES[split]:
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in (".txt", ".csv", ".lst") and stem.lower().removesuffix("_list") == other:
                return f"; {name} is there: rename it to {split}_list.txt, if its lines are `relative/path label`"
            if name.lower() == other and os.path.isdir(os.path.join(data_dir, name)):
                return f"; {name}/ is there: rename it to {split}, if it is that"
    folders = [name for name in names if os.path.isdir(os.path.join(data_dir, name))]
    for name in folders:
        below = os.path.join(data_dir, name)
        if any(os.path.exists(os.path.join(below, part)) for part in (split, f"{split}_list.txt")):
            return f"; {below} has it: give --data_dir={below}"
    if split == "train" and folders:
        return f"; if {', '.join(folders[:3])}{', ...' * (len(folders) > 3)} are classes, move them into train/"
    return ""
