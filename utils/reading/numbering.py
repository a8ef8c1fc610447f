"""Which class a number stands for: what a dataset says of it, and whether two that have to agree do."""

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

# Names beside a list or shards: as PaddleX, PaddleClas, webdataset and data/*/prepare.py call the file.
NAME_FILES = ("label_names.txt", "label_list.txt", "labels.txt", "class_names.txt", "classnames.txt", "classes.txt")

# Images of a list whose folders are looked at: all, or as many, spread over the list, and two of each class.
LOOKED_AT = 4096


def known_names(images: ImageList, data_dir: str, class_dim: int | None = None) -> Names:
    """The names of a dataset's classes, as far as the reader knows them.

    They are those of class folders; else of one of `NAME_FILES` in `data_dir`; else of the folders that the paths of a
    list, or the keys of shards, have.

    Args:
        images: a part of the dataset.
        data_dir: its folder.
        class_dim: number of classes, if it is known: a file of another number of names is not taken.
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
        warn(f"{error}; they are not taken")
        return folders
    seen = classes_seen(images)
    if len(names) < seen or class_dim not in (None, len(names)):
        warn(f"{file} has {len(names)} names for {class_dim or seen} classes: they are not taken")
    elif clash := first_clash(names, folders):
        warn(f"{file} calls class {clash.first} {clash.name}, and class {clash.second} lies in a folder {clash.name}: "
             "its names are not taken")  # fmt: skip
    else:
        return names
    return folders


def _name_file(data_dir: str) -> str | None:
    """The file of class names in a folder, or at a URL whose server lists folders; None if there is none."""
    if is_url(data_dir):
        there = names_below(data_dir.rstrip("/")) or ()
        return next((f"{data_dir.rstrip('/')}/{name}" for name in NAME_FILES if name in there), None)
    return next((path for name in NAME_FILES if os.path.isfile(path := os.path.join(data_dir, name))), None)


def classes_seen(images: ImageList) -> int:
    """One more than the highest class number in the data."""
    return images.labels.shape[1] if images.labels.ndim == 2 else int(images.labels.max(initial=-1)) + 1


@lru_cache(maxsize=2)  # of training and validation
def folders_of_classes(images: ImageList) -> Names:
    """The names of the innermost folders of a list's images, by class; nothing unless each class has one of its own."""
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
    """Rows to look at: all, or `LOOKED_AT` of them, and the first and last of each class."""
    if len(labels) <= LOOKED_AT:
        return list(range(len(labels)))
    ends = np.zeros((2, int(labels.max(initial=0)) + 2), np.int64)  # -1, of images without a label, is the last place
    rows = np.arange(len(labels))
    ends[0, labels[::-1]] = rows[::-1]
    ends[1, labels] = rows
    return np.unique(np.concatenate((*ends, np.linspace(0, len(labels) - 1, LOOKED_AT, dtype=np.int64)))).tolist()


class Clash(NamedTuple):
    """A name that is of one class in an order, and of another class in another."""

    name: str
    first: int
    second: int


def first_clash(first: Names, second: Names) -> Clash | None:
    """The first name that two orders have for different classes.

    Names that only one of them has prove nothing: they may be other words for the same.
    """
    places = {name: number for number, name in reversed(list(enumerate(second)))}
    for number, name in enumerate(first):
        if name is not None and name in places and name_of(second, number) != name:
            return Clash(name, number, places[name])
    return None


def order_of_folders(folder: str, names: Names) -> Names | None:
    """The order that the class folders in `folder` are numbered in by the names of the classes.

    Returns:
        The order; None if the folders are called otherwise.

    Raises:
        UserError: some have names of classes, and others have not.
    """
    found = class_folders(folder)
    for order in (names, imagenet_synsets() if list(names) == imagenet_names() else ()):
        if unknown := set(found) - set(order):
            if len(unknown) < len(found):
                raise UserError(
                    f"{folder} has a class folder {min(unknown)}, and the training has no class of that name: rename "
                    "it, or number the classes in a list file"
                )
        elif found:
            return order
    return None


def check_parts(train: ImageList, val: ImageList, data_dir: str) -> None:
    """Compares the numbers of the classes in training and in validation.

    Args:
        train, val: the parts of the dataset in the folder `data_dir`.

    Raises:
        UserError: they are numbered by different rules, or validation has a class that training never has.
    """
    if train.labels.ndim == 2:  # several labels per image: a column for each
        return
    names, others = (images.class_names or folders_of_classes(images) for images in (train, val))
    if clash := first_clash(names, others):
        raise UserError(
            f"{clash.name} is class {clash.first} in {train.source} and class {clash.second} in {val.source}: number "
            "the classes of both by one rule"
        )
    labels = np.unique(val.labels[val.labels >= 0]).tolist()
    if train.class_names is not None and val.class_names is None:
        others = known_names(val, data_dir)
        if unsure := [n for n in labels if name_of(names, n) is None or name_of(names, n) != name_of(others, n)]:
            raise UserError(
                f"{train.source} has class folders, numbered in the order of their names, and {val.source} has numbers "
                f"of its own: nothing says that {unsure[0]} is {name_of(names, unsure[0])}. Give folders or lists for "
                f"both, or the names of the classes in {os.path.join(data_dir, NAME_FILES[0])}"
            )
    trained = np.bincount(train.labels[train.labels >= 0], minlength=int(val.labels.max(initial=0)) + 1)
    if unknown := [label for label in labels if not trained[label]]:
        path = val.path(int(np.argmax(val.labels == unknown[0])))
        raise UserError(
            f"{val.source} has images of {label_of(names, unknown[0])}, such as {path}, and {train.source} has none: "
            "number the classes of both by one rule, or use train.py --validate=False"
        )


def choose_names(class_map_path: str | None, class_dim: int, noted: Names) -> Names:
    """The names to give the classes: those of --class_map_path, or else `noted` ones, of the network's training.

    Raises:
        UserError: --class_map_path is no file of as many names.
    """
    if class_map_path is None:
        return noted
    names = read_class_names(class_map_path, class_dim)
    if clash := first_clash(names, noted):
        warn(
            f"--class_map_path {class_map_path} calls class {clash.first} {clash.name}, and {clash.name} was class "
            f"{clash.second} in the training: is it in another order?"
        )
    return names
