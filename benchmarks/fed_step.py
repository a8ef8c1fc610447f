"""Images per second of train.py's step fed by the readers, of the step on synthetic batches, and of the readers alone.

python benchmarks/fed_step.py                                                     a small check
python benchmarks/fed_step.py --batch_size=256 --steps=40 [--data_dir=ImageNet]   on a GPU

The network uses mixed precision and NHWC. The readers are train.py's: OpenCV in worker processes, one per processor,
and DALI if it is installed. A reader that is as fast as the step does not slow it down; for OpenCV the benchmark says
how many of this machine's processors that takes. Without --data_dir the photographs are synthetic.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.pictures import write_pictures
from benchmarks.steps import choose_device, our_loop, rate
from utils.flags import parse
from utils.flags.line_parser import LineParser
from utils.reading.build import train_loader
from utils.reading.loader import Batch, Loader, available_processors

# Batches read ahead: few, and used up before each round, so that a round counts only batches made during it.
AHEAD = 4


def is_there(package: str) -> bool:
    """Whether a package or subpackage is installed."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def make_list(folder: str, count: int, images: int) -> None:
    """Makes synthetic photographs, and a training list that repeats them up to the number of images."""
    write_pictures(folder, count)
    lines = (f"{number % count}.jpg {number % 1000}\n" for number in range(images))
    Path(folder, "train_list.txt").write_text("".join(lines))


def open_reader(args: argparse.Namespace, data_dir: str, use_dali: bool, device: torch.device) -> Loader:
    """train.py's loader."""
    size = args.image_size
    flags = [f"--model={args.model}", f"--data_dir={data_dir}", f"--image_shape=3,{size},{size}"]
    flags += [f"--batch_size={args.batch_size}", f"--use_dali={use_dali}", f"--reader_thread={args.workers}"]
    flags.append(f"--reader_buf_size={AHEAD * args.batch_size}")
    return train_loader(parse("train", flags), 0, pin_memory=device.type == "cuda")


def batches(loader: Loader) -> Iterable[Batch]:
    """The batches of one epoch after another."""
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def reading_rate(stream: Iterable[Batch], steps: int, batch_size: int) -> float:
    """Images per second of a reader that never has to wait."""
    start = time.perf_counter()
    for _ in itertools.islice(stream, steps):
        pass
    return steps * batch_size / (time.perf_counter() - start)


def fed(args: argparse.Namespace, loader: Loader, device: torch.device, half: torch.dtype) -> tuple[float, float]:
    """Images per second of the step on a reader's batches, and of the reader alone; medians over the rounds."""
    stream = iter(batches(loader))
    loop = our_loop(args, device, "NHWC", half, lambda steps: itertools.islice(stream, steps))
    loop(args.warm_up)
    # First use up what was read ahead during the previous step.
    rates = []
    for _ in range(args.rounds):
        loop(AHEAD)
        rates.append(rate(loop, args.steps, args.batch_size, device))
    alone = []
    for _ in range(args.rounds):
        reading_rate(stream, AHEAD, args.batch_size)
        alone.append(reading_rate(stream, args.steps, args.batch_size))
    loader.close()
    return statistics.median(rates), statistics.median(alone)


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--model", default="ResNet50")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=12, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm_up", type=int, default=5, help="steps before the first round")
    parser.add_argument("--workers", type=int, default=available_processors(), help="the readers' processes or threads")
    parser.add_argument("--data_dir", help="a data set with train_list.txt; if not given, synthetic photographs")
    parser.add_argument("--pictures", type=int, default=128, help="number of synthetic photographs")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--save_json_path", help="JSON file for the results, one object per reader")
    args = parser.parse_args()
    device, half = choose_device(args.cpu)
    synthetic_loop = our_loop(args, device, "NHWC", half)
    synthetic_loop(args.warm_up)
    rates = [rate(synthetic_loop, args.steps, args.batch_size, device) for _ in range(args.rounds)]
    synthetic = statistics.median(rates)
    del synthetic_loop
    print(f"{args.model}, batch {args.batch_size}: synthetic {synthetic:.1f} img/s", flush=True)

    figures = []
    with tempfile.TemporaryDirectory() as folder:
        if args.data_dir is None:
            make_list(folder, args.pictures, 100 * args.batch_size)
        for reader in ("opencv", "dali"):
            if reader == "dali" and not is_there("nvidia.dali"):
                print("dali      skipped: not installed")
                continue
            loader = open_reader(args, args.data_dir or folder, reader == "dali", device)
            rate_fed, alone = fed(args, loader, device, half)
            needed = synthetic / alone * args.workers
            print(
                f"{reader:8}  fed {rate_fed:8.1f} img/s  share {rate_fed / synthetic:.3f}  reader alone {alone:8.1f} "
                f"img/s with {args.workers} processors; the step needs {needed:.1f}",
                flush=True,
            )
            figures.append({"reader": reader, "synthetic": synthetic, "fed": rate_fed, "alone": alone})
            figures[-1] |= {"workers": args.workers, "needed": needed}
            if args.save_json_path:
                Path(args.save_json_path).write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
