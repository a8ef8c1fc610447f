"""Translates flags and scripts of other programs to ours.

An unknown flag is looked up here before the nearest spelling is suggested: `--seed` resembles `--use_se` but means
--random_seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Flags elsewhere (with _ for -) -> flags here; the first one that the script takes. "-> text" if no flag matches; if
# the text begins with a flag, only for scripts that take it.
HABITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("num_classes nc class_num classes num_labels", ("class_dim",)),
    ("arch a network net model_name backbone model_name_or_path", ("model",)),
    ("workers j num_workers loader_workers dataloader_workers dataloader_num_workers", ("reader_thread",)),
    ("output output_dir out save_dir project name work_dir checkpoint_dir", ("model_save_dir", "save_json_path")),
    ("save_txt results_file results result_file infer_results", ("save_json_path",)),
    ("epochs e max_epochs epoch num_epoch num_train_epochs", ("num_epochs",)),
    ("b bs batch batchsize train_batch_size per_device_train_batch_size", ("batch_size",)),
    ("validation_batch_size val_batch_size eval_batch_size test_batch_size per_device_eval_batch_size",
     ("test_batch_size", "batch_size")),
    ("resume start_from resume_from resume_from_checkpoint", ("checkpoint",)),
    ("checkpoint", ("pretrained_model",)),
    ("weights ckpt initial_checkpoint load_from pretrain pretrained finetune checkpoint_path init_model",
     ("pretrained_model",)),
    ("use_ema_weights model_key checkpoint_key state_dict_key", ("pretrained_key",)),
    ("img_size imgsz image_size input_size img_shape input_shape size resolution train_crop_size val_crop_size",
     ("image_shape",)),
    ("val_resize_size resize_size resize_short crop_pct crop_ratio", ("resize_short_size",)),
    ("mean", ("image_mean",)),
    ("std", ("image_std",)),
    ("seed manual_seed", ("random_seed",)),
    ("log_wandb use_wandb wandb mlflow report_to logger", ("tracker",)),
    ("num_seeds n_seeds repeats", ("seeds",)),
    ("lr_find lr_finder auto_lr_find find_lr lr_range", ("lr_range_test",)),
    ("amp half fp16 use_amp mixed_precision precision", ("use_fp16",)),
    ("bf16 bfloat16 use_bf16", ("use_bf16", "-> --use_fp16=True --amp_dtype=bfloat16 computes in it")),
    ("dtype", ("amp_dtype", "use_fp16")),
    ("opt optim", ("optimizer",)),
    ("sched scheduler lr_scheduler schedule lr_schedule cos_lr", ("lr_strategy",)),
    ("lr0 learning_rate base_lr lr_base blr", ("lr",)),
    ("lrf lr_min warmup_min_lr", ("min_lr",)),
    ("momentum", ("momentum_rate",)),
    ("wd weight_decay regularizer", ("l2_decay",)),
    ("warmup_epochs lr_warmup_epochs warmup warmup_epoch", ("warm_up_epochs",)),
    ("warmup_lr warmup_start_lr", ("warm_up_start_lr",)),
    ("warmup_steps warmup_ratio", ("-> --warm_up_epochs counts epochs",)),
    ("decay_milestones milestones lr_steps lr_step_size", ("step_epochs",)),
    ("lr_gamma gamma", ("decay_rate",)),
    ("class_weight weights_per_class", ("class_weights",)),
    ("balanced_sampling class_balanced weighted_sampler", ("balance_classes",)),
    ("focal focal_loss fl_gamma", ("focal_gamma",)),
    ("opt_betas betas adam_beta1 adam_beta2", ("adam_betas",)),
    ("opt_eps eps adam_epsilon", ("optimizer_epsilon",)),
    ("norm_weight_decay bias_weight_decay", ("decay_vectors",)),
    ("drop drop_rate dropout_rate", ("dropout",)),
    ("bce bce_loss", ("-> --multi_label=True trains with it, images of several labels",)),
    ("multilabel", ("multi_label",)),
    ("smoothing label_smoothing label_smoothing_factor ls_epsilon", ("label_smoothing_epsilon", "use_label_smoothing")),
    ("mixup", ("use_mixup", "mixup_alpha")),
    ("cutmix", ("use_cutmix", "cutmix_alpha")),
    ("aa auto_augment autoaugment", ("-> --use_aa=True, --use_ra=True, or a policy of timm's in --train_transforms",)),
    ("ra randaugment rand_augment", ("use_ra",)),
    ("reprob re_prob random_erase erasing", ("random_erasing",)),
    ("hflip fliplr hflip_prob", ("flip_prob",)),
    ("vflip flipud vflip_prob", ("vertical_flip_prob",)),
    ("degrees rotation", ("random_rotation",)),
    ("jitter colorjitter", ("color_jitter",)),
    ("aug_repeats ra_reps repeated_aug", ("augment_repeats",)),
    ("train_interpolation interp", ("interpolation",)),
    ("backend", ("decode_backend",)),
    ("scale", ("lower_scale",)),
    ("ratio", ("lower_ratio", "upper_ratio")),
    ("drop_path_rate stochastic_depth drop_connect", ("drop_path", "drop_connect_rate")),
    ("ema model_ema", ("use_ema",)),
    ("model_ema_decay", ("ema_decay",)),
    ("clip_grad clip_grad_norm max_grad_norm max_norm grad_clip", ("clip_norm",)),
    ("grad_checkpointing gradient_checkpointing", ("with_mem_opt",)),
    ("accumulate grad_accum_steps gradient_accumulation_steps update_freq accum_iter", ("accumulate_steps",)),
    ("channels_last", ("data_format",)),
    ("torchcompile compile", ("use_compile",)),
    ("sync_batchnorm dist_bn", ("sync_bn",)),
    ("log_interval print_freq print_batch_step log_freq logging_steps", ("print_step",)),
    ("max_steps", ("max_iter",)),
    ("use_deterministic_algorithms deterministic", ("enable_ce",)),
    ("save_freq save_period save_interval checkpoint_interval", ("save_step",)),
    ("checkpoint_hist save_total_limit keep", ("keep_checkpoints",)),
    ("data data_path root dataset train_dir data_root dataset_dir dataset_name image_root", ("data_dir", "image_path")),
    ("validation_dir validation_folder", ("val_dir",)),
    ("train_val_split val_split validation_split", ("-> reader.py --split=0.2 holds images out",)),
    ("source input image image_file infer_imgs images img infer_dir", ("image_path",)),
    ("k top_k topk eval_topk", ("topk", "eval_topk")),
    ("conf conf_thres", ("threshold",)),
    ("class_map label_map names label_list class_names class_id_map_file label_file", ("class_map_path",)),
    ("gpu gpus gpu_ids cuda use_cuda devices no_cuda use_gpu gpu_id accelerator", ("device",)),
    ("teacher teacher_arch", ("teacher_model",)),
    ("teacher_path teacher_checkpoint teacher_weights", ("teacher_pretrained_model",)),
    ("distillation kd", ("use_distill",)),
    ("temperature t", ("distill_temperature",)),
    ("model_path model_dir inference_model_dir onnx_model onnx engine_file", ("model_file", "pretrained_model")),
    ("model", ("model_file",)),
    ("params_path", ("params_file",)),
    ("use_trt trt tensorrt", ("use_tensorrt",)),
    ("opset", ("onnx_opset",)),
    ("format export_format", ("inference_format",)),
    ("cfg config_file yaml", ("config",)),
    ("set options opts cfg_options", ("override",)),
    ("do_train do_eval do_predict task mode",
     ("-> train.py trains, eval.py evaluates, infer.py and predict.py classify",)),
    ("patience early_stopping early_stopping_patience", ("early_stop",)),
    ("evaluate eval test_only eval_only", ("-> eval.py evaluates weights",)),
    ("export save_model", ("-> infer.py --save_inference=True exports a network",)),
    ("local_rank rank world_size dist_url distributed", ("-> python -m torch.distributed.run starts it",)),
    ("freeze_layers freeze_backbone frozen_stages freeze_at linear_probe", ("freeze",)),
    ("cpu_num_threads cpu_threads num_threads", ("-> the variable OMP_NUM_THREADS sets it",)),
    ("enable_mkldnn use_mkldnn ir_optim pin_mem pin_memory prefetcher no_prefetcher persistent_workers non_blocking",
     ("-> there is nothing to choose here: leave it out",)),
    ("device", ("-> this script computes on the CPU",)),
)  # fmt: skip

# Scripts elsewhere -> here.
SCRIPTS_ELSEWHERE: tuple[tuple[str, str], ...] = (
    ("PaddleClas: tools/train.py -c FILE.yaml", "train.py -c FILE.yaml"),
    ("PaddleClas: tools/eval.py -c FILE.yaml", "eval.py -c FILE.yaml"),
    ("PaddleClas: tools/infer.py -c FILE.yaml", "infer.py -c FILE.yaml"),
    ("PaddleClas: tools/export_model.py", "infer.py --save_inference=True"),
    ("PaddleClas: python/predict_cls.py", "predict.py"),
    ("PaddleClas: paddleclas --infer_imgs", "predict.py --image_path"),
    ("timm: train.py, validate.py, inference.py", "train.py, eval.py, infer.py"),
    ("timm: clean_checkpoint.py, avg_checkpoints.py", "utils/convert_weights.py, ema_clean.py"),
    ("timm: onnx_export.py", "infer.py --save_inference=True --inference_format=onnx"),
    ("torchvision: references/classification/train.py", "train.py"),
    ("torchvision: train.py --test-only", "eval.py"),
    ("ultralytics: yolo classify train, val, predict", "train.py, eval.py, infer.py"),
    ("ultralytics: yolo export format=onnx", "infer.py --save_inference=True --inference_format=onnx"),
)


def called_here(word: str, known: Iterable[str], switches: Iterable[str] = ()) -> str | None:
    """Our name for a flag of another program, in a script that takes the flags `known`; None: there is none.

    Args:
        word: as typed, such as --img-size, -j8 (with its value), trainer.max_epochs (Lightning's) or --no-validate.
        known: names of flags, without dashes.
        switches: those of them that are True or False.
    """
    name, flags = word.lstrip("-").lower().replace("-", "_").rpartition(".")[2], set(known)
    name = re.sub(r"^([a-z])\d+$", r"\1", name)
    for flag in flags:
        if name == flag.lower():
            return f"use --{flag}"
    for words, targets in HABITS:
        if name in words.split():
            for target in targets:
                text = target.removeprefix("-> ")
                if target in flags:
                    return f"use --{target}"
                if text != target and (not text.startswith("--") or re.findall(r"\w+", text)[0] in flags):
                    return text
    if name.removeprefix("no_") in switches:
        return f"give --{name.removeprefix('no_')}=False"
    return None


def table() -> str:
    """Both tables, for docs/other_programs.md."""
    lines = ["| elsewhere | here |", "|---|---|"]
    lines += [f"| {there} | `{here}` |" for there, here in SCRIPTS_ELSEWHERE]
    lines += ["", "| typed elsewhere | here |", "|---|---|"]
    for words, targets in HABITS:
        there = ", ".join(f"`--{word.replace('_', '-')}`" for word in words.split())
        here = " or ".join(t.removeprefix("-> ") if t.startswith("-> ") else f"`--{t}`" for t in targets)
        lines.append(f"| {there} | {here} |")
    return "\n".join(lines)
