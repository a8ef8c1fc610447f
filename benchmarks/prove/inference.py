"""Images per second of one way to run an exported network, in its own process.

python -m benchmarks.prove.inference --contestant=export --folder=F --model=ResNet50      writes F/model, F/model.onnx
python -m benchmarks.prove.inference --contestant=program --folder=F --model=ResNet50 --batch_size=1,8,64

    eager         the network as it is built here, channels_last, its weights in the given precision
    program       F/model as predict.py runs it
    compiled      the same with --use_compile
    onnxruntime   F/model.onnx in ONNX Runtime; on a GPU in float32, which is all that its CUDA provider supports here
    tensorrt      F/model.onnx in ONNX Runtime's TensorRT provider

From images in memory (host memory for ONNX Runtime, as in predict.py) to logits; medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import models
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Description
from utils.devices import place
from utils.errors import run_script
from utils.flags.line_parser import LineParser

CONTESTANTS = ("eager", "program", "compiled", "onnxruntime", "tensorrt")


def export(name: str, size: int, folder: Path) -> None:
    """Exports the network, with random weights, as a program and, if possible here, as an ONNX model."""
    torch.manual_seed(0)
    model = models.build(name)
    description = Description(name, [str(i) for i in range(1000)], [3, size, size], size, 1, [0.5] * 3, [0.25] * 3)
    save_inference(model, description, folder)
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        save_inference(model, description, folder, "onnx")


def contestant(args: argparse.Namespace, device: torch.device, size: int) -> Callable[[int], Callable[[], object]]:
    """Returns a function from a batch size to a function that runs one batch."""
    dtype = getattr(torch, args.precision)
    if args.contestant == "eager":
        torch.manual_seed(0)
        model = place(models.build(args.model).eval(), device, torch.channels_last).to(dtype)

        def eager(batch_size: int) -> Callable[[], object]:
            images = torch.randn(batch_size, 3, size, size, device=device, dtype=dtype)
            images = images.contiguous(memory_format=torch.channels_last)
            return lambda: model(images)

        return eager
    by_onnx = args.contestant in ("onnxruntime", "tensorrt")
    if args.contestant == "onnxruntime":
        dtype = torch.float32
    network = load_exported(
        f"{args.folder}/{'model.onnx' if by_onnx else 'model'}",
        None,
        device,
        dtype,
        engine="onnxruntime" if by_onnx else "auto",
        batch_size=max(args.batch_size),
        use_compile=args.contestant == "compiled",
        use_tensorrt=args.contestant == "tensorrt",
    )

    def exported(batch_size: int) -> Callable[[], object]:
        images: Tensor = torch.randn(batch_size, 3, size, size)
        images = images.to(network.device, network.dtype, memory_format=network.memory_format)
        return lambda: network(images)

    return exported


def seconds_of(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median time of a call over `seconds`, after three calls to warm up."""
    times: list[float] = []
    end = float("inf")
    for number in range(1_000_000):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        if number == 2:
            end = now + seconds
        elif number > 2:
            times.append(now - start)
            if now > end and len(times) > 2:
                break
    return statistics.median(times)


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--contestant", choices=("export", *CONTESTANTS), required=True)
    parser.add_argument("--folder", required=True, help="of the export")
    parser.add_argument("--model", default="ResNet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=lambda text: [int(size) for size in text.split(",")], default=[1, 8, 64])
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float16")
    parser.add_argument("--seconds", type=float, default=1.0, help="time to measure each batch size")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--save_json_path", help="JSON file for the results, one object per batch size")
    args = parser.parse_args()
    if args.contestant == "export":
        export(args.model, args.image_size, Path(args.folder))
        return
    device = torch.device("cuda", 0) if torch.cuda.is_available() and not args.cpu else torch.device("cpu")
    figures = []
    with torch.inference_mode():
        make = contestant(args, device, args.image_size)
        for batch_size in args.batch_size:
            rate = batch_size / seconds_of(make(batch_size), device, args.seconds)
            precision = "float32" if args.contestant == "onnxruntime" else args.precision
            print(f"{args.model}, {precision}, batch {batch_size}: {args.contestant} {rate:.1f} img/s", flush=True)
            figures.append({"batch_size": batch_size, "precision": precision, "rate": rate})
            if args.save_json_path:
                Path(args.save_json_path).write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    run_script(main)
