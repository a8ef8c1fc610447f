"""What would have to change in a list file none of whose paths exists.

Lists come from other systems and other folders: with backslashes, in quotes, in another encoding, with folders too many
or too few before each path, in other capitals. Which it is can be found by trying.
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

# Paths that are looked for.
_SAMPLE = 40
# Of a path: letters, as no system has more, and folders that are left out on trial.
_LONGEST, _DEEPEST = 4096, 20
# Folders that are tried as what is missing before the paths.
_FOLDERS = 300
_SEVERAL_LABELS = re.compile(r"(?<=\S)([\s,;]+\d+)+$")


class _Spelling(NamedTuple):
    """A way to read a path as it is in the list, and what the list would have to say instead."""

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
    _Spelling(f"save it as UTF-8, which it is not (but {encoding.upper()})", _decoded(encoding))
    for encoding in ("gb18030", "big5", "shift_jis", "euc_kr", "cp1252")
]
_SINGLE_LABEL = _Spelling(
    "each line has several labels: keep one, or, for images of several classes, train.py --multi_label=True, on lines "
    "`path 0,1,0`",
    lambda name: _SEVERAL_LABELS.sub("", name),
)
_QUOTES = _Spelling("leave out the quotes", lambda name: name.strip(" ,;").strip("\"'`“”‘’").strip())
_SLASHES = _Spelling("write / for \\", lambda name: name.replace("\\", "/"))


class _Change(NamedTuple):
    """What turns the paths of a list into paths that exist.

    Attributes:
        spelling: ways to read them, in this order.
        dropped: how many folders to leave out before each path.
        added: what to put there instead.
    """

    spelling: tuple[_Spelling, ...]
    dropped: int
    added: str

    def parts(self, name: str) -> list[str]:
        """The folders of a path and its file, before any is left out; the first is empty in an absolute one."""
        for way in self.spelling:
            name = way.read(name)
        return [part for part in name.split("/") if part != "."]

    def read(self, name: str) -> str:
        """A path as it would be."""
        return os.path.join(self.added, *self.parts(name)[self.dropped :])

    def cost(self) -> int:
        """How much would have to be changed; what is outside of the data set is taken last."""
        return len(self.spelling) + bool(self.dropped) + bool(self.added) + self.added.startswith(os.pardir)


def explain_missing(images: ImageList, roots: Sequence[str], list_path: str) -> None:
    """Raises `UserError` if none of a list's paths exists and it can be told what in the list does not fit.

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
    # Most of them, and each another file, as its name is another one.
    fitting = [entry for entry in found if len(set(entry[1].values())) * 2 > len(set(names))]
    if not fitting:
        return  # the files are somewhere else, or nowhere: whoever reads them names the first
    # The most files, by the fewest changes.
    change, paths, notes = max(fitting, key=lambda entry: (len(entry[1]), -entry[0].cost() - len(entry[2])))
    name, path = next(iter(paths.items()))
    remedies = [way.remedy for way in change.spelling]
    if change.dropped:
        remedies.append(f"leave out {'/'.join(change.parts(name)[: change.dropped])}/ before them")
    if change.added:
        remedies.append(f"put {change.added}/ before them")
    raise UserError(
        f"{list_path}: none of its paths is there, such as {name}, and {path} is: {'; '.join([*remedies, *notes])}"
    )


def _changes(names: Sequence[str], root: str) -> Iterator[_Change]:
    """Changes by which one of the first paths would exist."""
    ways = itertools.product((None, *_ENCODINGS), (None, _SINGLE_LABEL), (None, _QUOTES), (None, _SLASHES))
    spellings = [tuple(way for way in chosen if way is not None) for chosen in ways]
    added = ("", *_folders_near(root))
    seen = set()
    for name in names[:3]:
        for spelling in spellings:
            parts = _Change(spelling, 0, "").parts(name)
            if (key := tuple(parts)) in seen:
                continue  # the same, by more changes: `product` begins with none
            seen.add(key)
            for dropped in range(not parts[0], min(len(parts), _DEEPEST)):
                for before in added:
                    change = _Change(spelling, dropped, before)
                    if _there(root, change.read(name)) is not None:
                        yield change


def _folders_near(root: str) -> list[str]:
    """Folders that paths may be relative to in place of `root`, which they are relative to themselves."""
    below = []
    for parent, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_dropping(name))
        below += [os.path.relpath(os.path.join(parent, name), root) for name in folders]
        if len(below) > _FOLDERS or parent.count(os.sep) - root.count(os.sep) >= 2:
            folders.clear()
    return [*below[:_FOLDERS], os.path.relpath(os.curdir, root or os.curdir), os.pardir]


def _tried(change: _Change, names: Sequence[str], root: str) -> tuple[dict[str, str], list[str]]:
    """Which of the paths exist after a change, each with the file that it is, and what remains to be changed."""
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
    """The file that a path means, whatever its capitals and its suffix, and what differs; None if there is none."""
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
        return os.path.join(folder, there), f"write capitals as they are ({there} for {file})"
    stem, suffix = os.path.splitext(file)
    if suffix.lower() not in image_suffixes():
        stem, suffix = file, ""
    for known in image_suffixes():
        there = _in_other_capitals(folder, stem + known)
        if there is not None:
            note = f"give the suffix {os.path.splitext(there)[1]} for {suffix or 'none'}"
            return os.path.join(folder, there), note
    return None


def _in_other_capitals(folder: str, name: str) -> str | None:
    """What `name` is called in a folder."""
    if name in ("", os.curdir, os.pardir):
        return name
    return _listing(folder).get(name.lower())


@functools.lru_cache(maxsize=1000)
def _listing(folder: str) -> dict[str, str]:
    """The names in a folder by their small letters."""
    try:
        return {name.lower(): name for name in os.listdir(folder)}
    except (OSError, ValueError):
        return {}
