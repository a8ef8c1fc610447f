"""Runs with varying image sizes: the current part, and checks when resuming."""

from __future__ import annotations

import argparse
import zlib

import numpy as np
from torch import nn

from models.layers import UPSCALE_IN_TRAIN, Dropout
from utils.console import log
from utils.errors import FlagError, UserError
from utils.reading.loader import Loader
from utils.reading.varying import stage_of
from utils.training.checkpoint import Position


def check_stages(args: argparse.Namespace, model: nn.Module) -> None:
    """Raises `FlagError` if the run or network does not support --progressive_sizes and related flags."""
    if args.progressive_sizes and len(args.progressive_sizes) > args.num_epochs:
        raise FlagError(
            f"--progressive_sizes has {len(args.progressive_sizes)} parts, but --num_epochs is only "
            f"{args.num_epochs}: give at least one epoch per size"
        )
    if args.progressive_dropouts:
        _last_dropout(model, args.model)


def _last_dropout(model: nn.Module, name: str) -> Dropout:
    found = [module for module in model.modules() if isinstance(module, Dropout)]
    # Under the other convention, evaluation would need the last part's rate, which it does not know.
    if not found or found[-1].mode != UPSCALE_IN_TRAIN:
        raise FlagError(f"--progressive_dropouts: {name} has no training-only dropout before its classifier")
    return found[-1]


def begin_epoch(args: argparse.Namespace, model: nn.Module, epoch: int, first: bool) -> None:
    """Begins an epoch with --progressive_sizes: sets the dropout, and logs the start of a part.

    Args:
        args: train.py's flags.
        model: the network.
        epoch: counted from 0.
        first: whether it is this process's first epoch.
    """
    if not args.progressive_sizes:
        return
    stages = len(args.progressive_sizes)
    stage = stage_of(epoch, args.num_epochs, stages)
    said = [f"images of size {args.progressive_sizes[stage]}"]
    if args.progressive_magnitudes:
        said.append(f"RandAugment of magnitude {args.progressive_magnitudes[stage]:g}")
    if args.progressive_dropouts:
        _last_dropout(model, args.model).p = args.progressive_dropouts[stage]
        said.append(f"dropout {args.progressive_dropouts[stage]:g}")
    if first or stage != stage_of(epoch - 1, args.num_epochs, stages):
        log(f"part {stage + 1} of {stages}, from epoch {epoch}: {', '.join(said)}")


def settle_plan(position: Position, loader: Loader, resumed: object) -> None:
    """Records how an epoch is split into batches, on which a position within it depends.

    Args:
        position: progress of the run.
        loader: for the training images.
        resumed: the checkpoint, for errors.

    Raises:
        UserError: the run resumes in the middle of an epoch with other batches.
    """
    plan = _plan_of(loader)
    if position.step_in_epoch and position.plan != plan:
        raise UserError(
            f"--checkpoint: {resumed} is in the middle of an epoch of batches of other sizes: resume with the same "
            "--multi_scale, --multi_scale_factor and number of processes, or from a checkpoint at the end of an epoch"
        )
    position.plan = plan


def _plan_of(loader: Loader) -> int | None:
    """A checksum of the batch sizes of all steps, over all processes; None if they are all the same."""
    if len(set(loader.batch_sizes)) == 1:
        return None
    sizes = np.array(loader.batch_sizes)[loader.transforms_of(0)] * loader.world_size
    return zlib.crc32(sizes.astype(np.int64).tobytes())
