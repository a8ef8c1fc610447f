"""Builds the training step from train.py's flags, and checks their combinations."""

from __future__ import annotations

import argparse
import copy
from functools import partial

import numpy as np
import torch
from torch import nn

from models.activation_checkpointing import checkpoint_activations
from models.network import Network
from utils.console import log, warn
from utils.devices import amp_dtype, keep_compiled_code_by_processor, memory_format, place
from utils.errors import FlagError
from utils.evaluation.meters import best_metric, check_labels
from utils.flags.idle import PLATEAU, WARM_UP_STRATEGIES, note_idle_flags
from utils.flags.kinds import AUTO
from utils.processes import world_size
from utils.training.distill_terms import HARD, OF_ALL, OF_BOTH, OF_SEVERAL_LABELS, terms_of_words
from utils.training.distillation import Distillation
from utils.training.ema import ExponentialMovingAverage
from utils.training.freezing import freeze
from utils.training.imbalance import check_class_weights
from utils.training.loss import Criterion, classification_loss, label_weights, labels_loss
from utils.training.optimizer import build_optimizer
from utils.training.plateau import Plateau
from utils.training.rate_test import check_rate_test
from utils.training.running_variance import BIASED, average_biased_variance
from utils.training.schedule import Schedule
from utils.training.seeds import check_seeds
from utils.training.sharding import distribute, divide, divides
from utils.training.step import TrainStep
from utils.training.sync_batch_norm import synchronize_batch_norm
from utils.training.tracker import check_tracker
from utils.weights import OF_TEACHER, load_pretrained
from utils.weights.network import build_model, check_model, explained_options


def check_train_flags(args: argparse.Namespace) -> None:
    """Raises `FlagError` for combinations of train.py's flags that cannot work; called before anything is built."""
    if args.checkpoint and args.checkpoint != "auto" and args.pretrained_model:
        raise FlagError(
            "--checkpoint=FOLDER continues a run, --pretrained_model starts a new one: give one of them, or "
            "--checkpoint=auto, which starts from the weights if there is nothing to continue"
        )
    if args.finetune_exclude_pretrained_params and not args.pretrained_model:
        raise FlagError("--finetune_exclude_pretrained_params needs --pretrained_model")
    if args.lower_ratio > args.upper_ratio:
        raise FlagError(f"--lower_ratio {args.lower_ratio:g} is above --upper_ratio {args.upper_ratio:g}")
    if args.step_epochs != sorted(set(args.step_epochs)):
        raise FlagError(f"--step_epochs: {' '.join(map(str, args.step_epochs))} is not in increasing order")
    check_schedule(args)
    decay = "weight_decay" if args.optimizer == "adamw" else "l2_decay"
    if args.lr * getattr(args, decay) >= 1:
        raise FlagError(
            f"--{decay} {getattr(args, decay):g} at --lr {args.lr:g} reduces weights to 0 or beyond in one "
            "step: lower it"
        )
    if args.batch_size != AUTO and args.accumulate_steps > args.batch_size:
        raise FlagError(f"--accumulate_steps {args.accumulate_steps} is more than the images in a batch: lower it")
    if args.min_lr > args.lr:
        raise FlagError(f"--min_lr {args.min_lr:g} is above --lr {args.lr:g}")
    if args.use_distill and not (args.teacher_model and (args.teacher_pretrained_model or args.teacher_learns)):
        raise FlagError(
            "--use_distill needs --teacher_model and, without --teacher_learns=True, --teacher_pretrained_model"
        )
    if args.use_distill:
        check_model(args.teacher_model, "--teacher_model")
    if args.unlabeled_list and not args.unlabeled_list.endswith(".txt"):
        raise FlagError(f"--unlabeled_list: {args.unlabeled_list} is not a list file (.txt)")
    check_distillation(args)
    if args.use_mixup * (args.mixup_prob or 0) + args.use_cutmix * (args.cutmix_prob or 0) > 1:
        raise FlagError(
            f"--mixup_prob {args.mixup_prob:g} and --cutmix_prob {args.cutmix_prob:g} add up to more than 1: lower one"
        )
    if args.early_stop and not args.validate:
        raise FlagError("--early_stop needs validation: leave out --validate=False")
    check_seeds(args)
    check_tracker(args.tracker)
    check_rate_test(args)
    check_labels(args)
    check_class_weights(args)
    best_metric(args)
    if args.with_mem_opt and _compiles(args):
        raise FlagError(
            "--with_mem_opt does not work in a compiled network: leave it out, or --use_compile and --fuse_*"
        )
    note_idle_flags(args)
    note_idle_schedule(args)


def note_idle_schedule(args: argparse.Namespace) -> None:
    """Warns if --num_epochs is too short for the learning rate to follow --lr_strategy."""
    if args.lr_strategy in WARM_UP_STRATEGIES and args.num_epochs <= args.warm_up_epochs:
        warn(
            f"--lr {args.lr:g} is never reached: the warm-up of --warm_up_epochs {args.warm_up_epochs:g} does not "
            f"end within --num_epochs {args.num_epochs}; lower --warm_up_epochs"
        )
        return
    late = [epoch for epoch in args.step_epochs if epoch >= args.num_epochs]
    reasons = {
        "piecewise_decay": f"--step_epochs {late[0]} is not reached; lower it, or choose another --lr_strategy"
        if late == args.step_epochs
        else "",
        "exponential_decay_warmup": f"the run ends before the first of --decay_epochs {args.decay_epochs:g}; lower it"
        if args.num_epochs <= args.warm_up_epochs + args.decay_epochs
        else "",
    }
    once = "it changes once per epoch; --lr_strategy=linear_decay changes every step" if args.num_epochs == 1 else ""
    reasons |= {"cosine_decay": once, "cosine_decay_RMSProp": once}
    if why := reasons.get(args.lr_strategy):
        warn(f"--lr {args.lr:g} never decays within --num_epochs {args.num_epochs}: {why}")
    elif args.lr_strategy == "piecewise_decay" and late and "step_epochs" in args.given:
        warn(f"--step_epochs {' '.join(map(str, late))} is not reached within --num_epochs {args.num_epochs}")


def check_schedule(args: argparse.Namespace) -> None:
    """Raises `FlagError` for schedule and optimizer flags that cannot work together."""
    if args.lr_strategy == "piecewise":
        count = len(args.step_epochs) + 1
        if args.lr_values is None or len(args.lr_values) != count:
            raise FlagError(
                f"--lr_strategy=piecewise needs {count} --lr_values, one more than the {count - 1} --step_epochs; got "
                f"{len(args.lr_values or ())}"
            )
        args.lr = args.lr_values[0]  # the end of the warm-up
    if args.lr_strategy == PLATEAU and not args.validate:
        raise FlagError("--lr_strategy=reduce_on_plateau needs validation: leave out --validate=False")
    if args.lr_strategy == PLATEAU and args.multi_label:
        raise FlagError(
            "--lr_strategy=reduce_on_plateau follows top-1 accuracy, which --multi_label does not measure: leave "
            "out one of them"
        )
    if args.nesterov and not args.momentum_rate:
        raise FlagError("--nesterov=True needs a --momentum_rate above 0")


def _compiles(args: argparse.Namespace) -> bool:
    """Whether train.py's flags ask for a compiled network."""
    return args.use_compile or args.fuse_elewise_add_act_ops or args.fuse_bn_act_ops


def settle_update_freq(args: argparse.Namespace) -> None:
    """Turns --update_freq into larger batches processed in parts."""
    if args.update_freq > 1:
        args.batch_size *= args.update_freq
        args.accumulate_steps *= args.update_freq
        log(
            f"--update_freq {args.update_freq}: --batch_size={args.batch_size} in "
            f"--accumulate_steps={args.accumulate_steps} parts"
        )
        args.update_freq = 1


def settle_total_images(args: argparse.Namespace, images: int, steps: int = 0) -> None:
    """Sets --total_images, on which the schedule depends, if it was not given and the list is not ImageNet's.

    It becomes the number of images that an epoch trains on, so that the schedule's epochs are as long as the run's. An
    explicit number gives the original's schedule, which rounds up even if an epoch drops its last images.

    Args:
        args: train.py's flags.
        images: length of the training list, at least a batch.
        steps: per epoch, if batch sizes vary; else 0.
    """
    if steps:
        args.total_images = steps * args.batch_size
        log(f"an epoch has {steps} steps, which set the schedule's epochs")
        return
    if "total_images" in args.given and not images / 2 <= args.total_images <= images * 2:
        warn(
            f"--total_images {args.total_images} sets the schedule's epochs, but --data_dir {args.data_dir} has "
            f"{images} images: leave the flag out to use their number"
        )
    if "total_images" not in args.given and args.total_images != images:
        args.total_images = images - images % args.batch_size * args.drop_last
        what = "the length of the training list"
        if args.total_images != images:
            what = f"the images that fill whole batches, of {images} in the training list"
        log(f"--total_images not given: {args.total_images}, {what}")


def build_schedule(args: argparse.Namespace) -> Schedule:
    """The learning-rate schedule; an epoch has --total_images / --batch_size steps, rounded up."""
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
        warm_up_start_lr=args.warm_up_start_lr,
        by_epoch=args.lr_by_epoch,
        values=tuple(args.lr_values or ()),
        power=args.lr_power,
        cycle=args.lr_cycle,
    )


def build_plateau(args: argparse.Namespace) -> Plateau | None:
    """The rate that follows the validation, for --lr_strategy=reduce_on_plateau."""
    if args.lr_strategy != PLATEAU:
        return None
    return Plateau(
        args.lr,
        args.decay_rate,
        args.plateau_patience,
        args.plateau_threshold,
        args.plateau_absolute,
        args.plateau_cooldown,
        args.min_lr,
        args.plateau_mode,
    )


def no_decay_names(args: argparse.Namespace) -> list[str] | None:
    """--no_weight_decay: parts of names; None if not given, empty for "none"."""
    if args.no_weight_decay is None:
        return None
    return [] if args.no_weight_decay == ["none"] else args.no_weight_decay


def build_distillation(
    args: argparse.Namespace,
    model: Network,
    label_shares: np.ndarray | None,
    device: torch.device,
    criterion: Criterion = classification_loss,
) -> Distillation | None:
    """The teacher and the losses, None without --use_distill; see `build_train_step`.

    `criterion` is the hard-label loss for single-label images.
    """
    if not args.use_distill:
        return None
    teacher = build_model(args, args.teacher_model)
    if args.teacher_pretrained_model:
        skip = args.skip_misfits and args.teacher_learns
        loaded = load_pretrained(teacher, args.teacher_pretrained_model, skip_misfits=skip, remedies=OF_TEACHER)
        log(f"teacher: {loaded}")
    if args.teacher_learns:
        _prepare(teacher.train(), args, device)
    else:
        place(teacher, device, memory_format(args, device)).eval().requires_grad_(False)
    terms = terms_of_words(args.distill_loss, args.distill_temperature, args.distill_weight)
    smoothing = args.label_smoothing_epsilon if args.use_label_smoothing else 0.0
    weights = None
    if label_shares is not None:
        weights = label_weights(torch.from_numpy(label_shares)).to(device, torch.float32)
    height, width = args.image_shape[1:]
    hard = classification_loss if args.multi_label else criterion
    distillation = Distillation(model, teacher, terms, smoothing, weights, (height, width), hard)
    _settle_batch_norm(distillation.parts.to(device), args, device)
    return distillation


def check_distillation(args: argparse.Namespace) -> None:
    """Raises `FlagError` if the images or labels do not suit the losses of --distill_loss."""
    names = [term.name for term in terms_of_words(args.distill_loss, args.distill_temperature, args.distill_weight)]
    hard = [name for name in names if name in HARD]
    if args.unlabeled_list and (hard or not args.use_distill):
        wrong = f", but --distill_loss contains {hard[0]}" if hard and args.use_distill else ""
        raise FlagError(f"--unlabeled_list needs --use_distill=True and losses without labels, such as js{wrong}")
    if not args.use_distill:
        return
    wrong = [name for name in names if name not in OF_ALL and (name in OF_SEVERAL_LABELS) != args.multi_label]
    if wrong and args.multi_label:
        allowed = " or ".join(dict.fromkeys((*OF_SEVERAL_LABELS, *OF_ALL)))
        raise FlagError(f"--distill_loss: {wrong[0]} is for single-label images; with --multi_label give {allowed}")
    if wrong:
        raise FlagError(f"--distill_loss: {wrong[0]} is for images with several labels: give --multi_label=True")
    if args.teacher_learns and not set(names) & set(OF_BOTH):
        raise FlagError(
            f"--teacher_learns: the teacher cannot learn from {', '.join(names)}: add teacher_ce to --distill_loss"
        )
    for name in names:
        if name.startswith("teacher_") and not args.teacher_learns:
            raise FlagError(f"--distill_loss: {name} is for a teacher that learns: give --teacher_learns=True")


def build_criterion(
    args: argparse.Namespace,
    label_shares: np.ndarray | None,
    device: torch.device,
    class_weights: np.ndarray | None = None,
) -> Criterion:
    """The loss; `label_shares` and `class_weights` are as in `build_train_step`."""
    if not args.multi_label:
        weights = None if class_weights is None else torch.from_numpy(class_weights).to(device, torch.float32)
        if weights is None and not args.focal_gamma:
            return classification_loss
        return partial(classification_loss, class_weights=weights, focal_gamma=args.focal_gamma)
    weights = None
    if args.label_weights_by_ratio and label_shares is not None:
        weights = label_weights(torch.from_numpy(label_shares)).to(device, torch.float32)
    return partial(labels_loss, weights=weights, sum_over_labels=args.sum_over_labels, focal_gamma=args.focal_gamma)


def _settle_batch_norm(module: nn.Module, args: argparse.Namespace, device: torch.device) -> None:
    """Sets up batch norm for --sync_bn and --running_variance."""
    if args.sync_bn and world_size() > 1:
        synchronize_batch_norm(module, device)
    if args.running_variance == BIASED:
        average_biased_variance(module)


def _prepare(model: Network, args: argparse.Namespace, device: torch.device) -> None:
    """Moves a network to the device and prepares it for training."""
    if not divides(args):  # sharded networks move there in parts, which must keep their memory format
        place(model, device, memory_format(args, device))
    _settle_batch_norm(model, args, device)
    if args.with_mem_opt and not checkpoint_activations(model):
        warn(f"--with_mem_opt has no effect: {type(model).__name__} has no repeated blocks to recompute")
    if _compiles(args):
        keep_compiled_code_by_processor()
        model.compile()


def build_train_step(
    args: argparse.Namespace,
    model: Network,
    device: torch.device,
    label_shares: np.ndarray | None = None,
    class_weights: np.ndarray | None = None,
    alone: bool = False,
) -> TrainStep:
    """Moves the network to the device and builds its training step.

    Args:
        args: train.py's flags.
        model: the network.
        device: of this process.
        label_shares: each label's share of the training images, (classes,), for --label_weights_by_ratio.
        class_weights: weights of the classes in the loss, (classes,), for --class_weights.
        alone: train in this process only, even if there are others.
    """
    freeze(model, args)
    if alone:
        args = copy.copy(args)
        args.sync_bn = args.fsdp = False
    _prepare(model, args, device)
    criterion = build_criterion(args, label_shares, device, class_weights)
    distillation = build_distillation(args, model, label_shares, device, criterion)
    network: nn.Module = model if distillation is None else distillation
    ema = None
    if divides(args):
        ema = divide(model, args, device)
    elif world_size() > 1 and not alone:
        network = distribute(network, args, device)
    if args.use_ema and ema is None:
        ema = ExponentialMovingAverage(model, args.ema_decay, args.ema_warm_up)
    dtype = amp_dtype(args, device)
    with explained_options():
        optimizer = build_optimizer(
            model,
            args.lr_strategy,
            args.lr,
            args.l2_decay,
            args.momentum_rate,
            optimizer=args.optimizer,
            weight_decay=args.weight_decay,
            layer_decay=args.layer_decay,
            nesterov=args.nesterov,
            betas=(args.adam_betas[0], args.adam_betas[1]),
            epsilon=args.optimizer_epsilon,
            rho=args.rmsprop_rho,
            no_decay_names=no_decay_names(args),
            decay_vectors=args.decay_vectors,
            lr_factors=args.lr_mult,
            beside=distillation.learners().values() if distillation else (),
        )
    return TrainStep(
        model,
        optimizer,
        build_schedule(args),
        plateau=build_plateau(args),
        network=network,
        smoothing=args.label_smoothing_epsilon if args.use_label_smoothing else 0.0,
        criterion=criterion,
        amp_dtype=dtype,
        loss_scale=args.scale_loss,
        dynamic_loss_scaling=args.use_dynamic_loss_scaling,
        clip_norm=args.clip_norm,
        clip_norm_each=args.clip_norm_each,
        l1_decay=0.0 if args.optimizer == "adamw" else args.l1_decay,
        ema=ema,
        distillation=distillation,
        accumulate_steps=args.accumulate_steps,
    )
