"""One evaluation by eval.py: a network's metrics on the validation images, and per-class results if requested."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.console import is_main_process, log, report_unreadable, warn
from utils.errors import FlagError, UserError
from utils.evaluation.class_report import (
    MAX_CONFUSION,
    ClassMeter,
    looks_permuted,
    read_label_map,
    write_class_table,
    write_confusion,
)
from utils.evaluation.crops import AverageOverCrops
from utils.evaluation.labels import LabelsMeter, write_label_table
from utils.evaluation.meters import validation_meter
from utils.evaluation.metrics import Meter, named
from utils.evaluation.report.write import Report
from utils.evaluation.validation import validate
from utils.processes import check_agreement, gather_dict, rank, world_size
from utils.reading.build import crop_loader, val_loader
from utils.reading.class_names import Names, imagenet_names, imagenet_synsets
from utils.reading.file_report import report_files
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader
from utils.reading.normalize import normalize
from utils.reading.numbering import choose_names, first_clash, known_names


class Subject(NamedTuple):
    """The network to evaluate.

    Attributes:
        network: inputs (N, 3, H, W) to logits (N, classes).
        device, memory_format, dtype: of the inputs.
        class_names: by class number, as far as known.
        model: the network as a differentiable module in float32, or None.
    """

    network: Callable[[Tensor], Tensor]
    device: torch.device
    memory_format: torch.memory_format
    dtype: torch.dtype = torch.float32
    class_names: Names = ()
    model: nn.Module | None = None


def evaluate(
    args: argparse.Namespace, subject: Subject, keep: Callable[[dict[str, float]], None] | None = None
) -> dict[str, float]:
    """Evaluates by eval.py's flags and prints the metrics.

    Args:
        args: the flags.
        subject: the network.
        keep: called with the metrics before drawing or writing, which may fail.

    Returns:
        "Test_loss", "test_acc1" and "test_acc5" (or whatever the top k is with fewer classes), and the results of
        --tpr_at_fpr; the numbers of correct images, "top1" and "top5", of "labelled" ones; and the number of all
        "images". With --multi_label, the metrics of `LabelsMeter` instead of accuracies and numbers.

    Raises:
        FlagError: --confusion_path for too many classes.
        UserError: a file of class names, labels or results is invalid, or no image can be read.
    """
    device = subject.device
    many = args.crop_num > 1
    names = _choose_names(args, subject)
    loader = _open_loader(args, subject)
    new_label = read_label_map(args.label_map, args.class_dim).to(device) if args.label_map else None

    def normalized(images: Tensor) -> Tensor:
        return normalize(images, args.image_mean, args.image_std, subject.memory_format, subject.dtype)

    def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images if many else normalized(images), labels if new_label is None else new_label[labels]

    classify = subject.network
    if many:
        classify = AverageOverCrops(classify, normalized, args.batch_size // world_size())
    meter = choose_meter(args, device)
    report = Report(args, loader, normalized, device, subject.model) if args.report else None
    values = validate(
        classify,
        loader,
        prepare,
        meter,
        print_step=args.print_step,
        same_feed=args.same_feed,
        watch=None if report is None else report.watch,
    )
    loader.close()

    if isinstance(meter, ClassMeter):
        meter.gather()
    unreadable = gather_dict(loader.unreadable)
    report_unreadable(unreadable)
    report_files(loader)
    figures = named(values, meter.names)
    if args.multi_label:
        figures["hamming_distance"] = 1 - values["acc1"]
    results = {"Test_loss": values["loss"], **{f"test_{name}": value for name, value in figures.items()}}
    log(", ".join(f"{name} {value:.5f}" for name, value in results.items()))
    if isinstance(meter, ClassMeter):
        results |= dict(zip(("labelled", "top1", f"top{meter.topk}"), meter.totals(), strict=True))
    results["images"] = int(values["images"])
    if keep is not None:
        keep(results)
    if is_main_process():
        report_classes(args, meter, names)
    if report is not None and isinstance(meter, ClassMeter):  # `check_report_flags` refuses other meters
        report.finish(meter, names, values["loss"], len(unreadable))
    return results


def _open_loader(args: argparse.Namespace, subject: Subject) -> Loader:
    """The loader of the validation images; raises `UserError` if they number the classes differently than the
    network.
    """
    open_loader = crop_loader if args.crop_num > 1 else val_loader
    loader = open_loader(args, rank(), world_size(), subject.device.type == "cuda", class_names=subject.class_names)
    check_agreement({**args.values(), "data_dir": loader.images.summary()})
    if not args.label_map:
        check_numbering(args, loader.images, subject.class_names)
    return loader


def choose_meter(args: argparse.Namespace, device: torch.device) -> Meter:
    """The meter: one that also counts per class, unless --tpr_at_fpr needs another."""
    if args.multi_label or args.tpr_at_fpr is not None:
        return validation_meter(args, device)
    return ClassMeter(args.class_dim, device, min(args.eval_topk, args.class_dim))


def _choose_names(args: argparse.Namespace, subject: Subject) -> Names:
    """The names of the classes, from --class_map_path or the network, as far as known.

    Raises:
        FlagError: --confusion_path for too many classes.
        UserError: --class_map_path is not a file of names.
    """
    if args.confusion_path and args.class_dim > MAX_CONFUSION:
        raise FlagError(
            f"--confusion_path supports at most {MAX_CONFUSION} classes, not {args.class_dim}: leave it out"
        )
    return choose_names(args.class_map_path or None, args.class_dim, subject.class_names)


def check_numbering(args: argparse.Namespace, images: ImageList, class_names: Names) -> None:
    """Compares the class numbers of the validation images with the network's.

    Args:
        args: eval.py's flags.
        images: the validation images.
        class_names: the names from training, by number, as far as known.

    Raises:
        UserError: a class has a different number in the data.
    """
    data_names = known_names(images, args.data_dir, args.class_dim)
    folders = imagenet_synsets() if list(class_names) == imagenet_names() else ()
    if clash := first_clash(class_names, data_names) or first_clash(folders, data_names):
        raise UserError(
            f"{clash.name} is class {clash.first} of the network but class {clash.second} in {images.source}: number "
            "the images as in training, or give --label_map"
        )
    own = images.class_names
    called = {*class_names, *folders}
    if own is not None and not called & set(own) and (class_names or len(own) < args.class_dim):
        warn(
            f"the class folders in {images.source} do not have the names of the network's classes, as far as known: "
            f"in alphabetical order they count as the first {len(own)} of {args.class_dim}; use a list to number "
            "them differently"
        )


def report_classes(args: argparse.Namespace, meter: Meter, names: Names) -> None:
    """Writes the requested per-class results, and warns if the labels seem to be in another order."""
    if isinstance(meter, LabelsMeter) and args.per_class_path:
        write_label_table(Path(args.per_class_path), meter, names)
    if not isinstance(meter, ClassMeter):
        return
    if args.per_class_path:
        write_class_table(Path(args.per_class_path), meter, names)
    if args.confusion_path and meter.confusion is not None:  # `_choose_names` refuses it for too many classes
        write_confusion(Path(args.confusion_path), meter.confusion, names)
    if looks_permuted(meter):
        warn(
            "the accuracy is at chance, but most images of each label get the same prediction: the network seems to "
            "number the classes differently than the list. Check the order used in training (ImageNet's 2012 and "
            "2015 devkits differ) and give another list, or --label_map"
        )
