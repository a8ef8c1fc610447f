"""Readable names of the classes."""

from __future__ import annotations

from pathlib import Path

from utils.errors import UserError, reason

IMAGENET_NAMES = Path(__file__).resolve().parent.parent / "tools" / "readable_label.txt"


def imagenet_names() -> list[str]:
    """The names of ImageNet's 1000 classes."""
    return read_class_names(str(IMAGENET_NAMES), 1000)


def read_class_names(path: str, class_dim: int) -> list[str]:
    """Reads a class map: one `number name` per line, or one name per line in the order of the classes.

    Args:
        path: the file.
        class_dim: number of classes; each must have a name.

    Raises:
        UserError: no such file, a line that cannot be read, or a class without a name.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file.read().splitlines()]
    except OSError as error:
        raise UserError(f"--class_map_path {path}: {reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"--class_map_path {path}: not a text file in UTF-8") from None
    numbered = [(number, line.split(None, 1)) for number, line in enumerate(lines, 1) if line]
    if all(len(words) == 2 and words[0].isdigit() for _, words in numbered):
        names: dict[int, str] = {}
        for number, (label, name) in numbered:
            if names.setdefault(int(label), name) != name:
                raise UserError(f"--class_map_path {path}, line {number}: class {int(label)} has two names")
    else:
        names = dict(enumerate(" ".join(words) for _, words in numbered))
    missing = next((label for label in range(class_dim) if label not in names), None)
    if missing is not None:
        raise UserError(
            f"--class_map_path {path} names {len(names)} classes, and none is class {missing} of the network's "
            f"{class_dim}: give the file of the data it was trained on"
        )
    return [names[label] for label in range(class_dim)]
