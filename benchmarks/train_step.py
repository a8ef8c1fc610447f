"""Images per second of train.py's step against a bare PyTorch loop, on synthetic data.

python benchmarks/train_step.py                                       ResNet50, batch 8, float32 and mixed precision
python benchmarks/train_step.py --batch_size=256 --rounds=5 --steps=20 --compile       on a GPU

Both loops have the same network, precision and memory format, and take turns in one process, so that the machine's
other load affects both; the figures are medians over the rounds. train.py's loop runs the code of a step in train.py:
uint8 images to the device, normalization, `TrainStep`, `Meter`, reading the loss every ten steps. The bare loop gets
float images that are already on the device, and does forward, loss, backward and SGD.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn import functional as F

from benchmarks.steps import FORMATS, PRINT_STEP, build, choose_device, our_loop, rate
from utils.flags.line_parser import LineParser


def bare_loop(
    args: argparse.Namespace, device: torch.device, data_format: str, dtype: torch.dtype | None
) -> Callable[[int], None]:
    """The minimal PyTorch training loop, as a function of the number of steps."""
    model = build(args, device, data_format)
    fused = device.type == "cuda"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4, fused=fused)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=dtype == torch.float16)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    images = torch.randn(shape, device=device).to(memory_format=FORMATS[data_format])
    labels = torch.randint(1000, (args.batch_size,), device=device)

    def run(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

    return run


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--model", default="ResNet50")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=2, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="torch.compile both networks")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--mixed_only", action="store_true", help="measure only mixed precision and NHWC")
    parser.add_argument("--save_json_path", help="JSON file for the results, one object per precision and layout")
    args = parser.parse_args()
    device, half = choose_device(args.cpu)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    size = f"{args.image_size} x {args.image_size}"
    print(f"{args.model}, batch {args.batch_size}, {size}, {name}, torch {torch.__version__}")

    medians, figures = [], []
    kinds = [("NCHW", None), ("NHWC", None), ("NHWC", half)]
    for data_format, dtype in kinds[-1:] if args.mixed_only else kinds:
        loops = [make(args, device, data_format, dtype) for make in (our_loop, bare_loop)]
        for loop in loops:
            loop(2 if device.type == "cpu" else PRINT_STEP)  # warm up
        rates = [[rate(loop, args.steps, args.batch_size, device) for loop in loops] for _ in range(args.rounds)]
        ours, bare = (statistics.median(column) for column in zip(*rates, strict=True))
        medians.append(ours)
        share = statistics.median(ours / bare for ours, bare in rates)
        precision = str(dtype).removeprefix("torch.") if dtype else "float32"
        print(
            f"{data_format} {precision:8}  train.py {ours:8.2f} img/s  bare {bare:8.2f} img/s  share {share:.3f}",
            flush=True,
        )
        figures.append({"layout": data_format, "precision": precision, "ours": ours, "bare": bare, "share": share})
        if args.save_json_path:
            Path(args.save_json_path).write_text(json.dumps(figures) + "\n")
    if not args.mixed_only:
        print(f"train.py, NHWC: {figures[2]['precision']} {medians[2] / medians[1]:.2f} times as fast as float32")


if __name__ == "__main__":
    main()
