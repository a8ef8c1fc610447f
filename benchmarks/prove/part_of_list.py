"""Draws random parts of a data set's lists once, as FOLDER/train_part.txt and FOLDER/val_part.txt.

python -m benchmarks.prove.part_of_list --data_dir=data/cifar10 --folder=FOLDER --train=2000 --val=500
"""

from __future__ import annotations

import random
from pathlib import Path

from utils.errors import run_script
from utils.flags.line_parser import LineParser


def write_parts(data: Path, folder: Path, train: int, val: int) -> None:
    """Writes both lists with the given numbers of images."""
    for part, count in (("train", train), ("val", val)):
        lines = (data / f"{part}_list.txt").read_text().splitlines(keepends=True)
        (folder / f"{part}_part.txt").write_text("".join(random.Random(0).sample(lines, count)))


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="with train_list.txt and val_list.txt")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the lists")
    parser.add_argument("--train", type=int, required=True, help="images for training")
    parser.add_argument("--val", type=int, required=True, help="images for validation")
    args = parser.parse_args()
    write_parts(args.data_dir, args.folder, args.train, args.val)


if __name__ == "__main__":
    run_script(main)
