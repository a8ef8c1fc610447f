"""Throughput of 12-crop evaluation, compared with single crops one at a time and with the network alone.

python benchmarks/crops.py --model=ResNet50 [--data_dir=data/ILSVRC2012]      without it: synthetic pictures

Three ways to evaluate 12 crops of the same images take turns, so that changes of the machine's load affect all of them:
eval.py's (decoding, cropping, copying, all crops in batches); the same crops one after the other through the network;
and the network alone on batches that are already on the device. Prints crops per second, medians over all rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor

import models
from benchmarks.pictures import write_pictures
from utils.devices import place
from utils.evaluation.crops import AverageOverCrops
from utils.flags import parse
from utils.flags.line_parser import LineParser
from utils.reading.build import crop_loader
from utils.reading.normalize import normalize
from utils.reading.to_device import to_device
from utils.system import keep_freed_memory
from utils.weights.network import usual_input

CROPS = 12
MADE_UP = 21  # one batch of crops


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--model", default="ResNet50")
    parser.add_argument("--data_dir", help=f"as train.py's; if not given, {MADE_UP} synthetic pictures")
    parser.add_argument("--batch_size", type=int, default=252, help="crops per batch")
    parser.add_argument("--images", type=int, default=0, help="images per round; 0: all")
    parser.add_argument("--singles", type=int, default=20, help="images of which single crops are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reader_thread", type=int, default=16)
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_up:
        if not args.data_dir:
            print(f"no --data_dir given: using {MADE_UP} synthetic pictures of 375 x 500")
            args.data_dir = make_data_set(made_up)
        report(measure(args))


def make_data_set(folder: str) -> str:
    """Makes a --data_dir of synthetic validation pictures in `folder`."""
    pictures = Path(folder) / "val" / "class"
    pictures.mkdir(parents=True)
    write_pictures(str(pictures), MADE_UP)
    return folder


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Crops per second of each way, in each round."""
    about = models.input_config(args.model)
    flags = {name: getattr(args, name) for name in ("model", "data_dir", "batch_size", "reader_thread")}
    flags |= {"pretrained_model": "none", "crop_num": CROPS, "reader_buf_size": 8192}
    evaluation = parse("eval", [f"--{name}={value}" for name, value in flags.items()])
    vars(evaluation).update(usual_input(args.model))

    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    if device.type == "cpu":
        keep_freed_memory()  # as eval.py does
    model = place(models.build(args.model), device, torch.channels_last).eval()
    loader = crop_loader(evaluation, pin_memory=device.type == "cuda")

    def prepare(images: Tensor) -> Tensor:
        return normalize(images, about.mean, about.std, torch.channels_last)

    def evaluate() -> int:
        average = AverageOverCrops(model, prepare, args.batch_size)
        done = 0
        for crops, _, _ in to_device(loader.epoch(0), device):
            average(crops)
            done += CROPS * len(crops)
            if args.images and done >= CROPS * args.images:
                break
        return done

    def one_at_a_time() -> int:
        done = 0
        nothing_random = np.random.default_rng(0)
        for index in range(args.singles):
            half = torch.from_numpy(
                loader.transform.decode(loader.images.read(index), loader.images.path(index), nothing_random)
            )
            for crop in torch.cat((half, half.flip(2))):
                model(prepare(crop[None].to(device))).softmax(1).cpu()
                done += 1
        return done

    batch = prepare(torch.zeros(args.batch_size, about.image_size, about.image_size, 3, dtype=torch.uint8).to(device))
    total = CROPS * (args.images or len(loader.images))

    def network_alone() -> int:
        done = 0
        while done < total:
            model(batch)
            done += len(batch)
        return done

    ways = {"eval.py": evaluate, "one at a time": one_at_a_time, "network alone": network_alone}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for number in range(args.rounds + 1):
            for name, way in ways.items():
                speed = crops_per_second(way, device)
                if number:  # the first round starts the workers and warms up
                    speeds[name].append(speed)
    loader.close()
    return speeds


def crops_per_second(way: Callable[[], int], device: torch.device) -> float:
    """Crops per second of one round; synchronizes the device at both ends."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    done = way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return done / (time.perf_counter() - start)


def report(speeds: dict[str, list[float]]) -> None:
    """Prints the median of each way's rounds, and how eval.py's compares."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, median in medians.items():
        print(f"{name:15}{median:9.1f} crops/s   rounds: {' '.join(f'{value:.1f}' for value in speeds[name])}")
    print(f"eval.py / one at a time: {medians['eval.py'] / medians['one at a time']:.1f}")
    print(f"eval.py / network alone: {medians['eval.py'] / medians['network alone']:.2f}")


if __name__ == "__main__":
    main()
