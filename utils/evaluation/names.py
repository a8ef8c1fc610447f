"""The names of a network's classes."""

from __future__ import annotations

import argparse

from utils.console import log
from utils.formats.published import is_published
from utils.reading.class_names import Names, checked_names, imagenet_names
from utils.reading.numbering import choose_names
from utils.weights.notes import read_class_notes


def noted_names(weights: str, class_dim: int) -> Names:
    """The class names of weights: those saved by train.py, or ImageNet's.

    Args:
        weights: --pretrained_model.
        class_dim: number of the network's classes.

    Returns:
        By class number, as far as known; empty if unknown.
    """
    return read_class_notes(weights) or (imagenet_names() if is_published(weights, class_dim) else ())


def class_names(args: argparse.Namespace) -> Names:
    """The class names of --pretrained_model, by infer.py's flags; logs if they are unknown."""
    if args.class_names:
        return checked_names(args.class_names, args.class_dim)
    given = args.class_map_path if "class_map_path" in args.given else None
    names = choose_names(given, args.class_dim, noted_names(args.pretrained_model, args.class_dim))
    if not names:
        log("the class names are unknown: give them with --class_map_path")
    return names
