"""Finds images and classes in folders, by the same rule at every level.

It counts skipped files: those without an image suffix, and files and folders that systems and programs create
(`._x.png`, `.ipynb_checkpoints`, `@eaDir`, `__MACOSX`), even if they are images.
"""

from __future__ import annotations

import functools
import glob
import importlib.util
import os
from collections import Counter
from collections.abc import Iterable

from utils.errors import UserError, reason

# Formats that OpenCV and Pillow both decode. (HDR images do not have 256 levels, and .hdr and .pic have other uses.)
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff",
    ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ras",
)  # fmt: skip
# What the package pillow-heif decodes, where it is installed.
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_PACKAGE = "pillow-heif"

# Folders that never hold data, besides those beginning with a dot: from macOS archives, network disks, Windows, file
# systems, Python.
_DROPPINGS = frozenset(
    ("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information",
     "lost+found", "__pycache__")
)  # fmt: skip
# What can be done about files of some suffixes. (macOS keeps .NAME.icloud in place of a file that is not on the disk.)
_REMEDIES = {
    **dict.fromkeys(HEIF_SUFFIXES, f": to read them, pip install {HEIF_PACKAGE}"),
    ".icloud": ": not downloaded yet",
}
# System files, not worth counting.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "icon\r"))


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """The suffixes, in lower case, of decodable files."""
    return IMAGE_SUFFIXES + HEIF_SUFFIXES * (importlib.util.find_spec("pillow_heif") is not None)


def is_dropping(name: str) -> bool:
    """Whether a file or folder with this name belongs to a system or program rather than a dataset."""
    return name.startswith(".") or name.lower() in _DROPPINGS


class LeftOut:
    """Counts the skipped files below a folder, with an example of each kind.

    Attributes:
        root: the folder.
        counts: files by suffix; "" for files without one.
        hidden: images in system files and folders.
        loose: images outside class folders.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.counts: Counter[str] = Counter()
        self.hidden = self.loose = 0
        self._first: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Counts a file without an image suffix."""
        name = os.path.basename(path).lower()
        suffix = os.path.splitext(name)[1]
        if name not in _LITTER and (not is_dropping(name) or suffix == ".icloud"):
            self.counts[suffix] += 1
            self._keep(suffix, path)

    def add_hidden(self, path: str) -> None:
        """Counts an image in system files and folders."""
        self.hidden += 1
        self._keep("hidden", path)

    def add_loose(self, path: str) -> None:
        """Counts an image outside class folders."""
        self.loose += 1
        self._keep("loose", path)

    def _keep(self, kind: str, path: str) -> None:
        self._first[kind] = min(path, self._first.get(kind, path))

    def _example(self, kind: str) -> str:
        return os.path.relpath(self._first[kind], self.root)

    def __len__(self) -> int:
        return self.counts.total() + self.loose + self.hidden

    def __str__(self) -> str:
        """The skipped files in one line; empty if there are none."""
        parts = []
        shown = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:6]
        for suffix, count in shown:
            parts.append(f"{count} {suffix or 'without a suffix'} ({self._example(suffix)}{_REMEDIES.get(suffix, '')})")
        if others := self.counts.total() - sum(count for _, count in shown):
            parts.append(f"{others} with other suffixes")
        if self.loose:
            parts.append(f"{self.loose} outside class folders ({self._example('loose')})")
        if self.hidden:
            parts.append(f"{self.hidden} in hidden files and folders ({self._example('hidden')})")
        files = "1 file is" if len(self) == 1 else f"{len(self)} files are"
        return f"{files} skipped: {', '.join(parts)}" if parts else ""


def class_folders(folder: str) -> list[str]:
    """The names of the folders in `folder`, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_dropping(entry.name))


def image_files(folder: str, left_out: LeftOut) -> list[str]:
    """Paths of the images under `folder`, relative to it, sorted. A folder reached again through links is read once.

    Args:
        folder: where to look; its own name does not matter.
        left_out: counts the other files.

    Raises:
        UserError: a folder cannot be read.
    """
    found, seen = [], set()
    suffixes = image_suffixes()
    hidden = {folder} if folder != left_out.root and is_dropping(os.path.basename(folder)) else set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        hidden.update(os.path.join(parent, name) for name in folders if parent in hidden or is_dropping(name))
        below = "" if parent == folder else os.path.relpath(parent, folder)
        for file in files:
            if not file.lower().endswith(suffixes):
                if parent not in hidden:
                    left_out.add(os.path.join(parent, file))
            elif parent in hidden or is_dropping(file):
                left_out.add_hidden(os.path.join(parent, file))
            else:
                found.append(os.path.join(below, file))
    return sorted(found)


def matching_files(pattern: str, left_out: LeftOut) -> list[str]:
    """The files matching a pattern such as 'photos/*', sorted; only images, unless the pattern has another suffix."""
    any_suffix = glob.has_magic(os.path.splitext(pattern)[1] or "*")
    named = set(pattern.split(os.sep))
    found = []
    for path in glob.iglob(pattern, recursive=True):
        if not os.path.isfile(path):
            continue
        if any(is_dropping(part) and part not in named for part in path.split(os.sep)):
            left_out.add_hidden(path)
        elif any_suffix and not path.lower().endswith(image_suffixes()):
            left_out.add(path)
        else:
            found.append(path)
    return sorted(found)


def outside_of_classes(folder: str, left_out: LeftOut) -> None:
    """Counts the images in `folder` that are not in class folders, including system folders."""
    suffixes = image_suffixes()
    for entry in os.scandir(folder):
        if entry.is_dir():
            if is_dropping(entry.name):
                image_files(entry.path, left_out)
        elif entry.name.lower().endswith(suffixes):
            (left_out.add_hidden if is_dropping(entry.name) else left_out.add_loose)(entry.path)


def without_images(names: Iterable[str]) -> str:
    """Names of class folders, shortened to fit a line."""
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _unreadable(error: OSError) -> None:
    """Ends the walk at a folder without read permission; a missing folder, such as a class in val/, has no files."""
    if not isinstance(error, FileNotFoundError):
        raise UserError(f"{error.filename}: {reason(error)}")
