"""Names the given flags that have no effect because a flag that they depend on was not given."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable

from utils.console import warn

COSINE_STRATEGIES = ("cosine_decay", "cosine_decay_warmup", "cosine_decay_RMSProp", "cosine", "linear")
PADDLECLAS_STRATEGIES = ("constant", "cosine", "linear", "step", "multi_step", "piecewise")
WARM_UP_STRATEGIES = ("cosine_decay_warmup", "exponential_decay_warmup", *PADDLECLAS_STRATEGIES)
PLATEAU = "reduce_on_plateau"
CONSTANT_STRATEGIES = ("adam_decay", "default_decay", "constant")


# Flags that --train_transforms replaces.
AUGMENTATION = (
    "lower_scale",
    "lower_ratio",
    "upper_ratio",
    "flip_prob",
    "vertical_flip_prob",
    "use_aa",
    "use_ra",
    "random_rotation",
    "color_jitter",
    "use_cutout",
    "random_erasing",
    "use_hide_and_seek",
    "use_gridmask",
)


def _reads_url(args: Namespace) -> bool:
    return any("://" in folder for folder in (args.data_dir, args.val_dir) if folder)


def _uses_adamw(args: Namespace) -> bool:
    return args.optimizer == "adamw"


def _uses_adam(args: Namespace) -> bool:
    return args.optimizer is None and args.lr_strategy == "adam_decay"


def _uses_momentum(args: Namespace) -> bool:
    by_strategy = ("adam_decay", "exponential_decay_warmup", "cosine_decay_RMSProp")
    return args.optimizer == "momentum" or (args.optimizer is None and args.lr_strategy not in by_strategy)


# Flags, when they have an effect, and otherwise why not. (`build_model` names flags that only some networks have.)
CONDITIONS: tuple[tuple[tuple[str, ...], Callable[[Namespace], bool], str], ...] = (
    (("use_gpu", "gpu_id"), lambda args: args.device is None, "--device={device} selects the device"),
    (("engine", "params_file", "output_name"), lambda args: bool(args.model_file), "it needs --model_file"),
    (
        ("gpu_mem",),
        lambda args: args.device != "cpu" and args.gpu_id >= 0,
        "it limits a GPU's memory, and the network runs on the CPU",
    ),
    (
        ("min_lr",),
        lambda args: args.lr_strategy in (*COSINE_STRATEGIES, PLATEAU),
        "--lr_strategy={lr_strategy} has no minimum rate",
    ),
    (
        ("step_epochs",),
        lambda args: args.lr_strategy in ("piecewise_decay", "piecewise", "multi_step"),
        "it needs a piecewise --lr_strategy, not {lr_strategy}",
    ),
    (
        ("warm_up_epochs",),
        lambda args: args.lr_strategy in WARM_UP_STRATEGIES,
        "--lr_strategy={lr_strategy} has no warm-up",
    ),
    (
        tuple(f"plateau_{name}" for name in ("patience", "threshold", "absolute", "cooldown", "mode")),
        lambda args: args.lr_strategy == PLATEAU,
        "it needs --lr_strategy=reduce_on_plateau, not {lr_strategy}",
    ),
    (
        ("decay_epochs", "decay_rate"),
        lambda args: args.lr_strategy in ("exponential_decay_warmup", "step", "multi_step", PLATEAU),
        "it needs --lr_strategy=exponential_decay_warmup or step, not {lr_strategy}",
    ),
    (
        ("decay_epochs",),
        lambda args: args.lr_strategy not in ("multi_step", PLATEAU),
        "--lr_strategy={lr_strategy} ignores it",
    ),
    (
        ("warm_up_start_lr", "lr_by_epoch"),
        lambda args: args.lr_strategy in PADDLECLAS_STRATEGIES,
        "it needs one of PaddleClas's schedules, not {lr_strategy}",
    ),
    (
        ("lr_values",),
        lambda args: args.lr_strategy == "piecewise",
        "it needs --lr_strategy=piecewise, not {lr_strategy}",
    ),
    (
        ("lr_power", "lr_cycle"),
        lambda args: args.lr_strategy == "linear",
        "it needs --lr_strategy=linear, not {lr_strategy}",
    ),
    (("nesterov",), _uses_momentum, "it needs --optimizer=momentum"),
    (
        ("adam_betas",),
        lambda args: args.optimizer in ("adam", "adamw") or _uses_adam(args),
        "it needs --optimizer=adam or adamw",
    ),
    (
        ("optimizer_epsilon",),
        lambda args: args.optimizer in ("adam", "adamw", "rmsprop") or _uses_adam(args),
        "it needs --optimizer=adam, adamw or rmsprop",
    ),
    (("rmsprop_rho",), lambda args: args.optimizer == "rmsprop", "it needs --optimizer=rmsprop"),
    (
        ("momentum_rate",),
        lambda args: args.optimizer not in ("sgd", "adam", "adamw"),
        "--optimizer={optimizer} has no such momentum",
    ),
    (("ema_warm_up",), lambda args: args.use_ema, "it needs --use_ema=True"),
    (
        ("total_images",),
        lambda args: args.lr_strategy not in CONSTANT_STRATEGIES,
        "the rate of --lr_strategy={lr_strategy} does not change",
    ),
    (("total_images",), lambda args: not args.multi_scale, "--multi_scale sets the number of steps per epoch"),
    (("multi_scale_factor",), lambda args: args.multi_scale, "it needs --multi_scale"),
    (("l1_decay",), lambda args: not _uses_adamw(args), "--optimizer=adamw has no L1 penalty"),
    (("l2_decay",), lambda args: not _uses_adamw(args), "--optimizer=adamw decays weights by --weight_decay"),
    (
        ("l2_decay", "momentum_rate"),
        lambda args: not _uses_adam(args),
        "the optimizer of --lr_strategy=adam_decay, Adam, has neither L2 penalty nor momentum",
    ),
    (("weight_decay",), _uses_adamw, "it needs --optimizer=adamw; other optimizers take --l2_decay"),
    (("layer_decay",), _uses_adamw, "it needs --optimizer=adamw"),
    (
        ("resize_short_size",),
        lambda args: args.resize_mode in ("short", "crop"),
        "--resize_mode={resize_mode} does not use a short side",
    ),
    (("mixup_alpha", "mixup_prob"), lambda args: args.use_mixup, "it needs --use_mixup=True"),
    (("cutmix_alpha", "cutmix_prob"), lambda args: args.use_cutmix, "it needs --use_cutmix=True"),
    (AUGMENTATION, lambda args: not args.train_transforms, "--train_transforms defines the whole pipeline"),
    (("ra_num_ops", "ra_magnitude"), lambda args: args.use_ra, "it needs --use_ra=True"),
    (("cutout_length",), lambda args: args.use_cutout, "it needs --use_cutout=True"),
    (("test_batch_size",), lambda args: args.validate, "--validate=False validates nothing"),
    (
        ("amp_dtype", "scale_loss", "use_dynamic_loss_scaling", "use_fp16_test"),
        lambda args: args.use_fp16,
        "it needs --use_fp16=True",
    ),
    (
        ("scale_loss", "use_dynamic_loss_scaling"),
        lambda args: args.amp_dtype != "bfloat16",
        "--amp_dtype=bfloat16 needs no loss scale",
    ),
    (
        ("sync_bn",),
        lambda args: os.environ.get("WORLD_SIZE", "1") != "1",
        "a single process sees all batches",
    ),
    (
        ("fsdp",),
        lambda args: os.environ.get("WORLD_SIZE", "1") != "1",
        "a single process holds everything: start several with python -m torch.distributed.run",
    ),
    (
        ("label_weights_by_ratio", "sum_over_labels"),
        lambda args: args.multi_label,
        "it needs --multi_label=True",
    ),
    (
        ("threshold",),
        lambda args: args.multi_label or args.script in ("infer", "predict"),
        "it needs --multi_label=True",
    ),
    (
        ("topk",),
        lambda args: not args.multi_label,
        "with --multi_label, --threshold decides how many labels an image gets",
    ),
    (
        ("best_metric", "eval_interval", "start_eval_epoch"),
        lambda args: args.validate,
        "--validate=False validates nothing",
    ),
    (("eval_topk",), lambda args: not args.multi_label, "with --multi_label an image has no best class"),
    (
        ("start_epoch",),
        lambda args: args.checkpoint and args.checkpoint != "auto",
        "it needs a --checkpoint saved by PaddlePaddle",
    ),
    (("label_smoothing_epsilon",), lambda args: args.use_label_smoothing, "it needs --use_label_smoothing=True"),
    (("effective_beta",), lambda args: args.class_weights == "effective", "it needs --class_weights=effective"),
    (
        ("use_label_smoothing", "class_weights", "focal_gamma"),
        lambda args: (
            not args.use_distill
            or any(word.split(":")[0] in ("soft", "ce", "teacher_ce") for word in args.distill_loss)
        ),
        "--distill_loss uses no hard labels",
    ),
    (("ema_decay",), lambda args: args.use_ema, "it needs --use_ema=True"),
    (
        (
            "teacher_model",
            "teacher_pretrained_model",
            "teacher_learns",
            "teacher_strides",
            "distill_loss",
            "distill_temperature",
            "distill_weight",
        ),
        lambda args: args.use_distill,
        "it needs --use_distill=True",
    ),
    (
        ("distill_temperature", "distill_weight"),
        lambda args: "soft" in args.distill_loss,
        "it needs --distill_loss=soft",
    ),
    (("profiler_path",), lambda args: args.is_profiler, "it needs --is_profiler=True"),
    (("with_mem_opt",), lambda args: args.script == "train", "only training keeps activations"),
    (("cache_dir",), _reads_url, "it needs --data_dir or --val_dir at a URL"),
    (("cache_size",), lambda args: args.cache_dir, "it needs --cache_dir"),
    (("crop_sweep_path",), lambda args: args.crop_sweep, "it needs --crop_sweep"),
    (("report_against", "report_duplicates"), lambda args: args.report, "it needs --report"),
    (("check_path",), lambda args: args.check, "it needs --check"),
    (("group_duplicates",), lambda args: args.split, "it needs --split"),
    (
        ("use_fp16",),
        lambda args: args.script != "infer" or not args.save_inference,
        "exports are in float32; predict.py takes --use_fp16",
    ),
    (
        ("inference_format",),
        lambda args: args.save_inference or args.script != "infer",
        "it needs --save_inference=True",
    ),
    (
        ("onnx_opset", "onnx_external_data"),
        lambda args: args.inference_format in ("onnx", "triton"),
        "it needs --inference_format=onnx or triton, not {inference_format}",
    ),
    (
        ("serve_host", "serve_wait", "serve_requests", "serve_images", "serve_megabytes"),
        lambda args: args.serve_port is not None,
        "it needs --serve_port",
    ),
    (
        ("image_path", "save_json_path", "features_path", "resume", "reader_buf_size"),
        lambda args: args.serve_port is None,
        "--serve_port={serve_port} serves requests instead",
    ),
    (("calibration_images",), lambda args: args.calibration_dir, "it needs --calibration_dir"),
    (
        ("resume",),
        lambda args: args.save_json_path or args.features_path,
        "it needs --save_json_path or --features_path",
    ),
    (("max_image_pixels",), lambda args: not args.use_dali, "DALI does not support this limit"),
    (
        ("batch_size", "reader_thread", "reader_buf_size", "max_image_pixels"),
        lambda args: args.calibration_dir or args.script != "convert_model",
        "convert_model.py reads images for --calibration_dir only",
    ),
)


def _exports(args: Namespace) -> bool:
    return args.script == "infer" and args.save_inference


# The same for flags of another use of the script. A PaddleClas configuration has settings for all uses, so these lines
# are about flags on the command line only.
# fmt: off
OTHER_USES: tuple[tuple[tuple[str, ...], Callable[[Namespace], bool], str], ...] = (
    (("image_path", "data_dir", "save_json_path", "resume", "features_path", "vis_dir", "grad_cam", "topk",
      "attributes"),
     lambda args: not _exports(args), "--save_inference=True exports the network instead of classifying images"),
    (("use_gpu", "device"),
     lambda args: not _exports(args) or args.device == "cpu", "--save_inference=True works on the CPU"),
    (("batch_size", "reader_thread", "reader_buf_size", "max_image_pixels"),
     lambda args: args.calibration_dir or not _exports(args),
     "--save_inference=True reads images for --calibration_dir only"),
    (("save_inference_dir",), lambda args: args.save_inference, "it needs --save_inference=True"),
    (("data_dir",),
     lambda args: args.script != "infer" or not args.image_path, "--image_path={image_path} replaces it"),
    (("save_json_path", "topk", "class_names", "class_map_path", "threshold", "multi_label", "attributes"),
     lambda args: not args.features_path or args.serve_port is not None,
     "--features_path writes features instead of classes"),
    (("topk", "class_names", "class_map_path", "threshold", "multi_label", "attributes"),
     lambda args: args.score_decimals is None, "--score_decimals writes scores instead of classes"),
    (("model", "class_dim", "pretrained_key", "strides", "use_last_conv", "class_expand", "padding_type", "use_se",
      "deploy", "with_inplace"),
     lambda args: args.script != "eval" or not args.model_file, "--model_file={model_file} contains the network"),
    (("class_map_path",),
     lambda args: args.script != "eval" or args.per_class_path or args.confusion_path or args.report,
     "it needs --per_class_path, --confusion_path or --report"),
    (("skip_misfits", "pretrained_key"),
     lambda args: args.script != "train" or args.pretrained_model, "it needs --pretrained_model"),
    (("val_dir", "val_list", "use_fp16_test"), lambda args: args.validate, "--validate=False validates nothing"),
    (("batch_size", "balance_classes", "channel_order", "image_mean", "image_std", "interpolation", "multi_scale",
      "progressive_sizes", "resize_backend", "train_transforms", "use_cutmix", "use_dali", "use_mixup", *AUGMENTATION),
     lambda args: args.script != "reader" or args.show, "it needs --show"),
    (("val_dir", "val_list"), lambda args: args.script != "reader" or args.check, "it needs --check"),
    (("class_dim", "class_map_path", "image_shape", "label_from", "list_delimiter", "multi_label", "resize_mode",
      "train_list", "unlabeled_list"),
     lambda args: args.script != "reader" or args.show or args.check, "--split reads class folders"),
)
# fmt: on


def note_idle_flags(args: Namespace) -> None:
    """Warns once about each given flag, unless switched off, that has no effect with the others."""
    named = set()
    for flags, conditions in ((args.given, CONDITIONS), (args.typed, OTHER_USES)):
        for names, has_effect, why in conditions:
            for name in names:
                if name in flags - named and getattr(args, name) is not False and not has_effect(args):
                    warn(f"--{name} has no effect: {why.format(**vars(args))}")
                    named.add(name)
