"""Forward and backward time of networks, with parameters and multiply-adds, like the Caffe zoo's table.

    python benchmarks/forward_backward.py
    python benchmarks/forward_backward.py --model='ResNet*_vd,VGG16' --image_size=224 --batch_size=8
    python benchmarks/forward_backward.py --model='*' --batch_size=32 --precision=bfloat16 --plot=speed.png

Measured at each network's own size and at 320 x 320 (395 x 395 for networks for 299 x 299), or at --image_size.
Forward: in evaluation mode, without gradients. Backward: gradients of all weights, without the forward pass before it.
The best of several rounds, in milliseconds for the whole batch. --plot draws the published accuracy over the forward
time per image.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from models import published
from utils.devices import place
from utils.flags.line_parser import LineParser

DEFAULT = (
    "AlexNet,VGG16,GoogLeNet,InceptionV3,MobileNetV1,MobileNetV2,MobileNetV3_large_x1_0,ShuffleNetV2_x1_0,SqueezeNet1_1,"
    "ResNet18,ResNet50,ResNet50_vd,ResNeXt50_32x4d,SE_ResNeXt50_32x4d,DenseNet121,DPN68,Xception41,EfficientNetB0"
)
LARGER = {224: 320, 299: 395}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Row(NamedTuple):
    """Results for a network at one size: times in seconds per batch, counts per image."""

    name: str
    size: int
    parameters: int
    multiply_adds: int
    forward: float
    backward: float


def best(run: Callable[[], object], prepare: Callable[[], object], rounds: int, device: torch.device) -> float:
    """The shortest time of `run`, in seconds, not counting `prepare` before each."""
    times = []
    for number in range(rounds + 1):  # the first one warms up
        prepare()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, size: int, args: argparse.Namespace, device: torch.device) -> Row:
    """Measures a network; raises `FlagError` or `RuntimeError` if it does not take images of that size."""
    model = models.build(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(torch.empty(1, 3, size, size, device="meta"))
    model = place(models.build(name).eval(), device, torch.channels_last)
    images = torch.randn(args.batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
    dtype = DTYPES[args.precision]
    logits: torch.Tensor

    def forward() -> None:
        nonlocal logits
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(images)

    def clear() -> None:
        model.zero_grad(set_to_none=True)
        forward()

    with torch.inference_mode():
        forward_time = best(forward, lambda: None, args.rounds, device)
    backward_time = best(lambda: logits.float().sum().backward(), clear, args.rounds, device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Row(name, size, parameters, counter.get_total_flops() // 2, forward_time, backward_time)


def plot(rows: list[Row], path: str, batch_size: int) -> None:
    """Plots the published accuracy over the forward time per image, each network at its own size.

    The accuracy is that of the network's usual weights, not of distilled ones (SSLD).
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        known = [weights for weights in published.by_network().get(row.name, ()) if weights.whose == row.name]
        if not known or known[0].top1 is None or row.size != models.input_config(row.name).image_size:
            continue
        milliseconds = row.forward * 1000 / batch_size
        axes.scatter(milliseconds, known[0].top1, s=4 * math.sqrt(row.parameters / 1e4), alpha=0.5)
        axes.annotate(row.name, (milliseconds, known[0].top1), (4, 3), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("forward time per image, milliseconds")
    axes.set_ylabel("published top-1 accuracy on ImageNet, percent")
    axes.set_title("The area of a dot is proportional to the square root of the number of parameters", fontsize=9)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--model", default=DEFAULT, help="names or patterns, separated by commas")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--precision", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--plot", metavar="FILE.png")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    names = [name for pattern in args.model.split(",") for name in models.list_models(pattern)]
    if not names:
        parser.error(f"--model={args.model}: no such network")

    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {args.threads} threads"
    print(f"PyTorch {torch.__version__}, {where}, {args.precision}, batches of {args.batch_size}\n")
    print(
        "| network | size | parameters, M | multiply-adds, G | forward, ms | backward, ms |\n|---|--:|--:|--:|--:|--:|"
    )
    rows = []
    for name in dict.fromkeys(names):
        own = models.input_config(name).image_size
        for size in [args.image_size] if args.image_size else [own, LARGER.get(own, own)]:
            if rows and rows[-1][:2] == (name, size):
                continue
            try:
                row = measure(name, size, args, device)
            except (ValueError, RuntimeError) as error:
                print(f"| {name} | {size} | {str(error).splitlines()[0]} |")
                continue
            rows.append(row)
            counts = f"{row.parameters / 1e6:.2f} | {row.multiply_adds / 1e9:.2f}"
            times = f"{row.forward * 1000:.1f} | {row.backward * 1000:.1f}"
            print(f"| {name} | {size} | {counts} | {times} |", flush=True)
    if args.plot:
        plot(rows, args.plot, args.batch_size)


if __name__ == "__main__":
    main()
