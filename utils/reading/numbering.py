"""Class numbering: the class names in a dataset, and checks that two numberings agree."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from utils.console import warn
from utils.errors import UserError
from utils.reading.class_names import (
    Names,
    imagenet_names,
    imagenet_synsets,
    label_of,
    name_of,
    read_class_names,
    read_names,
)
from utils.reading.folders import class_folders
from utils.reading.image_list import ImageList
from utils.reading.remote import is_url, names_below

# Files of names next to a list or shards: from PaddleX, PaddleClas, webdataset and data/*/prepare.py.
NAME_FILES = ("label_names.txt", "label_list.txt", "labels.txt", "class_names.txt", "classnames.txt", "classes.txt")

# Number of a list's images whose folders are checked, if not all: spread over the list, and two per class.
LOOKED_AT = 4096


def known_names(images: ImageList, data_dir: str, class_dim: int | None = None) -> Names:
    """The names of a dataset's classes, as far as known.

    They come from class folders; else from one of `NAME_FILES` in `data_dir`; else from the folders in a list's paths
    or shards' keys.

    Args:
        images: a part of the dataset.
        data_dir: its folder.
        class_dim: number of classes, if known; a file with another number of names is ignored.
    """
    if images.class_names is not None:
        return images.class_names
    folders = folders_of_classes(images)
    file = _name_file(data_dir)
    if file is None:
        return folders
    try:
        names = read_names(file, "class names:")
    except UserError as error:
        warn(f"{error}; ignoring the file")
        return folders
    seen = classes_seen(images)
    if len(names) < seen or class_dim not in (None, len(names)):
        warn(f"{file} has {len(names)} names for {class_dim or seen} classes: ignoring the file")
    elif clash := first_clash(names, folders):
        warn(f"{file} names class {clash.first} {clash.name}, but class {clash.second} is in a folder {clash.name}: "
             "ignoring the file")  # fmt: skip
    else:
        return names
    return folders


def _name_file(data_dir: str) -> str | None:
    """The file of class names in a folder, or at a URL if the server lists folders; None if there is none."""
    if is_url(data_dir):
        there = names_below(data_dir.rstrip("/")) or ()
        return next((f"{data_dir.rstrip('/')}/{name}" for name in NAME_FILES if name in there), None)
    return next((path for name in NAME_FILES if os.path.isfile(path := os.path.join(data_dir, name))), None)


def classes_seen(images: ImageList) -> int:
    """One more than the highest class number in the data."""
    return images.labels.shape[1] if images.labels.ndim == 2 else int(images.labels.max(initial=-1)) + 1


@lru_cache(maxsize=2)  # of training and validation
def folders_of_classes(images: ImageList) -> Names:
    """The innermost folder names of a list's images by class; empty unless each class has its own folder."""
    if images.labels.ndim == 2:  # several labels per image
        return ()
    folders: dict[int, str] = {}
    for row in _spread(images.labels):
        label, folder = images.label(row), images.folder(row)
        if label >= 0 and (not folder or folders.setdefault(label, folder) != folder):
            return ()
    if len(folders) < 2 or len(set(folders.values())) < len(folders):
        return ()
    return [folders.get(label) for label in range(max(folders) + 1)]


def _spread(labels: np.ndarray) -> list[int]:
    """Rows to check: all, or `LOOKED_AT` of them plus the first and last of each class."""
    if len(labels) <= LOOKED_AT:
        return list(range(len(labels)))
    ends = np.zeros((2, int(labels.max(initial=0)) + 2), np.int64)  # -1, for images without a label, is the last index
    rows = np.arange(len(labels))
    ends[0, labels[::-1]] = rows[::-1]
    ends[1, labels] = rows
    return np.unique(np.concatenate((*ends, np.linspace(0, len(labels) - 1, LOOKED_AT, dtype=np.int64)))).tolist()


class Clash(NamedTuple):
    """A name with different class numbers in two orders."""

    name: str
    first: int
    second: int


def first_clash(first: Names, second: Names) -> Clash | None:
    """The first name that belongs to different classes in two orders.

    Names in only one of them prove nothing: they may be synonyms.
    """
    places = {name: number for number, name in reversed(list(enumerate(second)))}
    for number, name in enumerate(first):
        if name is not None and name in places and name_of(second, number) != name:
            return Clash(name, number, places[name])
    return None


def order_of_folders(folder: str, names: Names) -> Names | None:
    """The class order for numbering the class folders in `folder` by the classes' names.

    Returns:
        The order; None if the folders have other names.

    Raises:
        UserError: only some folders have names of classes.
    """
    found = class_folders(folder)
    for order in (names, imagenet_synsets() if list(names) == imagenet_names() else ()):
        if unknown := set(found) - set(order):
            if len(unknown) < len(found):
                raise UserError(
                    f"{folder} has a class folder {min(unknown)}, but the training has no class of that name: rename "
                    "it, or number the classes in a list file"
                )
        elif found:
            return order
    return None


def check_parts(train: ImageList, val: ImageList, data_dir: str) -> None:
    """Compares class numbers in training and validation.

    Args:
        train, val: the parts of the dataset in the folder `data_dir`.

    Raises:
        UserError: they are numbered by different rules, or validation has a class that training lacks.
    """
    if train.labels.ndim == 2:  # several labels per image: one column each
        return
    names, others = (images.class_names or folders_of_classes(images) for images in (train, val))
    if clash := first_clash(names, others):
        raise UserError(
            f"{clash.name} is class {clash.first} in {train.source} but class {clash.second} in {val.source}: number "
            "the classes of both by the same rule"
        )
    labels = np.unique(val.labels[val.labels >= 0]).tolist()
    if train.class_names is not None and val.class_names is None:
        others = known_names(val, data_dir)
        if unsure := [n for n in labels if name_of(names, n) is None or name_of(names, n) != name_of(others, n)]:
            raise UserError(
                f"{train.source} has class folders, numbered in the order of their names, but {val.source} has "
                f"numbers, and it is unknown whether {unsure[0]} is {name_of(names, unsure[0])}: give folders or "
                f"lists for both, or the class names in {os.path.join(data_dir, NAME_FILES[0])}"
            )
    trained = np.bincount(train.labels[train.labels >= 0], minlength=int(val.labels.max(initial=0)) + 1)
    if unknown := [label for label in labels if not trained[label]]:
        path = val.path(int(np.argmax(val.labels == unknown[0])))
        raise UserError(
            f"{val.source} has images of {label_of(names, unknown[0])}, such as {path}, but {train.source} has none: "
            "number the classes of both by the same rule, or use train.py --validate=False"
        )


def choose_names(class_map_path: str | None, class_dim: int, noted: Names) -> Names:
    """The names of the classes: from --class_map_path, or else the `noted` ones from training.

    Raises:
        UserError: --class_map_path is not a file with that many names.
    """
    if class_map_path is None:
        return noted
    names = read_class_names(class_map_path, class_dim)
    if clash := first_clash(names, noted):
        warn(
            f"--class_map_path {class_map_path} names class {clash.first} {clash.name}, but {clash.name} was class "
            f"{clash.second} in training: is the file in another order?"
        )
    return names
