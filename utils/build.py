"""From flags to objects: the network, its input, the device."""

from __future__ import annotations

import argparse
import inspect
import os

import torch
from torch import nn

import models
from utils.errors import FlagError, UserError
from utils.logger import log, warn

# Flags that only some networks have; the constructors take them under the same names.
NETWORK_OPTIONS = ("padding_type", "use_se", "drop_connect_rate", "deploy")


def resolve_input(args: argparse.Namespace) -> None:
    """Fills in the flags on the network's input that were not given, from the network's published ones.

    A size given without its --resize_short_size keeps the network's share of the image: 224/256 of a side, as a rule.
    """
    config = models.input_config(args.model)
    own = [3, config.image_size, config.image_size]
    if "image_shape" not in args.given:
        args.image_shape = own
    if args.image_shape[0] != 3:
        raise FlagError(f"--image_shape: images are read as RGB, so the first number is 3, not {args.image_shape[0]}")
    if "resize_short_size" not in args.given:
        args.resize_short_size = config.resize_short_size
        if args.image_shape != own:
            share = config.resize_short_size / config.image_size
            args.resize_short_size = round(max(args.image_shape[1:]) * share)
            log(f"--resize_short_size not given: {args.resize_short_size} for --image_shape {args.image_shape}")
    if args.resize_short_size < max(args.image_shape[1:]):
        raise FlagError(
            f"--resize_short_size: {args.resize_short_size} is smaller than the crop of --image_shape "
            f"{args.image_shape[1]} x {args.image_shape[2]}: give at least {max(args.image_shape[1:])}"
        )
    if args.interpolation is None:
        args.interpolation = config.interpolation


def build_model(args: argparse.Namespace, name: str | None = None) -> nn.Module:
    """The network --model (or `name`), with the options that its constructor takes of those in the flags."""
    name = name or args.model
    models.check_name(name)
    accepted = inspect.signature(getattr(models, name)).parameters
    options = {}
    for option in NETWORK_OPTIONS:
        if option in accepted and hasattr(args, option):
            options[option] = getattr(args, option)
        elif option in args.given:
            warn(f"--{option} does nothing here: {name} has no such option")
    return models.build(name, class_dim=args.class_dim, **options)


def choose_device(args: argparse.Namespace) -> torch.device:
    """The GPU of this process, or the CPU.

    Raises:
        FlagError: --use_gpu=True was given on a machine without a usable GPU.
    """
    if args.use_gpu and torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
                "lower --nproc_per_node or give --use_gpu=False"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    if args.use_gpu and "use_gpu" in args.given:
        raise FlagError("--use_gpu=True, but PyTorch finds no usable GPU here: give --use_gpu=False to use the CPU")
    if args.use_gpu:
        log("no usable GPU here: running on the CPU")
    return torch.device("cpu")
