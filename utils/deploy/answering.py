"""Builds from predict.py's flags what answers: the exported network and the classifier around it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

from utils.deploy.exported import load_exported
from utils.deploy.network import ExportedNetwork
from utils.errors import FlagError
from utils.evaluation.classify import Classifier
from utils.evaluation.meters import answer_thresholds
from utils.flags.inputs import given_input
from utils.reading.class_names import Names, checked_names
from utils.reading.normalize import normalize
from utils.reading.numbering import choose_names


def load_by_flags(
    args: argparse.Namespace,
    model_file: str,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    images: float = math.inf,
) -> ExportedNetwork:
    """Loads an exported network as the flags ask, to answer `images` images; raises what `load_exported` raises.

    The engines are timed if --engine=auto is given, or if the number of images is finite and would take long.
    """
    return load_exported(
        model_file,
        args.params_file,
        device,
        dtype,
        engine=args.engine,
        batch_size=batch_size,
        use_compile=args.use_compile,
        use_tensorrt=args.use_tensorrt,
        gpu_mem=args.gpu_mem and args.gpu_mem * 2**20,
        may_use_cpu=not {"gpu_id", "device"} & args.given,
        cpu_flag="--device=cpu" if args.device else "--gpu_id=-1",
        input_flags=given_input(args),
        output_name=args.output_name,
        images=images,
        measure=True if "engine" in args.given else False if images == math.inf else None,
        features=bool(args.features_path or args.score_decimals is not None) and args.serve_port is None,
    )


def input_of(network: ExportedNetwork) -> Callable[[Tensor], Tensor]:
    """Returns the function that turns pixels, uint8 (N, H, W, 3), into the input that the description asks for."""
    about = network.description

    def prepare(pixels: Tensor) -> Tensor:
        pixels = pixels.to(network.device, non_blocking=True)
        return normalize(pixels, about.image_mean, about.image_std, network.memory_format, network.dtype)

    return prepare


def classifier_by_flags(args: argparse.Namespace, network: ExportedNetwork) -> Classifier:
    """Wraps a network in a classifier; the export decides what the flags leave open.

    Raises:
        FlagError: the flags do not suit the network.
    """
    about, settled = network.description, copy(args)
    if network.topk and "topk" not in args.given:
        settled.topk = min(network.topk, about.class_dim)
    if "multi_label" not in args.given:
        settled.multi_label = about.multi_label
    if "attributes" not in args.given and settled.multi_label:
        settled.attributes = network.attributes
    noted = about.threshold if settled.multi_label == about.multi_label else None
    thresholds = answer_thresholds(settled, about.class_dim, settled.multi_label, noted)
    names = class_names(settled, network)
    flag = precision_flag(args)
    return Classifier(network, input_of(network), names, settled.topk, flag, thresholds, settled.attributes)


def class_names(args: argparse.Namespace, network: ExportedNetwork) -> Names:
    """Class names from --class_names or --class_map_path, or else from the export, if it has any.

    Raises:
        FlagError: --topk is more than the number of classes, or the names do not fit them.
    """
    about = network.description
    if args.topk > about.class_dim and not args.multi_label:
        raise FlagError(f"--topk {args.topk} is more than the {about.class_dim} classes of {about.network}")
    if args.class_names:
        return checked_names(args.class_names, about.class_dim)
    return choose_names(args.class_map_path or None, about.class_dim, about.class_names)


def precision_flag(args: argparse.Namespace) -> str | None:
    """The flag that asks for less than float32 precision, for errors; None: no such flag."""
    return "--use_fp16" if args.use_fp16 else "--use_bf16" if args.use_bf16 else None
