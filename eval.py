"""Evaluates a network's weights on the validation images: loss, top-1 and top-5 accuracy.

python eval.py --model=ResNet50_vd --pretrained_model=ResNet50_vd_pretrained.tar
python -m torch.distributed.run --nproc_per_node=4 eval.py --model=ResNet50 --pretrained_model=output/ResNet50/119
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from utils.errors import run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("eval")  # answers --help and a misspelt flag before PyTorch is imported, which takes a while

import torch

from reader import normalize, val_loader
from utils.build import build_model, choose_device, memory_format, note_idle_flags, resolve_input
from utils.checkpoint import load_pretrained
from utils.distributed import gather_dict, process_group, rank, world_size
from utils.engine import copies_of_first, evaluate, to_device
from utils.files import write_text
from utils.logger import is_main_process, log, progress, report_unreadable
from utils.metrics import Meter, describe, means, total


def main() -> None:
    args = parse("eval")
    note_idle_flags(args)
    resolve_input(args)
    device = choose_device(args)
    with process_group(device):
        results = run_evaluation(args, device)
    if args.save_json_path and is_main_process():
        write_text(Path(args.save_json_path), json.dumps(results) + "\n", "--save_json_path")


def run_evaluation(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Evaluates by the flags and prints the figures.

    Returns:
        "Test_loss", "test_acc1" and "test_acc5" (or whatever the top k is with fewer classes), and the number of
        "images" they are over.
    """
    loader = val_loader(args, rank(), world_size(), pin_memory=device.type == "cuda")
    model = build_model(args)
    log(str(load_pretrained(model, args.pretrained_model)))
    model.to(device, memory_format=memory_format(args, device)).eval()

    meter = Meter(device, min(5, args.class_dim))
    batches = to_device(loader.epoch(0), device)
    if args.same_feed:
        batches = copies_of_first(batches, args.same_feed)
    inputs = (
        (normalize(images, args.image_mean, args.image_std, memory_format(args, device)), labels)
        for images, labels, _ in batches
    )
    clock = time.perf_counter()
    with progress(len(loader), "eval") as bar:
        for number in evaluate(model, inputs, meter):
            bar.update()
            if number % args.print_step == 0 and bar.disable:
                fields = describe(means(meter.sums), meter.topk)
                log(f"[Pass 0, test  batch {number}]  {fields}, elapse {time.perf_counter() - clock:.4f} sec")
                clock = time.perf_counter()

    values = total(meter.sums)
    report_unreadable(gather_dict(loader.unreadable))
    names = ("Test_loss", "test_acc1", f"test_acc{meter.topk}")
    results = dict(zip(names, (values["loss"], values["acc1"], values["acck"]), strict=True))
    log(", ".join(f"{name} {value:.5f}" for name, value in results.items()))
    return {**results, "images": int(values["images"])}


if __name__ == "__main__":
    run_script(main)
