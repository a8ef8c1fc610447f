"""Trains a network on a list file or on class folders.

python train.py --model=ResNet50_vd --batch_size=256 --lr_strategy=cosine_decay --use_mixup=True
python -m torch.distributed.run --nproc_per_node=4 train.py --model=ResNet50 --use_fp16=True
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence

from utils.errors import LESS_MEMORY, run_script
from utils.flags import Flags, parse
from utils.flags.kinds import AUTO

if __name__ == "__main__":
    parse("train")  # answers --help and misspelt flags before the slow import of PyTorch

import numpy as np
import torch
from torch import Tensor

from models.network import Network
from utils.console import log, report_unreadable
from utils.devices import amp_dtype, choose_device, in_mixed_precision, memory_format, note_slow_type
from utils.evaluation.meters import validation_meter
from utils.evaluation.validation import validate
from utils.processes import (
    broadcast_buffers,
    check_agreement,
    gather_dict,
    process_group,
    rank,
    world_size,
)
from utils.reading.build import train_loader, training_images, val_loader
from utils.reading.file_report import report_contents, report_files
from utils.reading.loader import Batch, Loader
from utils.reading.normalize import normalize
from utils.reading.numbering import check_parts, classes_seen, known_names
from utils.reading.to_device import copies_of_first, to_device
from utils.training import mixing
from utils.training.batch_size import check_auto, choose_batch_size
from utils.training.build import (
    build_train_step,
    check_train_flags,
    settle_total_images,
    settle_update_freq,
)
from utils.training.classes import settle_names
from utils.training.freezing import train_mode
from utils.training.imbalance import class_weights
from utils.training.loss import Targets
from utils.training.rate_test import range_test, report_rates
from utils.training.run import Run
from utils.training.seed import seed_everything
from utils.training.seeds import run_seeds
from utils.training.sharding import check_fsdp, is_sharded
from utils.training.start import RunStart
from utils.training.step import TrainStep
from utils.training.varying import begin_epoch, check_stages, settle_plan
from utils.weights import TO_TRAIN, load_pretrained
from utils.weights.network import build_model, explained_sizes, paddleclas_input, resolve_input


def main() -> None:
    args = parse("train")
    settle_update_freq(args)
    check_train_flags(args)
    check_auto(args)
    weights = args.pretrained_model or (args.checkpoint if args.checkpoint != "auto" else None)
    resolve_input(args, weights and paddleclas_input(weights, args.model, args.pretrained_key))
    device = choose_device(args)
    note_slow_type(device, amp_dtype(args, device), "--use_fp16", training=True)
    check_fsdp(args, device)
    with process_group(device), explained_sizes(args.model):
        if args.seeds > 1:
            signal = run_seeds(args, lambda own: run_once(own, device))
        else:
            signal = run_once(args, device)
    if signal:
        sys.exit(128 + signal)


def run_once(args: Flags, device: torch.device) -> int:
    """Trains by the flags; returns the number of the signal that ended the run, or 0."""
    with RunStart(args, device) as start:
        return train(args, device, start)


def train(args: Flags, device: torch.device, start: RunStart) -> int:
    """Builds everything, then trains, validates and saves, epoch by epoch.

    Returns:
        The number of the signal that ended the run, or 0.
    """
    position, images = start.position, None
    if args.batch_size == AUTO:
        images = training_images(args)
        args.batch_size = position.batch_size = choose_batch_size(args, device, len(images))
    position.seed = seed_everything(args.random_seed if position.seed is None else position.seed, args.enable_ce)

    # Every process reads its rows of the same global batches.
    shares = {"rank": rank(), "world_size": world_size(), "pin_memory": device.type == "cuda"}
    loader = train_loader(args, position.seed, **shares, images=images)
    classes = args.class_dim if "class_dim" in args.given else classes_seen(loader.images)
    known = known_names(loader.images, args.data_dir, classes)
    test_loader = val_loader(args, **shares, class_names=known) if args.validate else None
    if test_loader is not None and args.label_from is None:
        check_parts(loader.images, test_loader.images, args.data_dir)
    settle_total_images(args, loader.count, len(loader) if args.multi_scale else 0)
    class_names = settle_names(args, loader.images, known, start.resumed)
    loaders = [loader] if test_loader is None else [loader, test_loader]
    data = " and ".join(loader.images.summary() for loader in loaders)
    check_agreement({**args.values(), "data_dir": data})

    settle_plan(position, loader, start.resumed)
    model = build_model(args)
    check_stages(args, model)
    if args.pretrained_model and start.resumed is None:
        load_start(args, model, class_names)
    label_shares = loader.images.labels.mean(0) if args.multi_label else None
    step = build_train_step(args, model, device, label_shares, class_weights(args, loader.images))
    if args.lr_range_test:
        report_rates(args, range_test(args, step, endless_batches(args, device, loader, step)))
        return 0
    run = Run(start, step, loader.images, len(loader), class_names)

    started, steps_before, results = time.perf_counter(), step.step, {}
    first = position.epoch
    for epoch in run.epochs():
        train_mode(model)
        begin_epoch(args, model, epoch, epoch == first)
        batches = read(args, device, loader, epoch, position.step_in_epoch)
        for images, labels, indices in run.steps(batches, len(loader)):
            seed = (position.seed, epoch, position.step_in_epoch)
            loss, logits = step(*prepare(args, device, images, labels, seed))
            run.after_step(loss, logits, labels, indices)
        training = run.train_results()
        if run.ended:
            results = results or {"train": training}
            break
        results = {"train": training}
        if test_loader is not None and is_validated(args, epoch):
            results |= validate_networks(args, device, test_loader, step, run)
        report_contents(*loaders)
        run.after_epoch(results)

    report_unreadable(gather_dict({path: why for loader in loaders for path, why in loader.unreadable.items()}))
    report_files(*loaders)
    if args.enable_ce and results:
        images = (step.step - steps_before) * (args.same_feed * world_size() or args.batch_size)
        speed = images / (time.perf_counter() - started)
        log_kpis(results, speed)
    run.finish()
    return run.signal


def read(
    args: argparse.Namespace, device: torch.device, loader: Loader, epoch: int, start_step: int = 0
) -> Iterator[tuple[Tensor, Tensor, Batch]]:
    """The batches of an epoch of training, on the device."""
    batches = to_device(loader.epoch(epoch, start_step), device)
    return copies_of_first(batches, args.same_feed) if args.same_feed else batches


def endless_batches(
    args: argparse.Namespace, device: torch.device, loader: Loader, step: TrainStep
) -> Iterator[tuple[Tensor, Targets]]:
    """The batches of a run, epoch after epoch, without end."""
    for epoch in itertools.count():
        train_mode(step.model)
        begin_epoch(args, step.model, min(epoch, args.num_epochs - 1), epoch == 0)
        for number, (images, labels, _) in enumerate(read(args, device, loader, epoch)):
            yield prepare(args, device, images, labels, (loader.seed, epoch, number))


def load_start(args: argparse.Namespace, model: Network, class_names: Sequence[str | None]) -> None:
    """Gives a network the weights of --pretrained_model."""
    excluded = [name.strip() for name in (args.finetune_exclude_pretrained_params or "").split(",")]
    choices = {"key": args.pretrained_key, "skip_misfits": args.skip_misfits, "class_names": class_names}
    log(str(load_pretrained(model, args.pretrained_model, excluded, **choices, remedies=TO_TRAIN)))


def is_validated(args: argparse.Namespace, epoch: int) -> bool:
    """Whether a validation follows an epoch, counted from 0."""
    done = epoch + 1
    return done == args.num_epochs or (done > args.start_eval_epoch and done % args.eval_interval == 0)


def prepare(
    args: argparse.Namespace, device: torch.device, images: Tensor, labels: Tensor, seed: tuple[int, ...]
) -> tuple[Tensor, Targets]:
    """Normalises and mixes a batch by the flags. The draw depends on the step alone: a resumed run draws the same."""
    images = normalize(images, args.image_mean, args.image_std, memory_format(args, device))
    alphas = args.use_mixup * args.mixup_alpha, args.use_cutmix * args.cutmix_alpha
    return mixing.mix(images, labels, *alphas, np.random.default_rng(seed), args.mixup_prob, args.cutmix_prob)


def validate_networks(
    args: argparse.Namespace, device: torch.device, loader: Loader, step: TrainStep, run: Run
) -> dict[str, dict[str, float]]:
    """Validates the network, and its average if it has one, over all processes."""

    def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return normalize(images, args.image_mean, args.image_std, memory_format(args, device)), labels

    networks = {"test": step.model} | ({"test_ema": step.ema.model} if step.ema is not None else {})
    results = {}
    for name, model in networks.items():
        broadcast_buffers(model)
        dtype = amp_dtype(args, device) if args.use_fp16_test else None
        results[name] = validate(
            in_mixed_precision(model.eval(), device, dtype),
            loader,
            prepare,
            validation_meter(args, device),
            print_step=args.print_step if name == "test" else None,
            epoch=run.position.epoch,
            title=name,
            interrupted=lambda: run.interrupted,
            in_step=is_sharded(model),
        )
    return results


def log_kpis(results: dict[str, dict[str, float]], speed: float) -> None:
    """Prints the kpis lines of --enable_ce."""
    cards = world_size()
    for name, values in results.items():
        for kpi, field in (("cost", "loss"), ("acc1", "acc1"), ("acc5", "acck")):
            log(f"kpis  {name}_{kpi}_card{cards}  {values[field]:.5f}")
    log(f"kpis  train_speed_card{cards}  {speed:.2f}")


if __name__ == "__main__":
    run_script(main, LESS_MEMORY)
