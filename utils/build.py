"""From flags to objects: the network and its input, the device, the training step; and the flags that go together."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import models
from utils.allocator import keep_freed_memory
from utils.distributed import synchronize_batch_norm, world_size
from utils.ema import ExponentialMovingAverage
from utils.engine import Distillation, TrainStep
from utils.errors import FlagError, UserError
from utils.idle_flags import WARM_UP_STRATEGIES, note_idle_flags
from utils.logger import log, warn
from utils.memory import checkpoint_activations
from utils.optimizer import Schedule, build_optimizer
from utils.weights import load_pretrained

# Flags that only some networks have; the constructors take them under the same names.
NETWORK_OPTIONS = ("padding_type", "use_se", "drop_connect_rate", "deploy")


def usual_input(name: str) -> dict[str, Any]:
    """The `INPUT_FLAGS` of a network's published weights."""
    config = models.input_config(name)
    return {
        "image_shape": [3, config.image_size, config.image_size],
        "resize_short_size": config.resize_short_size,
        "interpolation": config.interpolation,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Values by the names of flags, as they are given: {"image_shape": [3, 32, 32]} is --image_shape 3 32 32."""
    return [f"--{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in values.items()]


def resolve_input(args: argparse.Namespace, noted: Mapping[str, Any] | None = None) -> None:
    """Fills in the flags on the network's input that were not given, from the network's published ones.

    A size given without its --resize_short_size keeps the network's share of the image: 224/256 of a side, as a rule.

    Args:
        args: the flags; changed in place.
        noted: those that the network's weights were trained with, which come before the published ones; see
            `utils.weights.read_input_notes`.

    Raises:
        FlagError: sizes that cannot be.
    """
    usual, given = usual_input(args.model), frozenset(args.given)
    own = usual | dict(noted or {})
    if "crop_size" in args.given:
        square = [3, args.crop_size, args.crop_size]
        if "image_shape" in args.given and args.image_shape != square:
            raise FlagError("--crop_size and --image_shape say different sizes: give one of them")
        args.image_shape = square
        args.given.add("image_shape")
    if "image_shape" not in args.given:
        args.image_shape = own["image_shape"]
        if args.image_shape != usual["image_shape"]:
            args.given.add("image_shape")  # a network that depends on it is to be built for it
    if args.image_shape[0] != 3:
        raise FlagError(f"--image_shape: images are read as RGB, so the first number is 3, not {args.image_shape[0]}")
    if "resize_short_size" not in args.given:
        args.resize_short_size = own["resize_short_size"]
        if args.image_shape != own["image_shape"]:
            share = own["resize_short_size"] / max(own["image_shape"][1:])
            args.resize_short_size = round(max(args.image_shape[1:]) * share)
            shape = " ".join(map(str, args.image_shape))
            log(f"--resize_short_size not given: {args.resize_short_size} for --image_shape {shape}")
    if args.resize_short_size < max(args.image_shape[1:]):
        raise FlagError(
            f"--resize_short_size: {args.resize_short_size} is smaller than the crop of --image_shape "
            f"{args.image_shape[1]} x {args.image_shape[2]}: give at least {max(args.image_shape[1:])}"
        )
    if args.interpolation is None:
        args.interpolation = own["interpolation"]
    if "image_mean" not in args.given:
        args.image_mean = own["image_mean"]
    if "image_std" not in args.given:
        args.image_std = own["image_std"]
    taken = {
        name: value for name, value in own.items() if name not in given and getattr(args, name) == value != usual[name]
    }
    if taken:
        log(f"not given, and therefore as in the training of {args.pretrained_model}: {', '.join(as_flags(taken))}")


def build_model(args: argparse.Namespace, name: str | None = None) -> nn.Module:
    """The network --model (or `name`), with the options that its constructor takes of those in the flags.

    Raises:
        FlagError: there is no such network, it takes no images of --image_shape, or has no --drop_path.
    """
    student = name is None
    name = name or args.model
    models.check_name(name)
    accepted = inspect.signature(getattr(models, name)).parameters
    options = {}
    if student and "drop_path" in args.given:
        if "drop_path_rate" not in accepted:
            remedy = "give --drop_connect_rate" if "drop_connect_rate" in accepted else "leave the flag out"
            raise FlagError(f"--drop_path: {name} drops no paths: {remedy}")
        options["drop_path_rate"] = args.drop_path
    for option in NETWORK_OPTIONS:
        if option in accepted and hasattr(args, option):
            options[option] = getattr(args, option)
        elif student and option in args.given:
            warn(f"--{option} does nothing here: {name} has no such option")
    if "image_size" in accepted and "image_shape" in args.given:
        height, width = args.image_shape[1:]
        if height != width:
            raise FlagError(f"--image_shape: {name} is built for square images, not {height} x {width}")
        options["image_size"] = height
    model = models.build(name, class_dim=args.class_dim, **options)
    if not getattr(args, "with_inplace", True):  # what only converts weights does not ask
        for module in model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False
    return model


def choose_device(args: argparse.Namespace) -> torch.device:
    """The GPU of this process, or the CPU.

    Raises:
        FlagError: --use_gpu=True was given on a machine without a usable GPU.
        UserError: there are more processes than GPUs on this machine.
    """
    if args.use_gpu and torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if processes > gpus:
            raise UserError(
                f"not every process of this machine has a GPU of its own: there are {processes} and {gpus}; "
                "lower --nproc_per_node or give --use_gpu=False"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    if args.use_gpu and "use_gpu" in args.given:
        raise FlagError("--use_gpu=True, but PyTorch finds no usable GPU here: give --use_gpu=False to use the CPU")
    if args.use_gpu:
        log("no usable GPU here: running on the CPU")
    keep_freed_memory()
    return torch.device("cpu")


def check_train_flags(args: argparse.Namespace) -> None:
    """Raises `FlagError` for combinations of train.py's flags that cannot work, before anything is built."""
    if args.checkpoint and args.checkpoint != "auto" and args.pretrained_model:
        raise FlagError(
            "--checkpoint=FOLDER continues a run, --pretrained_model starts one from weights: give one of them, or "
            "--checkpoint=auto, which starts from the weights if there is nothing to continue"
        )
    if args.finetune_exclude_pretrained_params and not args.pretrained_model:
        raise FlagError("--finetune_exclude_pretrained_params needs --pretrained_model")
    if args.lower_ratio > args.upper_ratio:
        raise FlagError(f"--lower_ratio {args.lower_ratio:g} is above --upper_ratio {args.upper_ratio:g}")
    if args.step_epochs != sorted(set(args.step_epochs)):
        raise FlagError(f"--step_epochs: {' '.join(map(str, args.step_epochs))} is not in increasing order")
    if args.min_lr > args.lr:
        raise FlagError(f"--min_lr {args.min_lr:g} is above --lr {args.lr:g}")
    if args.use_distill and not (args.teacher_model and args.teacher_pretrained_model):
        raise FlagError("--use_distill needs --teacher_model and --teacher_pretrained_model")
    if args.use_distill:
        models.check_name(args.teacher_model, "--teacher_model")
    if args.unlabeled_list and not args.unlabeled_list.endswith(".txt"):
        raise FlagError(f"--unlabeled_list: {args.unlabeled_list} is no list file (.txt)")
    if args.unlabeled_list and not (args.use_distill and args.distill_loss == "js"):
        raise FlagError("--unlabeled_list needs --use_distill=True --distill_loss=js: other losses need labels")
    if args.with_mem_opt and _compiles(args):
        raise FlagError(
            "--with_mem_opt cannot be had in a compiled network: leave out --use_compile and --fuse_*, or it"
        )
    note_idle_flags(args)
    if args.lr_strategy in WARM_UP_STRATEGIES and args.num_epochs <= args.warm_up_epochs:
        warn(
            f"--lr {args.lr:g} is never reached: the warm-up of --warm_up_epochs {args.warm_up_epochs:g} is not over "
            f"within --num_epochs {args.num_epochs}; lower --warm_up_epochs"
        )


def _compiles(args: argparse.Namespace) -> bool:
    """Whether train.py's flags ask for a compiled network."""
    return args.use_compile or args.fuse_elewise_add_act_ops or args.fuse_bn_act_ops


def memory_format(args: argparse.Namespace, device: torch.device) -> torch.memory_format:
    """channels_last for --data_format=NHWC, and where it is faster and the flag was not given (or does not exist)."""
    faster = device.type == "cpu" or getattr(args, "use_fp16", False)
    given = "data_format" in args.given
    wanted = args.data_format == "NHWC" if given else faster
    return torch.channels_last if wanted else torch.contiguous_format


def settle_total_images(args: argparse.Namespace, images: int) -> None:
    """Settles --total_images, on which the schedule depends, if it was not given and the list is not ImageNet's.

    It is what an epoch trains on, so that the schedule's epochs are as long as the run's. With a number given the
    schedule is that of the original, which rounds up where an epoch leaves out the last images.

    Args:
        args: train.py's flags.
        images: length of the training list, at least a batch.
    """
    if "total_images" not in args.given and args.total_images != images:
        args.total_images = images - images % args.batch_size
        what = "the length of the training list"
        if args.total_images != images:
            what = f"those of the {images} in the training list that fill whole batches"
        log(f"--total_images not given: {args.total_images}, {what}")


def note_unused_classes(args: argparse.Namespace, class_names: list[str] | None) -> None:
    """Says so where --class_dim was left at its default and there are fewer class folders: it trains all the same."""
    if class_names and "class_dim" not in args.given and len(class_names) < args.class_dim:
        warn(
            f"--class_dim not given: {args.class_dim}, of which only {len(class_names)} have a folder in --data_dir "
            f"{args.data_dir}; for a network of these alone give --class_dim={len(class_names)}"
        )


def build_schedule(args: argparse.Namespace) -> Schedule:
    """The learning-rate schedule by the flags; an epoch has --total_images / --batch_size steps, rounded up."""
    return Schedule(
        strategy=args.lr_strategy,
        lr=args.lr,
        steps_per_epoch=-(-args.total_images // args.batch_size),
        num_epochs=args.num_epochs,
        step_epochs=tuple(args.step_epochs),
        warm_up_epochs=args.warm_up_epochs,
        decay_epochs=args.decay_epochs,
        decay_rate=args.decay_rate,
        min_lr=args.min_lr,
    )


def amp_dtype(args: argparse.Namespace, device: torch.device) -> torch.dtype | None:
    """Type of mixed precision's operations, None without it."""
    if not args.use_fp16:
        return None
    if args.amp_dtype == "float16" or (args.amp_dtype == "auto" and device.type == "cuda"):
        return torch.float16
    return torch.bfloat16


def build_distillation(args: argparse.Namespace, device: torch.device) -> Distillation | None:
    """The teacher by the flags, None without --use_distill."""
    if not args.use_distill:
        return None
    teacher = build_model(args, args.teacher_model)
    log(f"teacher: {load_pretrained(teacher, args.teacher_pretrained_model)}")
    teacher.to(device, memory_format=memory_format(args, device)).eval().requires_grad_(False)
    return Distillation(teacher, args.distill_loss, args.distill_temperature, args.distill_weight)


def build_train_step(args: argparse.Namespace, model: nn.Module, device: torch.device) -> TrainStep:
    """Moves the network to the device and builds what trains it, by the flags."""
    model.to(device, memory_format=memory_format(args, device))
    if args.sync_bn and world_size() > 1:
        synchronize_batch_norm(model, device)
    if args.with_mem_opt and not checkpoint_activations(model):
        warn(f"--with_mem_opt does nothing here: {args.model} has no repeated blocks to compute again")
    if _compiles(args):
        model.compile()
    network = model
    if world_size() > 1:
        # Batch-norm statistics stay with their process; those of rank 0 are handed round before they are used.
        # (PyTorch 2.13 renamed the option.)
        options = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
        network = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            **{option: False},
            gradient_as_bucket_view=True,
            static_graph=args.accumulate_steps == 1,
        )
    dtype = amp_dtype(args, device)
    return TrainStep(
        model,
        build_optimizer(
            model,
            args.lr_strategy,
            args.lr,
            args.l2_decay,
            args.momentum_rate,
            optimizer=args.optimizer,
            weight_decay=args.weight_decay,
        ),
        build_schedule(args),
        network=network,
        smoothing=args.label_smoothing_epsilon if args.use_label_smoothing else 0.0,
        amp_dtype=dtype,
        loss_scale=args.scale_loss,
        dynamic_loss_scaling=args.use_dynamic_loss_scaling,
        clip_norm=args.clip_norm,
        ema=ExponentialMovingAverage(model, args.ema_decay) if args.use_ema else None,
        distillation=build_distillation(args, device),
        accumulate_steps=args.accumulate_steps,
    )
