"""Images and classes by the folders that they are in."""

from __future__ import annotations

import os

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def class_folders(folder: str) -> list[str]:
    """The names of the folders in `folder`, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def image_files(folder: str) -> list[str]:
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
