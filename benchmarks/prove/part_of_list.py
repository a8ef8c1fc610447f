"""Runs a script on a part of a data set, drawn once.

python -m benchmarks.prove.part_of_list DATA FOLDER 2000 500 SCRIPT FLAGS

The lists of so many images for training and for validation are FOLDER/train_part.txt and FOLDER/val_part.txt.
"""

from __future__ import annotations

import random
import runpy
import sys
from pathlib import Path


def write_parts(data: Path, folder: Path, train: int, val: int) -> None:
    """Writes both lists."""
    for part, count in (("train", train), ("val", val)):
        lines = (data / f"{part}_list.txt").read_text().splitlines(keepends=True)
        (folder / f"{part}_part.txt").write_text("".join(random.Random(0).sample(lines, count)))


if __name__ == "__main__":
    data, folder, train, val, script, *flags = sys.argv[1:]
    write_parts(Path(data), Path(folder), int(train), int(val))
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")
