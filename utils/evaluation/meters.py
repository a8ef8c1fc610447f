"""Chooses metrics by the flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from utils.errors import FlagError
from utils.evaluation.attributes import KINDS
from utils.evaluation.labels import LabelsMeter
from utils.evaluation.metrics import Meter
from utils.evaluation.predictions import AtLeast
from utils.evaluation.rates import RatesMeter

# --best_metric -> the metric's field in the results.
BEST_FIELDS = {"acc1": "acc1", "accuracy": "acc1", "map": "map", "ma": "ma", "f1": "f1", "tpr": "tpr"}


def one_per_class(thresholds: list[float], classes: int) -> list[float]:
    """--threshold, as one probability per class; raises `FlagError` if it has another number of values."""
    if len(thresholds) not in (1, classes):
        raise FlagError(f"--threshold has {len(thresholds)} values: give one, or one for each of the {classes} classes")
    return thresholds * classes if len(thresholds) == 1 else thresholds


def answer_thresholds(
    args: argparse.Namespace, classes: int, multi_label: bool, noted: Sequence[float] | None = None
) -> float | AtLeast | list[float] | None:
    """The thresholds of infer.py and predict.py; see `utils.evaluation.classify.Classifier`.

    Args:
        args: the script's flags.
        classes: of the network.
        multi_label: whether an image may have several.
        noted: thresholds in the export, which --threshold overrides.

    Raises:
        FlagError: --threshold has another number of values.
    """
    if args.attributes is not None:
        outputs, _ = KINDS[args.attributes]
        if not multi_label or classes != outputs:
            raise FlagError(
                f"--attributes={args.attributes} is for networks with --multi_label=True and {outputs} classes; this "
                f"one has {classes}{'' if multi_label else ', of which an image has one'}"
            )
    values = args.threshold if "threshold" in args.given or noted is None else list(noted)
    if multi_label:
        return one_per_class(values, classes)
    if "threshold" not in args.given and noted is None:
        return None
    if len(values) != 1:
        raise FlagError(
            f"--threshold has {len(values)} values, which needs --multi_label=True: give one value, or that flag"
        )
    return float(values[0]) if classes == 2 else AtLeast(float(values[0]))


def check_labels(args: argparse.Namespace) -> None:
    """Raises `FlagError` for flags of train.py or eval.py that do not suit the images' labels."""
    if args.tpr_at_fpr is not None and (args.multi_label or args.class_dim != 2):
        raise FlagError("--tpr_at_fpr needs two classes: give --class_dim=2 and no --multi_label, or leave it out")
    for flag in ("per_class_path", "confusion_path", "crop_sweep") if args.tpr_at_fpr is not None else ():
        if getattr(args, flag):
            raise FlagError(f"--{flag} does not work with --tpr_at_fpr: leave out one of them")
    if not args.multi_label:
        return
    one_per_class(args.threshold, args.class_dim)
    for flag in ("label_map", "confusion_path", "crop_sweep"):
        if getattr(args, flag):
            raise FlagError(f"--{flag} needs one label per image: leave it out, or --multi_label")
    if args.crop_num > 1:
        raise FlagError(f"--crop_num={args.crop_num} needs one label per image: leave it out, or --multi_label")


def training_meter(args: argparse.Namespace, device: torch.device) -> Meter:
    """The meter for the steps of an epoch."""
    if args.multi_label:
        return LabelsMeter(device, one_per_class(args.threshold, args.class_dim))
    return Meter(device, min(args.eval_topk, args.class_dim))


def validation_meter(args: argparse.Namespace, device: torch.device) -> Meter:
    """The meter for a validation."""
    if args.multi_label:
        return LabelsMeter(device, one_per_class(args.threshold, args.class_dim), keep_scores=True)
    if args.tpr_at_fpr is not None:
        return RatesMeter(device, args.tpr_at_fpr)
    return Meter(device, min(args.eval_topk, args.class_dim))


def best_metric(args: argparse.Namespace) -> str:
    """--best_metric, or its default.

    Raises:
        FlagError: the validation does not measure it.
    """
    known = ("map", "accuracy", "ma", "f1") if args.multi_label else ("acc1",)
    if args.tpr_at_fpr is not None:
        known = ("tpr", *known)
    if args.best_metric not in (None, *known):
        raise FlagError(
            f"--best_metric={args.best_metric} is not measured in this validation: choose from {', '.join(known)}"
        )
    return args.best_metric or known[0]
