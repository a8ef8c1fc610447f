"""The names of a run's classes, and checks of their numbering in the data."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from utils.console import is_main_process, warn
from utils.errors import UserError
from utils.reading.class_names import Names, read_class_names, readable
from utils.reading.image_list import ImageList
from utils.reading.numbering import classes_seen, first_clash
from utils.weights.notes import read_class_notes


def settle_names(args: Namespace, images: ImageList, known: Names, resumed: Path | None) -> list[str | None]:
    """The class names to save in the weights: from --class_map_path, or else from the data.

    Args:
        args: train.py's flags.
        images: the training images.
        known: names known to the reader; see `utils.reading.numbering.known_names`.
        resumed: the checkpoint that the run continues from, or None.

    Returns:
        By class number; None for unknown names; may cover only the first classes.

    Raises:
        UserError: --class_map_path is not a file of names or orders them differently than the data, or the data number
            the classes differently than when the run began.
    """
    _note_unused_classes(args, images, known)
    names = readable(known)
    if args.class_map_path:
        names = read_class_names(args.class_map_path, args.class_dim)
        if clash := first_clash(names, known):
            raise UserError(
                f"--class_map_path {args.class_map_path} names class {clash.first} {clash.name}, which is class "
                f"{clash.second} in {images.source}: put the names in the order of the data"
            )
    # One process looks, as the others may not see the folder.
    before = read_class_notes(resumed) if resumed is not None and is_main_process() else ()
    if clash := first_clash(before, names):
        raise UserError(
            f"--checkpoint: {clash.name} was class {clash.first} when {resumed} was saved, and is class "
            f"{clash.second} in {images.source}: resume with the classes that the run began with"
        )
    return [*names]


def _note_unused_classes(args: Namespace, images: ImageList, known: Names) -> None:
    """Warns if --class_dim was left at its default and the data have fewer classes; training works anyway."""
    what = "have images" if images.class_names is None else "have a folder"
    classes = max(len(known), classes_seen(images))
    if "class_dim" not in args.given and classes < args.class_dim:
        warn(
            f"--class_dim not given: using {args.class_dim}, of which only {classes} {what} in --data_dir "
            f"{args.data_dir}; for a network of these alone give --class_dim={classes}"
        )
    elif classes == 1 and not args.multi_label:
        warn(f"--data_dir {args.data_dir}: all images are of one class, and there is nothing to tell apart")
