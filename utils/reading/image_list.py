"""Lists of images: a list file, class folders, a plain folder, tar shards. Few bytes per image, shared with workers."""

from __future__ import annotations

import concurrent.futures
import functools
import glob
import io
import math
import mmap
import os
import re
import tarfile
import tempfile
import weakref
from collections.abc import Collection, Iterable
from multiprocessing import reduction

import numpy as np

from utils.errors import UserError, reason
from utils.reading.decode import UnreadableImage, read_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


class SharedArray:
    """A numpy array in memory that this process shares with its workers, forked or spawned.

    The memory is an anonymous file: unlike /dev/shm it has no size limit of its own (64 MB in a container).

    Attributes:
        array: the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("reader")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        if size >= 1 << 63:
            raise MemoryError(f"{size:.3g} bytes")
        os.ftruncate(fd, size)
        self._map(fd, shape, dtype)

    def _map(self, fd: int, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)
        self.array = np.frombuffer(mmap.mmap(fd, 0), dtype, math.prod(shape)).reshape(shape)

    def __getstate__(self) -> tuple:
        return reduction.DupFd(self._fd), self.array.shape, self.array.dtype

    def __setstate__(self, state: tuple) -> None:
        fd, shape, dtype = state
        self._map(fd.detach(), shape, dtype)


def _is_one_of(characters: bytes) -> np.ndarray:
    table = np.zeros(256, bool)
    table[list(characters)] = True
    return table


_BLANK = _is_one_of(b" \t\r\v\f")
_DIGIT = _is_one_of(b"0123456789")


def _strip(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Moves the ends of the lines text[starts:ends] past blanks, in place."""
    while (blank := (ends > starts) & _BLANK[text[ends - 1]]).any():
        ends -= blank
    while (blank := (ends > starts) & _BLANK[text[np.minimum(starts, len(text) - 1)]]).any():
        starts += blank


def _bad_line(line: str, class_dim: int | None) -> str:
    """What is wrong with a line of a list file."""
    path_and_label = line.rsplit(None, 1)
    if len(line) > 300:
        line = f"{line[:300]}..."
    if len(path_and_label) == 1:
        return f"{line!r} has no label: a line is `relative/path label`"
    label = path_and_label[1]
    if not label.lstrip("-").isdecimal():
        return f"label {label[:300]!r} of {line!r} is not a whole number: a line is `relative/path label`"
    allowed = f"0..{class_dim - 1} (--class_dim {class_dim})" if class_dim else "0 or more"
    return f"label {label} of {line!r} is not in {allowed}"


def _list_text(list_path: str) -> np.ndarray:
    """The bytes of a list file, uint8, without the byte-order mark of some editors.

    Raises:
        UserError: no such file, or one in UTF-16.
    """
    try:
        text = np.fromfile(list_path, np.uint8)
    except OSError as error:
        raise UserError(f"{list_path}: {reason(error)}") from None
    if text[:2].tobytes() in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{list_path} is in UTF-16: save it as UTF-8")
    return text[3:] if text[:3].tobytes() == b"\xef\xbb\xbf" else text


def _parse_list(text: np.ndarray, list_path: str, class_dim: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses lines `path label` without a Python object per line.

    Args:
        text: the file, uint8.
        list_path: its name, for errors.
        class_dim: labels must be below it.

    Returns:
        Where each path starts in `text` (int64), its length (int32), its label (int32).
    """
    parts = []
    lines_before = 0
    begin = 0
    while begin < len(text):
        # Some megabytes of whole lines at a time, to keep the temporary arrays small.
        end = min(begin + (16 << 20), len(text))
        while end < len(text) and text[end - 1] != ord("\n"):
            end += 1
        block = text[begin:end]

        newlines = np.flatnonzero(block == ord("\n"))
        ends = newlines if len(newlines) and newlines[-1] == len(block) - 1 else np.append(newlines, len(block))
        starts = np.concatenate(([0], ends[:-1] + 1))
        line_count = len(ends)
        ends = ends.copy()
        _strip(block, starts, ends)
        numbers = np.flatnonzero(ends > starts)
        starts, ends = starts[numbers], ends[numbers]

        labels = np.zeros(len(starts), np.int64)
        label_starts = ends.copy()
        power = 1
        digit = np.ones(len(starts), bool)
        while power < 10**10:
            character = block[label_starts - 1]
            digit &= (label_starts > starts) & _DIGIT[character]
            if not digit.any():
                break
            labels += np.where(digit, character.astype(np.int64) - ord("0"), 0) * power
            label_starts -= digit
            power *= 10

        path_ends = label_starts.copy()
        _strip(block, starts, path_ends)
        limit = class_dim if class_dim is not None else np.iinfo(np.int32).max
        bad = (label_starts == ends) | (path_ends == label_starts) | (path_ends == starts) | (labels >= limit)
        if bad.any():
            first = int(np.argmax(bad))
            line = os.fsdecode(block[starts[first] : ends[first]].tobytes())
            raise UserError(f"{list_path} line {lines_before + numbers[first] + 1}: {_bad_line(line, class_dim)}")
        parts.append((starts + begin, (path_ends - starts).astype(np.int32), labels.astype(np.int32)))
        lines_before += line_count
        begin = end
    if not sum(len(part[0]) for part in parts):
        raise UserError(f"{list_path} is empty: a line is `relative/path label`")
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _packed(paths: Iterable[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paths as one byte array, where each starts, and its length."""
    names = [os.fsencode(path) for path in paths]
    lengths = np.fromiter(map(len, names), np.int32, len(names))
    return np.frombuffer(b"".join(names), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


class ImageList:
    """Paths and labels of a dataset: one byte array and a few integers per image, no Python object per image.

    A list of ten million lines takes little more memory than its file, and worker processes share it.

    Attributes:
        root: folder that the paths are relative to.
        labels: int32 (N,); -1 where there is no label.
        class_names: names of the class folders, in label order; None for a list file.
    """

    def __init__(
        self,
        text: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        labels: np.ndarray,
        root: str,
        class_names: list[str] | None = None,
    ) -> None:
        self._arrays = {"text": text, "starts": starts, "lengths": lengths, "labels": labels}
        self._shared: dict[str, SharedArray] = {}
        self.root = root
        self.class_names = class_names

    @classmethod
    def from_list_file(cls, list_path: str, root: str, class_dim: int | None = None) -> ImageList:
        """Reads a file of lines `relative/path label`; the path may contain blanks.

        Args:
            list_path: the file.
            root: folder that its paths are relative to.
            class_dim: number of classes; a label outside 0..class_dim - 1 is an error.

        Raises:
            UserError: no such file, an empty one, one in UTF-16, or a line that is wrong (named with its number).
        """
        text = _list_text(list_path)
        return cls(text, *_parse_list(text, list_path, class_dim), root)

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[str],
        labels: Iterable[int] | None = None,
        root: str = "",
        class_names: list[str] | None = None,
    ) -> ImageList:
        """A list of the given paths, relative to `root`; without `labels` they are -1."""
        packed = _packed(paths)
        if labels is None:
            labels = np.full(len(packed[1]), -1)
        return cls(*packed, np.asarray(labels, np.int32), root, class_names)

    @classmethod
    def from_class_folders(
        cls, folder: str, class_dim: int | None = None, class_names: list[str] | None = None
    ) -> ImageList:
        """Reads folder/CLASS/**/image.jpg; the classes are numbered in the sorted order of their folders' names.

        Args:
            folder: holds the class folders.
            class_dim: number of classes.
            class_names: the order of the classes, where it is that of another folder; some may have no images here.

        Raises:
            UserError: no image, more classes than `class_dim`, or a class folder that is not in `class_names`.
        """
        names = class_names or _class_folders(folder)
        if unknown := set(_class_folders(folder)) - set(names):
            raise UserError(
                f"{folder} has a class folder {min(unknown)}, the training images have none of that name: rename it, "
                "or number the classes in a list file"
            )
        if class_dim is not None and len(names) > class_dim:
            raise UserError(f"{folder} has {len(names)} class folders, more than --class_dim {class_dim}")
        paths, labels = [], []
        for label, name in enumerate(names):
            files = _image_files(os.path.join(folder, name))
            paths += [os.path.join(name, file) for file in files]
            labels += [label] * len(files)
        if not paths:
            raise UserError(f"{folder} has no image in class folders (looked for {folder}/CLASS/*.jpg and the like)")
        return cls.from_paths(paths, labels, folder, names)

    @classmethod
    def from_folder(cls, folder: str) -> ImageList:
        """All images under a folder, sorted by name, without labels (-1).

        Raises:
            UserError: no such folder, or no image in it.
        """
        if not os.path.isdir(folder):
            raise UserError(f"{folder} is not a folder of images")
        paths = _image_files(folder)
        if not paths:
            raise UserError(f"{folder} has no image (looked for {', '.join(IMAGE_SUFFIXES)})")
        return cls.from_paths(paths, root=folder)

    @classmethod
    def find(cls, where: str) -> ImageList:
        """The images that `where` names, without labels: a file, a folder, a list (.txt) or a pattern (photos/*.jpg).

        A line of a list is a path, relative to the list's folder, and perhaps a label, which is left out.

        Raises:
            UserError: there is no image, or the list is in UTF-16.
        """
        if os.path.isdir(where):
            return cls.from_folder(where)
        root, name = os.path.split(where)
        if glob.has_magic(where) and not os.path.exists(where):
            paths = sorted(path for path in glob.iglob(where, recursive=True) if os.path.isfile(path))
            if not paths:
                raise UserError(f"{where}: no file matches")
            return cls.from_paths(paths)
        if name.lower().endswith(".txt"):
            lines = _list_text(where).tobytes().decode(errors="surrogateescape").split("\n")
            paths = [re.sub(r"(?<=\S)\s+\d+$", "", line.strip()) for line in lines if line.strip()]
            if not paths:
                raise UserError(f"{where}: the list is empty")
            return cls.from_paths(paths, root=root)
        if not os.path.lexists(where):
            raise UserError(f"{where}: no such file or folder")
        return cls.from_paths([name], root=root)

    def without(self, names: Collection[str]) -> ImageList:
        """The images whose `name` is not among `names`, without labels."""
        return self.from_paths((name for name in map(self.name, range(len(self))) if name not in names), root=self.root)

    def with_unlabeled(self, paths: Iterable[str]) -> ImageList:
        """These images followed by others, `paths` relative to `root`, whose label is -1."""
        others = self.from_paths(paths)._arrays
        others["starts"] = others["starts"] + len(self._arrays["text"])
        joined = {name: np.concatenate((array, others[name])) for name, array in self._arrays.items()}
        return ImageList(**joined, root=self.root, class_names=self.class_names)

    def __len__(self) -> int:
        return len(self._arrays["starts"])

    @property
    def labels(self) -> np.ndarray:
        return self._arrays["labels"]

    def name(self, index: int) -> str:
        """Path of an image, relative to `root`."""
        start = int(self._arrays["starts"][index])
        return os.fsdecode(self._arrays["text"][start : start + int(self._arrays["lengths"][index])].tobytes())

    def path(self, index: int) -> str:
        """Path of an image, `root` included."""
        return os.path.join(self.root, self.name(index))

    def label(self, index: int) -> int:
        """Label of an image, -1 if it has none."""
        return int(self._arrays["labels"][index])

    def shuffled(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of all images in an order that depends on the seed and the epoch."""
        order = np.arange(len(self), dtype=np.int32 if len(self) < 1 << 31 else np.int64)
        np.random.default_rng((seed, epoch)).shuffle(order)
        return order

    def read(self, index: int) -> bytes:
        """The bytes of an image file; raises `UnreadableImage`."""
        return read_file(self.path(index))

    def __getstate__(self) -> dict:
        # Only a spawned worker pickles the list; all of them map one copy, which this process then uses as well.
        for name, array in self._arrays.items():
            if name not in self._shared:
                self._shared[name] = SharedArray(array.shape, array.dtype)
                self._shared[name].array[...] = array
                self._arrays[name] = self._shared[name].array
        return {**self.__dict__, "_arrays": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._arrays = {name: shared.array for name, shared in self._shared.items()}


class TarShards(ImageList):
    """Images in tar files, in the layout of the webdataset library: KEY.jpg and KEY.cls, which holds the label.

    The headers are read once, for the places of the images; then an image is read where it lies. Training goes through
    the shards, in random order, from begin to end, and shuffles within a window of `WINDOW` images: reading is nearly
    sequential, and yet any process, worker or resumed run can tell which image comes when.

    Attributes:
        shards: paths of the tar files.
    """

    WINDOW = 16384

    def __init__(self, shards: list[str], class_dim: int | None = None) -> None:
        """Reads the headers of tar files.

        Raises:
            UserError: a file that is no tar file, an image without a label, a bad label, or no image at all.
        """
        self.shards = shards
        with concurrent.futures.ThreadPoolExecutor() as threads:
            samples = list(threads.map(_index_shard, shards))
        counts = [len(part) for part in samples]
        columns = list(zip(*(sample for part in samples for sample in part), strict=True))
        if not columns:
            raise UserError(f"{shards[0]} and {len(shards) - 1} more shards hold no image")
        names, offsets, sizes, labels = columns
        super().__init__(*_packed(names), np.asarray(labels, np.int32), os.path.dirname(shards[0]))
        self._arrays["offsets"] = np.asarray(offsets, np.int64)
        self._arrays["sizes"] = np.asarray(sizes, np.int64)
        # Where each shard's images begin, and the end.
        self._arrays["borders"] = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        if class_dim is not None and self.labels.max() >= class_dim:
            index = int(self.labels.argmax())
            raise UserError(f"{self.path(index)}: label {self.label(index)} is not in 0..{class_dim - 1} (--class_dim)")

    def shuffled(self, seed: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((seed, epoch))
        borders = self._arrays["borders"]
        shards = rng.permutation(len(self.shards))
        order = np.concatenate([np.arange(borders[shard], borders[shard + 1]) for shard in shards])
        return order[np.argsort(np.arange(len(order)) + rng.uniform(0, self.WINDOW, len(order)))]

    def with_unlabeled(self, paths: Iterable[str]) -> ImageList:
        raise UserError("--unlabeled_list goes with loose files, not with tar shards: unpack them, or leave it out")

    def read(self, index: int) -> bytes:
        shard = self.shards[int(np.searchsorted(self._arrays["borders"], index, side="right")) - 1]
        size = int(self._arrays["sizes"][index])
        try:
            data = os.pread(_open_shard(shard).fileno(), size, int(self._arrays["offsets"][index]))
        except OSError as error:
            raise UnreadableImage(self.path(index), reason(error)) from None
        if len(data) < size:
            raise UnreadableImage(self.path(index), "the tar file is truncated")
        return data


@functools.lru_cache(maxsize=64)
def _open_shard(path: str) -> io.FileIO:
    """A tar file, kept open: the system reads ahead in it."""
    return open(path, "rb", buffering=0)


def _index_shard(shard: str) -> list[tuple[str, int, int, int]]:
    """(shard/member, place, size, label) of each image of a tar file."""
    samples: list[tuple[str, int, int, int]] = []
    key, image, label = None, None, None

    def finish() -> None:
        if key is None:
            return
        if image is None or label is None:
            missing = f"no image ({', '.join(IMAGE_SUFFIXES)})" if image is None else "no label (.cls)"
            raise UserError(f"{shard}: the sample {key} has {missing}")
        samples.append((*image, label))

    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, name = os.path.split(member.name)
                # The key ends at the first dot of the file's name.
                stem, dot, suffix = name.partition(".")
                if os.path.join(folder, stem) != key:
                    finish()
                    key, image, label = os.path.join(folder, stem), None, None
                if (dot + suffix).lower() in IMAGE_SUFFIXES:
                    place = os.path.join(os.path.basename(shard), member.name)
                    image = place, member.offset_data, member.size
                elif suffix == "cls":
                    text = archive.extractfile(member).read().strip()
                    if not text.isdigit() or len(text) > 9:  # it has to fit in 32 bits
                        raise UserError(f"{shard}: {member.name} holds {text[:20]!r}, not the number of a class")
                    label = int(text)
            finish()
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{shard}: not a whole tar file ({error})") from None
    return samples


def _class_folders(folder: str) -> list[str]:
    """The names of the folders in `folder`, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _image_files(folder: str) -> list[str]:
    """Paths of the images under `folder`, relative to it, sorted. A folder that links lead back to is read once."""
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        below = "" if parent == folder else os.path.relpath(parent, folder)
        found += [os.path.join(below, file) for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(found)


def open_dataset(data_dir: str, split: str, class_dim: int | None = None) -> ImageList:
    """Opens a part of a dataset: data_dir/{split}_list.txt if it exists, else tar shards data_dir/{split}*.tar or
    data_dir/{split}/*.tar, else the class folders data_dir/{split}/NAME/.

    Paths in the list are relative to `data_dir`, or to data_dir/{split} if that is where the files are.

    Args:
        data_dir: dataset root.
        split: "train" or "val".
        class_dim: number of classes; a label outside it is an error.

    Raises:
        UserError: nothing there, or a bad list.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir {data_dir}: no such folder")
    list_path = os.path.join(data_dir, f"{split}_list.txt")
    folder = os.path.join(data_dir, split)
    if os.path.isfile(list_path):
        images = ImageList.from_list_file(list_path, data_dir, class_dim)
        # A few lines tell which folder the paths are relative to; a single one might name a missing file.
        sample = [os.path.relpath(images.path(i), data_dir) for i in range(min(len(images), 16))]
        if not any(os.path.exists(os.path.join(data_dir, name)) for name in sample) and any(
            os.path.exists(os.path.join(folder, name)) for name in sample
        ):
            images.root = folder
        return images
    where = (glob.escape(data_dir), f"{split}*.tar"), (glob.escape(folder), "*.tar")
    for shards in (sorted(glob.glob(os.path.join(*pattern))) for pattern in where):
        if shards:
            return TarShards(shards, class_dim)
    if os.path.isdir(folder):
        # Validation images have the training images' numbers, though a class may be without any.
        training = os.path.join(data_dir, "train")
        same = split != "train" and os.path.isdir(training) and not os.path.isfile(f"{data_dir}/train_list.txt")
        return ImageList.from_class_folders(folder, class_dim, _class_folders(training) if same else None)
    raise UserError(
        f"--data_dir {data_dir} has neither {split}_list.txt nor class folders {split}/NAME/ "
        f"nor tar shards {split}*.tar"
    )
