"""Suggests a fix for a list file if none of its paths exists.

Lists come from other systems and folders: with backslashes, quotes, another encoding, extra or missing leading folders,
or different capitals. Trying these finds the cause.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError
from utils.reading.folders import image_suffixes, is_dropping

if TYPE_CHECKING:
    from utils.reading.image_list import ImageList

# Number of paths to look for.
_SAMPLE = 40
# Limits per path: letters, as no system allows more, and leading folders to drop on trial.
_LONGEST, _DEEPEST = 4096, 20
# Number of folders to try as a missing prefix.
_FOLDERS = 300
_SEVERAL_LABELS = re.compile(r"(?<=\S)([\s,;]+\d+)+$")


class _Spelling(NamedTuple):
    """A way to reinterpret a path in the list, and how to correct the list."""

    remedy: str
    read: Callable[[str], str]


def _decoded(encoding: str) -> Callable[[str], str]:
    def read(name: str) -> str:
        data = os.fsencode(name)
        try:
            return name if data.isascii() else data.decode(encoding)
        except UnicodeDecodeError:
            return name

    return read


_ENCODINGS = [
    _Spelling(f"save it as UTF-8 (it is in {encoding.upper()})", _decoded(encoding))
    for encoding in ("gb18030", "big5", "shift_jis", "euc_kr", "cp1252")
]
_SINGLE_LABEL = _Spelling(
    "each line has several labels: keep one, or for several labels per image use train.py --multi_label=True with "
    "lines `path 0,1,0`",
    lambda name: _SEVERAL_LABELS.sub("", name),
)
_QUOTES = _Spelling("remove the quotes", lambda name: name.strip(" ,;").strip("\"'`“”‘’").strip())
_SLASHES = _Spelling("write / for \\", lambda name: name.replace("\\", "/"))


class _Change(NamedTuple):
    """A change that turns a list's paths into existing ones.

    Attributes:
        spelling: ways to read them, in this order.
        dropped: number of leading folders to remove.
        added: prefix to add instead.
    """

    spelling: tuple[_Spelling, ...]
    dropped: int
    added: str

    def parts(self, name: str) -> list[str]:
        """The folders and the file of a path, before dropping any; the first is empty if it is absolute."""
        for way in self.spelling:
            name = way.read(name)
        return [part for part in name.split("/") if part != "."]

    def read(self, name: str) -> str:
        """The changed path."""
        return os.path.join(self.added, *self.parts(name)[self.dropped :])

    def cost(self) -> int:
        """The size of the change; paths outside the dataset come last."""
        return len(self.spelling) + bool(self.dropped) + bool(self.added) + self.added.startswith(os.pardir)


def explain_missing(images: ImageList, roots: Sequence[str], list_path: str) -> None:
    """Raises `UserError` if none of a list's paths exists and a change to the list would fix that.

    Args:
        images: the list.
        roots: the folders that its paths may be relative to.
        list_path: its file, for the error.
    """
    count = min(len(images), _SAMPLE)
    names = [images.name(place * len(images) // count) for place in range(count)]
    names = [name for name in names if len(name) <= _LONGEST]
    if any(os.path.exists(os.path.join(root, name)) for root in roots for name in names):
        return
    _there.cache_clear()
    _listing.cache_clear()
    found = [(change, *_tried(change, names, root)) for root in roots for change in _changes(names, root)]
    # Most of them exist, and different names are different files.
    fitting = [entry for entry in found if len(set(entry[1].values())) * 2 > len(set(names))]
    if not fitting:
        return  # the files are somewhere else, or nowhere: whoever reads them names the first
    # Prefer the change that finds most files, then the smallest.
    change, paths, notes = max(fitting, key=lambda entry: (len(entry[1]), -entry[0].cost() - len(entry[2])))
    name, path = next(iter(paths.items()))
    remedies = [way.remedy for way in change.spelling]
    if change.dropped:
        remedies.append(f"remove the leading {'/'.join(change.parts(name)[: change.dropped])}/")
    if change.added:
        remedies.append(f"add a leading {change.added}/")
    raise UserError(
        f"{list_path}: none of its paths exists, such as {name}, but {path} does: {'; '.join([*remedies, *notes])}"
    )


def _changes(names: Sequence[str], root: str) -> Iterator[_Change]:
    """Changes that make one of the first paths exist."""
    ways = itertools.product((None, *_ENCODINGS), (None, _SINGLE_LABEL), (None, _QUOTES), (None, _SLASHES))
    spellings = [tuple(way for way in chosen if way is not None) for chosen in ways]
    added = ("", *_folders_near(root))
    seen = set()
    for name in names[:3]:
        for spelling in spellings:
            parts = _Change(spelling, 0, "").parts(name)
            if (key := tuple(parts)) in seen:
                continue  # the same with more changes, as `product` begins with none
            seen.add(key)
            for dropped in range(not parts[0], min(len(parts), _DEEPEST)):
                for before in added:
                    change = _Change(spelling, dropped, before)
                    if _there(root, change.read(name)) is not None:
                        yield change


def _folders_near(root: str) -> list[str]:
    """Folders, relative to `root`, that the paths may be relative to instead of `root`."""
    below = []
    for parent, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_dropping(name))
        below += [os.path.relpath(os.path.join(parent, name), root) for name in folders]
        if len(below) > _FOLDERS or parent.count(os.sep) - root.count(os.sep) >= 2:
            folders.clear()
    return [*below[:_FOLDERS], os.path.relpath(os.curdir, root or os.curdir), os.pardir]


def _tried(change: _Change, names: Sequence[str], root: str) -> tuple[dict[str, str], list[str]]:
    """The paths that exist after a change, each with its file, and the remaining differences."""
    paths, notes = {}, {}
    for name in names:
        there = _there(root, change.read(name))
        if there is not None:
            path, note = there
            paths[name] = path
            notes[note] = None
    return paths, [note for note in notes if note]


@functools.lru_cache(maxsize=100_000)
def _there(root: str, name: str) -> tuple[str, str] | None:
    """The file of a path, ignoring case and suffix, and the differences; None if there is none."""
    path = os.path.join(root, name)
    if os.path.isfile(path):
        return path, ""
    folder = root
    *parents, file = name.split("/")
    for part in parents:
        inner = _in_other_capitals(folder, part)
        if inner is None:
            return None
        folder = os.path.join(folder, inner)
    there = _in_other_capitals(folder, file)
    if there is not None and os.path.isfile(os.path.join(folder, there)):
        return os.path.join(folder, there), f"correct the capitals ({there} for {file})"
    stem, suffix = os.path.splitext(file)
    if suffix.lower() not in image_suffixes():
        stem, suffix = file, ""
    for known in image_suffixes():
        there = _in_other_capitals(folder, stem + known)
        if there is not None:
            note = f"write the suffix {os.path.splitext(there)[1]} instead of {suffix or 'none'}"
            return os.path.join(folder, there), note
    return None


def _in_other_capitals(folder: str, name: str) -> str | None:
    """The name in a folder that equals `name` except for case."""
    if name in ("", os.curdir, os.pardir):
        return name
    return _listing(folder).get(name.lower())


@functools.lru_cache(maxsize=1000)
def _listing(folder: str) -> dict[str, str]:
    """The names in a folder by their lower-case form."""
    try:
        return {name.lower(): name for name in os.listdir(folder)}
    except (OSError, ValueError):
        return {}
