"""Opens the images of a dataset in any supported layout."""

from __future__ import annotations

import glob
import os

from utils.errors import FlagError, UserError
from utils.files import similar_path
from utils.reading.class_names import Names, imagenet_synsets
from utils.reading.folders import class_folders, image_suffixes, is_dropping
from utils.reading.image_list import ImageList
from utils.reading.list_paths import explain_missing
from utils.reading.numbering import classes_seen, known_names, order_of_folders
from utils.reading.range_cache import RangeCache
from utils.reading.remote import is_url
from utils.reading.shard_files import find_shards
from utils.reading.tar_shards import TarShards


class MissingPart(UserError):
    """A dataset has no training or no validation images in any layout."""


def open_dataset(
    data_dir: str,
    split: str,
    class_dim: int | None = None,
    multi_label: bool = False,
    class_names: Names = (),
    list_path: str | None = None,
    delimiter: str | None = None,
    labelled: bool = True,
    cache: RangeCache | None = None,
) -> ImageList:
    """Opens a part of a dataset: data_dir/{split}_list.txt if it exists, else tar shards data_dir/{split}*.tar or
    data_dir/{split}/*.tar, else the class folders data_dir/{split}/NAME/.

    Paths in the list are relative to `data_dir`, or to data_dir/{split} if the files are there.

    A URL `data_dir` contains tar shards; see `find_shards`.

    Args:
        data_dir: dataset root, a folder or a URL.
        split: "train" or "val".
        class_dim: number of classes; a label outside it is an error.
        multi_label: each image has several labels, which needs a list.
        class_names: by number, as far as known; class folders with these names get their numbers.
        list_path: a list instead of data_dir/{split}_list.txt.
        delimiter: see `ImageList.from_list_file`.
        labelled: False: ignore the labels; all are -1.
        cache: for remote shards.

    Raises:
        MissingPart: the part does not exist.
        UserError: the folder is missing, the list is bad, or the numbering of class folders is unknown.
    """
    if is_url(data_dir):
        return _remote(data_dir, split, class_dim, multi_label, list_path, labelled, cache)
    if os.path.isfile(data_dir):
        raise UserError(
            f"--data_dir {data_dir} is a file: give the folder of the images, and unpack an archive of them first"
        )
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir {data_dir}: no such folder{similar_path(data_dir)}")
    if list_path is not None and not os.path.isfile(list_path):
        raise UserError(f"--{split}_list {list_path}: no such file")
    if multi_label and delimiter is not None:
        raise FlagError("--list_delimiter is for lists with one label per image: leave it out, or --multi_label")
    where = list_path or _find(data_dir, split)
    if multi_label and where != (list_path or os.path.join(data_dir, f"{split}_list.txt")):
        raise MissingPart(
            f"--data_dir {data_dir} has no {split}_list.txt with lines `path 0,1,0,...`, which --multi_label needs"
        )
    if where is None:
        raise MissingPart(
            f"--data_dir {data_dir} has neither {split}_list.txt nor class folders {split}/NAME/ nor tar shards "
            f"{split}*.tar{_near_miss(data_dir, split)}"
        )
    if not labelled:
        class_dim = None
    if isinstance(where, list):
        images = TarShards(where, class_dim)
    elif os.path.isdir(where):
        order = _folder_order(data_dir, split, class_dim, class_names)
        images = ImageList.from_class_folders(where, class_dim, order)
    else:
        images = _from_list(where, data_dir, split, class_dim, multi_label, delimiter, labelled)
    if not labelled:
        images.forget_labels()
    return images


def _remote(
    data_dir: str,
    split: str,
    class_dim: int | None,
    multi_label: bool,
    list_path: str | None,
    labelled: bool,
    cache: RangeCache | None,
) -> ImageList:
    """The images of a part with shards at a URL."""
    if multi_label:
        raise FlagError(f"--data_dir {data_dir}: tar shards have one label per image: leave out --multi_label")
    if list_path is not None and not is_url(list_path) and not os.path.isfile(list_path):
        raise UserError(f"--{split}_list {list_path}: no such file")
    shards = find_shards(data_dir, split, list_path)
    if not shards:
        raise MissingPart(
            f"--data_dir {data_dir} has neither {split}_shards.txt, a list of tar shards, nor {split}*.tar, nor "
            f"{split}/*.tar"
        )
    images = TarShards(shards, class_dim if labelled else None, cache)
    if not labelled:
        images.forget_labels()
    return images


def _from_list(
    where: str,
    data_dir: str,
    split: str,
    class_dim: int | None,
    multi_label: bool,
    delimiter: str | None,
    labelled: bool,
) -> ImageList:
    """The images of a list with paths relative to `data_dir` or to data_dir/{split}."""
    images = ImageList.from_list_file(where, data_dir, class_dim, multi_label, delimiter, labelled)
    folder = os.path.join(data_dir, split)
    # A few lines show which folder the paths are relative to; a single line might name a missing file.
    sample = [os.path.relpath(images.path(i), data_dir) for i in range(min(len(images), 16))]
    if not any(os.path.exists(os.path.join(data_dir, name)) for name in sample) and any(
        os.path.exists(os.path.join(folder, name)) for name in sample
    ):
        images.root = folder
    explain_missing(images, (data_dir, folder), where)
    return images


def _find(data_dir: str, split: str) -> str | list[str] | None:
    """The source of a part: its list, its tar shards, or its folder."""
    list_path, folder = os.path.join(data_dir, f"{split}_list.txt"), os.path.join(data_dir, split)
    if os.path.isfile(list_path):
        return list_path
    for pattern in ((glob.escape(data_dir), f"{split}*.tar"), (glob.escape(folder), "*.tar")):
        if shards := sorted(glob.glob(os.path.join(*pattern))):
            return shards
    return folder if os.path.isdir(folder) else None


def _folder_order(data_dir: str, split: str, class_dim: int | None, class_names: Names) -> Names | None:
    """The class order that numbers the class folders of a part; None: the order of their names.

    Validation uses the training's numbers, even if a class has no validation images.

    Raises:
        UserError: training has a list or shards, which do not define the folders' numbers.
    """
    folder = os.path.join(data_dir, split)
    order = order_of_folders(folder, class_names)
    if order is not None or split == "train":
        return order
    where = _find(data_dir, "train")
    if where is None:
        synsets = imagenet_synsets()
        some = class_dim == len(synsets) and set(class_folders(folder)) <= set(synsets)
        return synsets if some else None  # some of ImageNet's folders, for a network of all its classes
    if isinstance(where, str) and os.path.isdir(where):
        return class_folders(where)
    training = open_dataset(data_dir, "train")
    order = order_of_folders(folder, known_names(training, data_dir, classes_seen(training)))
    if order is None:
        raise UserError(
            f"{folder} has class folders, but {training.source} has numbers, so the numbers of folders such as "
            f"{min(class_folders(folder), default='NAME')} are unknown: give {split}_list.txt, or class folders for "
            "both"
        )
    return order


# Common other names of the two parts, in lower case and without a list's suffix.
_OTHER_NAMES = {
    "train": ("train", "training", "trainset", "train_set", "trainval"),
    "val": ("val", "valid", "validation", "valset", "val_set", "dev", "eval", "test", "testing", "test_set"),
}

# How others end files of a whole data set.
_OTHER_KINDS = (".parquet", ".arrow", ".tfrecord", ".rec", ".lmdb", ".h5", ".hdf5", ".npz", ".zip", ".tar.gz", ".tgz")


def _near_miss(data_dir: str, split: str) -> str:
    """A likely misplaced part of a dataset, and what to do with it; empty if nothing is similar."""
    names = sorted(name for name in os.listdir(data_dir) if not is_dropping(name))
    for other in _OTHER_NAMES[split]:
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in (".txt", ".csv", ".lst") and stem.lower().removesuffix("_list") == other:
                return f"; there is {name}: rename it to {split}_list.txt if its lines are `relative/path label`"
            if name.lower() == other and os.path.isdir(os.path.join(data_dir, name)):
                return f"; there is {name}/: rename it to {split} if it is that part"
    folders = [name for name in names if os.path.isdir(os.path.join(data_dir, name))]
    for name in folders:
        below = os.path.join(data_dir, name)
        if any(os.path.exists(os.path.join(below, part)) for part in (split, f"{split}_list.txt")):
            return f"; {below} has it: give --data_dir={below}"
    whole = os.path.abspath(data_dir)
    parent, own = os.path.split(whole)
    if own.lower() in (*_OTHER_NAMES["train"], *_OTHER_NAMES["val"]) and os.path.exists(os.path.join(parent, split)):
        return f"; it is itself part of a dataset: give --data_dir={parent}"
    if split == "val" and "train" in folders and class_folders(os.path.join(data_dir, "train")):
        return f"; reader.py --data_dir={data_dir} --split=0.2 holds out a fifth of each class in train/"
    if split == "train" and folders:
        names = f"{', '.join(folders[:3])}{', ...' * (len(folders) > 3)}"
        return f"; if {names} are classes, reader.py --data_dir={data_dir} --split=0.2 holds out a fifth of each"
    loose = next((name for name in names if name.lower().endswith(image_suffixes())), None)
    if loose is not None and split == "train":
        return f"; {loose} and the like have no class: put the images into a folder for each class"
    foreign = next((name for name in names if name.lower().endswith(_OTHER_KINDS)), None)
    if foreign is not None:
        return f"; {foreign} is of a kind that is not read: write its images into a folder for each class"
    return ""
