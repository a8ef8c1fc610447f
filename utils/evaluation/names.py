"""What a network's classes are called."""

from __future__ import annotations

import argparse

from utils.console import log
from utils.formats.published import is_published
from utils.reading.class_names import Names, checked_names, imagenet_names
from utils.reading.numbering import choose_names
from utils.weights.notes import read_class_notes


def noted_names(weights: str, class_dim: int) -> Names:
    """The names of the classes that weights were trained with: those that train.py noted, or ImageNet's.

    Args:
        weights: --pretrained_model.
        class_dim: number of the network's classes.

    Returns:
        By class number, as far as they are known; nothing if none is.
    """
    return read_class_notes(weights) or (imagenet_names() if is_published(weights, class_dim) else ())


def class_names(args: argparse.Namespace) -> Names:
    """The names of the classes of --pretrained_model, by infer.py's flags; says so if there are none."""
    if args.class_names:
        return checked_names(args.class_names, args.class_dim)
    given = args.class_map_path if "class_map_path" in args.given else None
    names = choose_names(given, args.class_dim, noted_names(args.pretrained_model, args.class_dim))
    if not names:
        log("the names of the classes are not known: --class_map_path gives them")
    return names
