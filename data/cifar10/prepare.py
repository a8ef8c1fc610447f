"""Writes CIFAR-10 as a dataset in the ImageNet layout into the folder of this script.

    python data/cifar10/prepare.py cifar-10-python.tar.gz

takes the official "python version" of the dataset (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html), or a tar of image files NAME/train/CLASS/FILE and
NAME/val/CLASS/FILE, compressed or not.

    train/CLASS/FILE  train_list.txt     50,000 images of 32 x 32 pixels
    val/CLASS/FILE    val_list.txt       10,000, the official test part
    label_names.txt                      for --class_map_path

--imbalance=20 writes a second training list, imbalanced_list.txt, in which classes have from 5,000 images down to a
20th of that, decreasing by a constant factor (Cui et al., arXiv:1901.05555).
"""

from __future__ import annotations

import argparse
import io
import lzma
import pickle
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

FOLDER = Path(__file__).resolve().parent
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"train": 50_000, "val": 10_000}
# Batch files of the official archive -> their part and the number of their first image.
BATCHES = {f"data_batch_{i + 1}": ("train", 10_000 * i) for i in range(5)} | {"test_batch": ("val", 0)}
MAX_MEMBER = 64 << 20  # bytes; a batch file has 31 million


# Names in the pickled batches. The function that makes an empty array moved in numpy 2.
PICKLED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers; refuses everything else, which could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(f"refused: it needs {module}.{name}, which CIFAR-10 does not use")
        return PICKLED[module, name]


def unpack_batch(content: bytes, part: str, first: int) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields path and PNG file of every image of an official batch file."""
    batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for number, (image, label) in enumerate(zip(images, batch[b"labels"], strict=True), first):
        _, png = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
        yield PurePosixPath(part, NAMES[label], f"{number:05d}.png"), png.tobytes()


def unpack(archive: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields the content of every image in the archive with its path, which is relative and contains only known
    folders.
    """
    for member in archive:
        path = PurePosixPath(member.name)
        is_batch = path.name in BATCHES
        is_image = len(path.parts) == 4 and path.parts[1] in COUNTS and path.parts[2] in NAMES
        if not member.isfile() or not (is_batch or is_image):
            continue
        if member.size > MAX_MEMBER:
            raise tarfile.TarError(f"{path} has {member.size} bytes, far more than any file of CIFAR-10")
        file = archive.extractfile(member)
        content = file.read() if file is not None else b""
        if is_batch:
            yield from unpack_batch(content, *BATCHES[path.name])
        else:
            yield PurePosixPath(*path.parts[1:]), content


def imbalanced(lines: list[str], ratio: float) -> list[str]:
    """The first images of every class, in numbers that decrease from class to class, by `ratio` in total."""
    kept = []
    for label in range(len(NAMES)):
        own = [line for line in lines if line.endswith(f" {label}\n")]
        kept += own[: round(len(own) * ratio ** (-label / (len(NAMES) - 1)))]
    return kept


def prepare(archive_path: str, imbalance: float = 1.0) -> None:
    """Writes the images, then the lists. A damaged archive may raise anything."""
    paths: dict[str, list[PurePosixPath]] = {part: [] for part in COUNTS}
    folders: set[PurePosixPath] = set()
    with tarfile.open(archive_path) as archive:
        for path, content in unpack(archive):
            if path.parent not in folders:
                (FOLDER / path.parent).mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
            (FOLDER / path).write_bytes(content)
            paths[path.parts[0]].append(path)
    for part, count in COUNTS.items():
        if len(paths[part]) != count:
            raise ValueError(f"holds {len(paths[part])} images for {part}, not the {count} of CIFAR-10")
        lines = [f"{path} {NAMES.index(path.parts[1])}\n" for path in sorted(paths[part])]
        (FOLDER / f"{part}_list.txt").write_text("".join(lines))
        print(f"{count} images in {FOLDER / part}")
        if part == "train" and imbalance > 1:
            kept = imbalanced(lines, imbalance)
            (FOLDER / "imbalanced_list.txt").write_text("".join(kept))
            print(f"{len(kept)} of them in {FOLDER / 'imbalanced_list.txt'}")
    (FOLDER / "label_names.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(NAMES)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", help="cifar-10-python.tar.gz, or a tar of image files")
    parser.add_argument("--imbalance", type=float, default=1.0, help="ratio of the largest to the smallest class")
    args = parser.parse_args()
    archive = args.archive
    if not 1 <= args.imbalance <= 1000:
        sys.exit(f"prepare.py: error: --imbalance={args.imbalance:g} must be from 1 to 1000")
    try:
        prepare(archive, args.imbalance)
    except OSError as error:
        sys.exit(f"prepare.py: error: {error}")
    except (tarfile.TarError, pickle.UnpicklingError, lzma.LZMAError, zlib.error, EOFError) as error:
        sys.exit(f"prepare.py: error: {archive} cannot be read: {' '.join(str(error).split())}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        sys.exit(f"prepare.py: error: {archive} is not CIFAR-10: {error}")


if __name__ == "__main__":
    main()
