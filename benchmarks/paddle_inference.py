"""Compares the speed of PaddlePaddle's exported programs here with Paddle Inference and other engines.

    python benchmarks/paddle_inference.py --model_file=ResNet50/inference.pdmodel,PPLCNet_x1_0/inference.json
    python benchmarks/paddle_inference.py --model_file=ResNet50/model --paddle_python=paddle3/bin/python --threads=1

From normalized images in memory to probabilities. Every contestant has its own process, and all are stopped except the
one whose turn it is; each one's best time counts.

    predict.py      the program, as predict.py --model_file=PROGRAM --engine=auto runs it: in the fastest engine
    pytorch         the same with --engine=pytorch
    onnxruntime     the program converted by utils/convert_model.py --inference_format=onnx, in ONNX Runtime
    openvino        the same in OpenVINO
    paddle          the program in Paddle Inference, with oneDNN in float32
    paddle_plain    the same without oneDNN

--paddle_python must have PaddlePaddle 3; it may be another Python than this one. Contestants that are not installed are
left out, with a line that says why.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.turns.contestants import command
from benchmarks.turns.race import rates, start
from benchmarks.turns.report import ISAS, machine, table, useful_isas, write_table
from utils.deploy.comparing import export_program, test_images
from utils.deploy.export import write_export
from utils.deploy.paddle_model import PaddleModel, read_paddle
from utils.errors import UserError, run_script
from utils.flags.line_parser import LineParser

CONTESTANTS = ("predict.py", "pytorch", "onnxruntime", "openvino", "paddle", "paddle_plain")
PACKAGES = ("torch", "onnxruntime", "openvino")


def parameters_beside(program: Path) -> Path:
    """The weight file of a program, found by PaddlePaddle's file names.

    Raises:
        UserError: there is none.
    """
    for name in (f"{program.stem}.pdiparams", "params", "__params__"):
        if (path := program.with_name(name)).is_file():
            return path
    raise UserError(f"--model_file {program}: there is no {program.stem}.pdiparams or params next to it")


def write_onnx(model: PaddleModel, folder: Path) -> Path:
    """Converts a program to ONNX with utils/convert_model.py."""
    module, images = model.module(), test_images(model.description.image_shape)
    with torch.inference_mode():
        expected = module(images)
    program = export_program(module, images)
    return write_export(program, images, expected, model.description, folder, "onnx", "--model_file")


def commands(
    program: Path, onnx: Path | None, size: int, batch_size: int, args: argparse.Namespace
) -> dict[str, list[str]]:
    """The commands that start the contestants for a program."""
    numbers = batch_size, size, args.threads
    found = {
        name: command(sys.executable, "exported", program, engine, args.precision, *numbers)
        for name, engine in (("predict.py", "auto"), ("pytorch", "pytorch"))
    }
    for engine in ("onnxruntime", "openvino"):
        if onnx is not None and importlib.util.find_spec(engine) is not None:
            found[engine] = command(sys.executable, "exported", onnx, engine, args.precision, *numbers)
    if args.precision == "float32":
        files = program, parameters_beside(program)
        for name, onednn in (("paddle", True), ("paddle_plain", False)):
            found[name] = command(args.paddle_python, "paddle", *files, onednn, *numbers)
    return {name: words for name, words in found.items() if name in args.contestant}


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--model_file", type=lambda text: text.split(","), help="programs")
    parser.add_argument("--paddle_python", default=sys.executable, help="a Python that has PaddlePaddle 3")
    parser.add_argument("--batch_size", type=lambda text: [int(size) for size in text.split(",")], default=[1, 8])
    parser.add_argument(
        "--contestant", type=lambda text: text.split(","), default=CONTESTANTS, help="some of those above"
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.6, help="length of a turn")
    parser.add_argument("--isa", type=lambda text: text.split(","), default=["default", "AVX2"])
    parser.add_argument(
        "--table", type=Path, help="file to write the tables to; in an existing file they replace the marked part"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if not args.model_file:
        parser.error("--model_file is required: programs that PaddlePaddle exported, separated by commas")
    texts = [race_all(isa, args) for isa in useful_isas(args.isa)]
    if args.table:
        write_table(args.table, "paddle_inference", "\n\n".join(texts))


def race_all(isa: str, args: argparse.Namespace) -> str:
    """Runs the race for all programs with one set of the processor's instructions; returns the table."""
    about = f"{machine(args.threads, PACKAGES, isa)}{paddle_version(args.paddle_python)}; {args.precision}"
    print(f"{about}; images per second (milliseconds a batch)")
    rows = {}
    for file in map(Path, args.model_file):
        model = read_paddle(str(file), None, {})
        size = model.description.image_shape[-1]
        with tempfile.TemporaryDirectory() as folder:
            wants_onnx = {"onnxruntime", "openvino"} & set(args.contestant)
            has_onnx = wants_onnx and importlib.util.find_spec("onnxscript") and importlib.util.find_spec("onnxruntime")
            onnx = write_onnx(model, Path(folder)) if has_onnx else None
            # predict.py's measurements are stored for this race only.
            cache = os.path.join(folder, "cache")
            environment = {"OMP_NUM_THREADS": str(args.threads), "XDG_CACHE_HOME": cache, **ISAS[isa]}
            for batch_size in args.batch_size:
                print(f"\n{file}, batch size {batch_size}")
                contestants = start(commands(file, onnx, size, batch_size, args), environment)
                title = f"{model.description.network}, batch {batch_size}"
                rows[title] = rates(contestants, batch_size, args.rounds, args.seconds)
    shares = {
        "predict.py: share of the fastest": ("predict.py", CONTESTANTS),
        "predict.py over Paddle": ("predict.py", ("paddle", "paddle_plain")),
        "pytorch over Paddle": ("pytorch", ("paddle", "paddle_plain")),
    }
    return f"{about}:\n\n{table(rows, CONTESTANTS, shares)}"


def paddle_version(python: str) -> str:
    """The PaddlePaddle version of a Python, for the table; empty if it has none."""
    words = [python, "-c", "import importlib.metadata as m; print(m.version('paddlepaddle'))"]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return f", paddlepaddle {found}" if found else ""


if __name__ == "__main__":
    run_script(main)
