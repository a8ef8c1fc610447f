"""Writes scikit-learn's handwritten digits as a dataset in the ImageNet layout into the folder of this script.

The 1,797 scans (8 x 8 pixels, 16 grey levels; E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits",
UCI Machine Learning Repository, 1998) are part of scikit-learn's wheel, so nothing is downloaded. A fifth of every
class, always the same fifth, is held out.

    train/LABEL/NUMBER.png  train_list.txt
    val/LABEL/NUMBER.png    val_list.txt
    samples/LABEL.png       one held-out scan of every class, to try infer.py on
    label_names.txt         for --class_map_path
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).resolve().parent
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 32  # pixels; at 8 x 8 a random crop could only move by whole strokes
HELD_OUT = 0.2


def held_out(labels: np.ndarray) -> np.ndarray:
    """A mask of the images to hold out: `HELD_OUT` of every class, chosen with a fixed seed."""
    random = np.random.RandomState(0)
    mask = np.zeros(len(labels), bool)
    for label in range(len(NAMES)):
        members = random.permutation(np.flatnonzero(labels == label))
        mask[members[: round(HELD_OUT * len(members))]] = True
    return mask


def write(path: Path, scan: np.ndarray) -> None:
    """Writes a scan, uint8 (8, 8), enlarged to `SIZE`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    enlarged = cv2.resize(scan, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    path.write_bytes(cv2.imencode(path.suffix, enlarged)[1].tobytes())  # imwrite would not report a full disk


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    # The list of names is written last: if it exists, the rest is complete.
    names_file = FOLDER / "label_names.txt"
    if names_file.exists():
        print(f"{FOLDER} is already prepared: remove {names_file.name} to write it again")
        return

    from sklearn.datasets import load_digits  # slow to import: only when there is something to do

    scans, labels = load_digits(return_X_y=True)
    images = np.round(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    is_val = held_out(labels)
    for split, mask in (("train", ~is_val), ("val", is_val)):
        lines = []
        for number in np.flatnonzero(mask):
            path = FOLDER / split / str(labels[number]) / f"{number:04d}.png"
            write(path, images[number])
            lines.append(f"{path.relative_to(FOLDER).as_posix()} {labels[number]}\n")
        (FOLDER / f"{split}_list.txt").write_text("".join(lines))
        print(f"{len(lines)} images in {FOLDER / split}")
    for label in range(len(NAMES)):
        write(FOLDER / "samples" / f"{label}.png", images[is_val & (labels == label)][0])
    names_file.write_text("".join(f"{label} {name}\n" for label, name in enumerate(NAMES)))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ImportError) as error:
        sys.exit(f"prepare.py: error: {error}")
