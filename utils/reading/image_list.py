"""Compact lists of images, shared with worker processes."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np

from utils.console import warn
from utils.errors import UserError
from utils.files import similar_path
from utils.reading.decode import read_file
from utils.reading.folders import (
    LeftOut,
    class_folders,
    image_files,
    image_suffixes,
    matching_files,
    outside_of_classes,
    without_images,
)
from utils.reading.list_file import list_text, parse_label_list, parse_list, parse_parts
from utils.reading.list_paths import explain_missing
from utils.reading.remote import is_url
from utils.reading.shared_array import SharedArray


def packed(paths: Iterable[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paths as one byte array, with each path's start and length."""
    names = [os.fsencode(path) for path in paths]
    lengths = np.fromiter(map(len, names), np.int32, len(names))
    return np.frombuffer(b"".join(names), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


class ImageList:
    """Paths and labels of a dataset: one byte array and a few integers per image, no Python object per image.

    A list of ten million lines needs little more memory than its file, and worker processes share it.

    Attributes:
        root: folder that the paths are relative to.
        source: the list file or folder it was read from, for errors.
        labels: int32 (N,); -1 without a label. With several labels per image, uint8 (N, classes), 0 or 1.
        class_names: names of the class folders in label order, None for a class without a folder; None for a list file.
    """

    def __init__(
        self,
        text: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        labels: np.ndarray,
        root: str,
        class_names: Sequence[str | None] | None = None,
    ) -> None:
        self._arrays = {"text": text, "starts": starts, "lengths": lengths, "labels": labels}
        self._shared: dict[str, SharedArray] = {}
        self.root = self.source = root
        self.class_names = class_names

    @classmethod
    def from_list_file(
        cls,
        list_path: str,
        root: str,
        class_dim: int | None = None,
        multi_label: bool = False,
        delimiter: str | None = None,
        labelled: bool = True,
    ) -> ImageList:
        """Reads a file of lines `relative/path label`; the path may contain blanks.

        Args:
            list_path: the file.
            root: folder that its paths are relative to.
            class_dim: number of classes; a label outside 0..class_dim - 1 is an error.
            multi_label: the lines are `relative/path 0,1,0,...` instead, with a label for each class.
            delimiter: the first one in a line separates path and label; None: the last blank or tab does.
            labelled: False: labels are optional and ignored.

        Raises:
            UserError: the file is missing, empty or in UTF-16, or a line is wrong (named with its number).
        """
        text = list_text(list_path)
        if multi_label:
            assert class_dim is not None, "there must be one label per class"
            images = cls(text, *parse_label_list(text, list_path, class_dim), root)
        elif delimiter is not None or not labelled:
            images = cls(text, *parse_parts(text, list_path, class_dim, delimiter, labelled), root)
        else:
            images = cls(text, *parse_list(text, list_path, class_dim), root)
        images.source = list_path
        return images

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[str],
        labels: Iterable[int] | None = None,
        root: str = "",
        class_names: Sequence[str | None] | None = None,
    ) -> ImageList:
        """A list of the given paths, relative to `root`; labels default to -1."""
        columns = packed(paths)
        if labels is None:
            labels = np.full(len(columns[1]), -1)
        return cls(*columns, np.asarray(labels, np.int32), root, class_names)

    @classmethod
    def from_class_folders(
        cls, folder: str, class_dim: int | None = None, class_names: Sequence[str | None] | None = None
    ) -> ImageList:
        """Reads folder/CLASS/**/image.jpg; classes are numbered in the sorted order of their folders' names.

        Args:
            folder: holds the class folders.
            class_dim: number of classes.
            class_names: the order of the classes, if another folder defines it; some may have no images here.

        Raises:
            UserError: there is no image, there are more classes than `class_dim`, or a class folder is not in
                `class_names`.
        """
        found = class_folders(folder)
        names = class_names or found
        if unknown := set(found) - set(names):
            raise UserError(
                f"{folder} has a class folder {min(unknown)}, which the training images lack: rename it, or number "
                "the classes in a list file"
            )
        if class_dim is not None and len(names) > class_dim:
            raise UserError(
                f"{folder} has {len(names)} class folders, more than --class_dim {class_dim}: give "
                f"--class_dim={len(names)}"
            )
        paths, labels, empty, left_out = [], [], [], LeftOut(folder)
        for label, name in enumerate(names):
            if name is None:
                continue
            files = image_files(os.path.join(folder, name), left_out) if name in found else []
            paths += [os.path.join(name, file) for file in files]
            labels += [label] * len(files)
            empty += [name] * (not files)
        outside_of_classes(folder, left_out)
        if not paths:
            raise UserError(
                f"{folder} has no images in class folders (looked for {folder}/CLASS/*.jpg and the like)"
                + (f"; {left_out}" if left_out else "")
            )
        if left_out:
            warn(f"{folder}: {left_out}")
        if empty:
            warn(f"{folder}: {len(empty)} of {len(names)} classes have no image: {without_images(empty)}")
        return cls.from_paths(paths, labels, folder, names)

    @classmethod
    def from_folder(cls, folder: str) -> ImageList:
        """All images under a folder, sorted by name, without labels (-1).

        Raises:
            UserError: the folder is missing or has no images.
        """
        if not os.path.isdir(folder):
            raise UserError(f"{folder} is not a folder of images")
        left_out = LeftOut(folder)
        paths = image_files(folder, left_out)
        if not paths:
            why = f"looked for {', '.join(image_suffixes())}"
            raise UserError(f"{folder} has no image ({why})" + (f"; {left_out}" if left_out else ""))
        if left_out:
            warn(f"{folder}: {left_out}")
        return cls.from_paths(paths, root=folder)

    @classmethod
    def find(cls, where: str) -> ImageList:
        """The images, without labels, of `where`: a file, a folder, a list (.txt) or a pattern (photos/*.jpg).

        A line of a list is a path relative to the list's folder and an optional label, which is ignored.

        Raises:
            UserError: there is no image, or the list is in UTF-16.
        """
        if is_url(where):
            raise UserError(f"{where}: only train.py and eval.py read tar shards at a URL: give local files")
        if os.path.isdir(where):
            return cls.from_folder(where)
        root, name = os.path.split(where)
        if glob.has_magic(where) and not os.path.exists(where):
            left_out = LeftOut(os.curdir)
            paths = matching_files(where, left_out)
            if not paths:
                raise UserError(f"{where}: no image matches this pattern" + (f"; {left_out}" if left_out else ""))
            if left_out:
                warn(f"{where}: {left_out}")
            return cls.from_paths(paths)
        if name.lower().endswith(".txt"):
            lines = list_text(where).tobytes().decode(errors="surrogateescape").split("\n")
            paths = [re.sub(r"(?<=\S)\s+\d+(,[01])*$", "", line.strip()) for line in lines if line.strip()]
            if not paths:
                raise UserError(f"{where}: the list is empty")
            images = cls.from_paths(paths, root=root)
            explain_missing(images, (root,), where)
            return images
        if not os.path.lexists(where):
            several = os.path.lexists(where.partition(",")[0])
            hint = "; for several images give a pattern, 'photos/*.jpg'" if several else similar_path(where)
            raise UserError(f"{where}: no such file or folder{hint}")
        return cls.from_paths([name], root=root)

    def subset(self, rows: np.ndarray) -> ImageList:
        """The images at the indices `rows`, int (n,), as a new list."""
        own = {name: self._arrays[name][rows] for name in ("starts", "lengths", "labels")}
        return ImageList(self._arrays["text"], **own, root=self.root, class_names=self.class_names)

    def checksum(self) -> str:
        """A checksum of the list's paths and labels."""
        digest = hashlib.sha256()
        for array in self._arrays.values():
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    def summary(self) -> str:
        """The number of images and the checksum as text, to compare the lists of processes."""
        return f"{len(self)} images with the checksum {self.checksum()}"

    def with_unlabeled(self, paths: Iterable[str]) -> ImageList:
        """These images followed by others, `paths` relative to `root`, whose label is -1."""
        others = self.from_paths(paths)._arrays
        others["starts"] = others["starts"] + len(self._arrays["text"])
        joined = {name: np.concatenate((array, others[name])) for name, array in self._arrays.items()}
        return ImageList(**joined, root=self.root, class_names=self.class_names)

    def forget_labels(self) -> None:
        """Sets all labels to -1, and removes the class names."""
        self._arrays["labels"] = np.full(len(self), -1, np.int32)
        self.class_names = None

    def __len__(self) -> int:
        return len(self._arrays["starts"])

    @property
    def labels(self) -> np.ndarray:
        return self._arrays["labels"]

    def name(self, index: int) -> str:
        """Path of an image, relative to `root`."""
        start = int(self._arrays["starts"][index])
        return os.fsdecode(self._arrays["text"][start : start + int(self._arrays["lengths"][index])].tobytes())

    def folder(self, index: int) -> str:
        """Name of an image's folder; empty if its path has none."""
        return os.path.basename(os.path.dirname(self.name(index)))

    def path(self, index: int) -> str:
        """Path of an image, `root` included."""
        return os.path.join(self.root, self.name(index))

    def label(self, index: int) -> int:
        """Label of an image, -1 if it has none, in a list with one label per image."""
        return int(self._arrays["labels"][index])

    def shuffled(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of all images in an order that depends on the seed and the epoch."""
        order = np.arange(len(self), dtype=np.int32 if len(self) < 1 << 31 else np.int64)
        np.random.default_rng((seed, epoch)).shuffle(order)
        return order

    def expect(self, indices: Iterable[int]) -> None:
        """Announces the next images to read, so that remote ones are fetched concurrently."""

    def read(self, index: int) -> bytes:
        """The bytes of an image file; raises `UnreadableImage`."""
        return read_file(self.path(index))

    def __getstate__(self) -> dict:
        # Only spawned workers pickle the list; they all map one copy, which this process then uses too.
        for name, array in self._arrays.items():
            if name not in self._shared:
                self._shared[name] = SharedArray(array.shape, array.dtype)
                self._shared[name].array[...] = array
                self._arrays[name] = self._shared[name].array
        return {**self.__dict__, "_arrays": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._arrays = {name: shared.array for name, shared in self._shared.items()}
