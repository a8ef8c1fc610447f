"""Evaluates a network's weights on the validation images: loss, top-1 and top-5 accuracy.

python eval.py --model=ResNet50_vd --pretrained_model=ResNet50_vd_pretrained.tar
python eval.py --model=ResNet101_v2 --pretrained_model=resnet101-v2.caffemodel --crop_num=12
python eval.py --model=ResNet101_v2 --pretrained_model=resnet101-v2.caffemodel --crop_sweep=192:352:32
python eval.py --model_file=ResNet50_vd/model --report=report.html
python -m torch.distributed.run --nproc_per_node=4 eval.py --model=ResNet50 --pretrained_model=output/ResNet50/119
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from functools import partial
from pathlib import Path

from utils.errors import LESS_MEMORY, FlagError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("eval")  # answers --help and misspelt flags before the slow import of PyTorch

import torch

from utils.console import is_main_process, log
from utils.deploy.exported import load_exported
from utils.devices import amp_dtype, choose_device, in_mixed_precision, memory_format, note_slow_type, place
from utils.evaluation.class_report import MATRIX_SUFFIXES, TABLE_SUFFIXES
from utils.evaluation.crops import write_sweep
from utils.evaluation.evaluate import Subject, evaluate
from utils.evaluation.meters import check_labels
from utils.evaluation.names import noted_names
from utils.evaluation.report.write import check_report_flags, check_report_outputs
from utils.files import check_can_write, write_text
from utils.flags.idle import note_idle_flags
from utils.flags.inputs import INPUT_FLAGS, given_input
from utils.processes import process_group
from utils.weights import TO_USE, load_pretrained
from utils.weights.network import (
    build_model,
    explained_sizes,
    note_unknown_input,
    noted_input,
    resolve_input,
    settle_network,
)


def main() -> None:
    args = parse("eval")
    if args.pretrained_model:
        settle_network(args, args.pretrained_model)
    check_flags(args)
    if is_main_process():
        check_outputs(args)
    note_idle_flags(args)
    device = choose_device(args)
    note_slow_type(device, amp_dtype(args, device), "--use_fp16")
    with process_group(device), explained_sizes(args.model):
        if args.crop_sweep:
            sweep(args, device)
        elif args.model_file:
            evaluate(args, load_exported_network(args, device), partial(save, args))
        else:
            noted = noted_input(args.pretrained_model, args.model, args.pretrained_key)
            resolve_input(args, noted)
            note_unknown_input(args, noted)
            evaluate(args, load_network(args, device), partial(save, args))


def check_flags(args: argparse.Namespace) -> None:
    """Raises `FlagError` for flags that cannot work together."""
    if bool(args.pretrained_model) == bool(args.model_file):
        raise FlagError("give --pretrained_model (with --model), or --model_file for an exported network")
    if args.crop_num > 1 and args.use_dali:
        raise FlagError(f"--crop_num={args.crop_num} needs the OpenCV reader: leave out --use_dali")
    for flag, suffixes in (("per_class_path", TABLE_SUFFIXES), ("confusion_path", MATRIX_SUFFIXES)):
        path = getattr(args, flag)
        if path and not path.lower().endswith(suffixes):
            raise FlagError(f"--{flag} {path}: its suffix selects the format: give one of {', '.join(suffixes)}")
    if args.crop_sweep:
        for flag in ("model_file", "crop_size", "image_shape", "per_class_path", "confusion_path"):
            if flag in args.given:
                raise FlagError(
                    f"--{flag} does not work with --crop_sweep, which evaluates at several sizes: leave out one of them"
                )
    check_labels(args)
    check_report_flags(args)


def check_outputs(args: argparse.Namespace) -> None:
    """Raises `UserError` now if an output file could not be written at the end."""
    for flag in ("save_json_path", "per_class_path", "confusion_path", *(["crop_sweep_path"] * bool(args.crop_sweep))):
        if path := getattr(args, flag):
            check_can_write(Path(path), f"--{flag}")
    check_report_outputs(args)


def save(args: argparse.Namespace, results: dict[str, float] | list[dict[str, float]]) -> None:
    """Writes --save_json_path."""
    if args.save_json_path and is_main_process():
        write_text(Path(args.save_json_path), json.dumps(results) + "\n", "--save_json_path")


def sweep(args: argparse.Namespace, device: torch.device) -> None:
    """Evaluates at each size of --crop_sweep, with a network built for that size, which some networks require. Results
    are written after each size, so a failure or a time limit loses no earlier ones.
    """
    results: list[dict[str, float]] = []
    for sized in [at_crop_size(args, size) for size in args.crop_sweep]:
        results.append(evaluate(sized, load_network(sized, device)))
        if is_main_process():
            write_sweep(Path(args.crop_sweep_path), args.crop_sweep[: len(results)], results, args.model)
        save(args, results)
    log(f"accuracy over crop size: {args.crop_sweep_path}, and the plot beside it")


def at_crop_size(args: argparse.Namespace, size: int) -> argparse.Namespace:
    """The flags for one size of --crop_sweep."""
    sized = copy.copy(args)
    sized.crop_size = size
    resolve_input(sized, noted_input(args.pretrained_model, args.model, args.pretrained_key))
    return sized


def load_network(args: argparse.Namespace, device: torch.device) -> Subject:
    """--model with the weights of --pretrained_model."""
    model = build_model(args)
    log(str(load_pretrained(model, args.pretrained_model, key=args.pretrained_key, remedies=TO_USE)))
    layout = memory_format(args, device)
    place(model, device, layout).eval()
    names = noted_names(args.pretrained_model, args.class_dim)
    network = in_mixed_precision(model, device, amp_dtype(args, device))
    return Subject(network, device, layout, class_names=names, model=model)


def load_exported_network(args: argparse.Namespace, device: torch.device) -> Subject:
    """--model_file. Its description supplies the preprocessing flags that were not given."""
    given = given_input(args)
    if args.crop_size is not None:
        given["image_shape"] = [3, args.crop_size, args.crop_size]
    network = load_exported(
        args.model_file,
        args.params_file,
        device,
        amp_dtype(args, device) or torch.float32,
        engine=args.engine,
        batch_size=args.batch_size,
        images=math.inf,
        measure="engine" in args.given,
        may_use_cpu=not {"use_gpu", "device"} & args.given,
        cpu_flag="--device=cpu" if args.device else "--use_gpu=False",
        input_flags=given,
        output_name=args.output_name,
    )
    about = network.description
    for name in INPUT_FLAGS:
        setattr(args, name, getattr(about, name))
    args.model, args.class_dim = about.network, about.class_dim
    if about.multi_label and not args.multi_label:
        args.multi_label = True
        if "threshold" not in args.given and about.threshold:
            args.threshold = list(about.threshold)
    check_labels(args)
    log(f"loaded {about.network} from {args.model_file}")
    return Subject(network, network.device, network.memory_format, network.dtype, about.class_names)


if __name__ == "__main__":
    run_script(main, LESS_MEMORY)
