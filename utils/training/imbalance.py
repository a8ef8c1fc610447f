"""Weights of the classes in the loss, where some have many images and others few."""

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
    """The weights of classes by their numbers of images.

    Args:
        kind: "balanced", 1 / n, of which the mean over the images is 1; "sqrt", 1 / sqrt(n), likewise; "effective", by
            the effective number of images, (1 - beta) / (1 - beta ** n), of which the mean over the classes is 1 (Cui
            et al., arXiv:1901.05555).
        counts: n, int (classes,); classes without images count for nothing, and weigh 1.
        beta: of "effective".

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
    """The weights in a file: a number per line in the order of the classes, or lines `class weight` in any order.

    Returns:
        float64 (classes,).

    Raises:
        UserError: the file cannot be read, or does not have one weight for each class.
    """
    where = f"--class_weights {path}"
    try:
        lines = read_text(path, 16).splitlines()
    except OSError as error:
        one_of = f"; it is none of {', '.join(KINDS)} either" if isinstance(error, FileNotFoundError) else ""
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
            raise UserError(f"{where}, line {number}: {line.strip()!r} is no weight, nor `class weight`")
        if label >= classes or label in found:
            what = f"there is no class {label} of {classes}" if label >= classes else f"class {label} is there twice"
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
            raise UserError(f"--class_weights {args.class_weights}: all classes that have images weigh 0")
    else:
        weights = weights_of_counts(args.class_weights, counts, args.effective_beta)
    there = np.flatnonzero(counts)
    fewest, most = there[counts[there].argmin()], there[counts[there].argmax()]
    log(
        f"--class_weights {args.class_weights}: class {fewest}, of {counts[fewest]} images, weighs "
        f"{weights[fewest]:.4g}; class {most}, of {counts[most]}, {weights[most]:.4g}"
    )
    return weights


def check_class_weights(args: Namespace) -> None:
    """Raises `FlagError` where --class_weights does not go with the other flags."""
    if args.class_weights is None:
        return
    if args.multi_label or args.label_from:
        other = "multi_label" if args.multi_label else "label_from"
        raise FlagError(f"--class_weights is for images of one label each, of the list: leave it out, or --{other}")
    if args.balance_classes and args.class_weights in KINDS:
        warn(
            f"--balance_classes={args.balance_classes} and --class_weights={args.class_weights} both favour rare "
            "classes: together they may favour them too much"
        )
