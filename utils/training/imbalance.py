"""Class weights in the loss, for imbalanced data."""

from __future__ import annotations

import math
from argparse import Namespace

import numpy as np

from utils.console import log, warn
from utils.errors import FlagError, FormatError, UserError, reason
from utils.files import read_text
from utils.reading.image_list import ImageList

KINDS = ("balanced", "sqrt", "effective")


def images_per_class(images: ImageList, classes: int) -> np.ndarray:
    """The number of images of each class of a list of one label per image, int (classes,)."""
    return np.bincount(images.labels[images.labels >= 0], minlength=classes)


def weights_of_counts(kind: str, counts: np.ndarray, beta: float) -> np.ndarray:
    """Class weights from numbers of images.

    Args:
        kind: "balanced", 1 / n, with mean 1 over the images; "sqrt", 1 / sqrt(n), likewise; "effective", by the
            effective number of images, (1 - beta) / (1 - beta ** n), with mean 1 over the classes (Cui et al.,
            arXiv:1901.05555).
        counts: n, int (classes,); classes without images are ignored and get weight 1.
        beta: for "effective".

    Returns:
        float64 (classes,).
    """
    weights = np.ones(len(counts))
    there = counts > 0
    n = counts[there].astype(np.float64)
    if kind == "effective":
        own = (1 - beta) / -np.expm1(n * math.log(beta)) if beta > 0 else np.ones(len(n))
        weights[there] = own * len(n) / own.sum()
    else:
        own = 1 / n if kind == "balanced" else 1 / np.sqrt(n)
        weights[there] = own * n.sum() / (own * n).sum()
    return weights


def read_class_weights(path: str, classes: int) -> np.ndarray:
    """The weights in a file: one number per line in class order, or lines `class weight` in any order.

    Returns:
        float64 (classes,).

    Raises:
        UserError: the file cannot be read, or does not have one weight for each class.
    """
    where = f"--class_weights {path}"
    try:
        lines = read_text(path, 16).splitlines()
    except OSError as error:
        one_of = f"; give a file, or one of {', '.join(KINDS)}" if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"{where}: {reason(error)}{one_of}") from None
    except FormatError as error:
        raise UserError(f"{where}: {error}") from None
    found: dict[int, float] = {}
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            label, weight = (int(words[0]) if len(words) == 2 else len(found)), float(words[-1])
        except ValueError:
            label, weight = -1, math.nan
        if len(words) > 2 or label < 0 or not 0 <= weight < math.inf:
            raise UserError(f"{where}, line {number}: {line.strip()!r} is neither a weight nor `class weight`")
        if label >= classes or label in found:
            what = f"there is no class {label} of {classes}" if label >= classes else f"class {label} appears twice"
            raise UserError(f"{where}, line {number}: {what}")
        found[label] = weight
    if missing := sorted(set(range(classes)) - found.keys()):
        raise UserError(f"{where}: {len(missing)} classes have no weight, such as {missing[0]}")
    if not any(found.values()):
        raise UserError(f"{where}: all weights are 0")
    return np.array([found[label] for label in range(classes)])


def class_weights(args: Namespace, images: ImageList) -> np.ndarray | None:
    """--class_weights, float64 (classes,); None without.

    Args:
        args: train.py's flags.
        images: the training list.

    Raises:
        UserError: a file of weights does not have one for each class.
    """
    if args.class_weights is None:
        return None
    counts = images_per_class(images, args.class_dim)
    if args.class_weights not in KINDS:
        weights = read_class_weights(args.class_weights, args.class_dim)
        if not (weights * counts).any():
            raise UserError(f"--class_weights {args.class_weights}: all classes with images have weight 0")
    else:
        weights = weights_of_counts(args.class_weights, counts, args.effective_beta)
    there = np.flatnonzero(counts)
    fewest, most = there[counts[there].argmin()], there[counts[there].argmax()]
    log(
        f"--class_weights {args.class_weights}: class {fewest}, with {counts[fewest]} images, has weight "
        f"{weights[fewest]:.4g}; class {most}, with {counts[most]}, {weights[most]:.4g}"
    )
    return weights


def check_class_weights(args: Namespace) -> None:
    """Raises `FlagError` if --class_weights cannot work with the other flags."""
    if args.class_weights is None:
        return
    if args.multi_label or args.label_from:
        other = "multi_label" if args.multi_label else "label_from"
        raise FlagError(f"--class_weights needs one label per image, from the list: leave it out, or --{other}")
    if args.balance_classes and args.class_weights in KINDS:
        warn(
            f"--balance_classes={args.balance_classes} and --class_weights={args.class_weights} both favour rare "
            "classes; together they may overdo it"
        )
