"""Compares the speed of predict.py with plain PyTorch, torchvision's networks and other engines.

    python benchmarks/inference.py --table=docs/benchmarks.md
    python benchmarks/inference.py --model=ResNet50 --batch_size=1,8,64 --precision=float32,bfloat16,int8
    python benchmarks/inference.py --model=SwinTransformer_tiny_patch4_window7_224 --contestant=channels_last,timm
    python benchmarks/inference.py --threads=1 --cpu_time        even on a busy machine

From images in memory to logits, without reading files: latency at batch size 1, throughput at larger ones. The weights
are random, but batch norms get the statistics of their inputs: otherwise activations fade to denormal numbers, which
are slow to process. Every contestant has its own process, and all are stopped except the one whose turn it is; each
one's best time counts. Contestants that are not installed are left out.

    predict.py      NAME/model, run by predict.py --engine=auto, which measures the engines and takes the fastest
    pytorch         NAME/model, run by predict.py --engine=pytorch
    onnxruntime     NAME/model.onnx, run by predict.py --engine=onnxruntime
    openvino        NAME/model.onnx, run by predict.py --engine=openvino
    eager           the network as it is built here, in bfloat16 under autocast
    channels_last   the same in channels_last, which suits CPUs and tensor cores
    torchvision     torchvision's network of the same architecture, channels_last
    timm            timm's, channels_last
    compiled        the network under torch.compile, channels_last, weights frozen: not by default, as it takes minutes

--isa chooses the processor's instructions: `default` uses all of them, AVX2 shows its speed without newer ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import models
from benchmarks.turns.contestants import command
from benchmarks.turns.networks import with_statistics
from benchmarks.turns.race import rates, start
from benchmarks.turns.report import ISAS, machine, table, useful_isas, write_table
from utils.deploy.export import save_inference
from utils.deploy.network import Description
from utils.deploy.quantize import quantize
from utils.flags.line_parser import LineParser

PROGRAMS = ("predict.py", "pytorch")
ENGINES = ("onnxruntime", "openvino")
NETWORKS = ("eager", "channels_last", "torchvision", "timm", "compiled")
CONTESTANTS = (*PROGRAMS, *ENGINES, *NETWORKS)
PACKAGES = ("torch", "onnxruntime", "openvino", "torchvision", "timm")


def export(name: str, precisions: list[str], wanted: list[str], folder: Path) -> dict[str, Path]:
    """Exports a network in each requested form that is possible here: `program`, `onnx` and `int8`."""
    size = models.input_config(name).image_size
    torch.manual_seed(0)
    model = with_statistics(models.build(name), torch.zeros(1, 3, size, size))
    description = Description(name, [], [3, size, size], size, 1, [0.5] * 3, [0.25] * 3, class_dim=1000)
    files = {}
    if {*PROGRAMS} & {*wanted}:
        files["program"] = save_inference(model, description, folder)
    if {*ENGINES} & {*wanted} and all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        files["onnx"] = save_inference(model, description, folder, "onnx")
        if "int8" in precisions:
            files["int8"] = quantize(files["onnx"], [torch.randn(16, 3, size, size)])
    return files


def commands(
    name: str, files: dict[str, Path], precision: str, batch_size: int, args: argparse.Namespace
) -> dict[str, list[str]]:
    """The commands that start the contestants for a network."""
    size = models.input_config(name).image_size
    numbers = precision, batch_size, size, args.threads, args.device, "process" if args.cpu_time else "wall"
    found = {}
    for contestant in args.contestant:
        if contestant in NETWORKS:
            words = "network", contestant, name
        elif contestant in ENGINES:
            file = files.get("int8" if precision == "int8" else "onnx")
            words = importlib.util.find_spec(contestant) and file and ("exported", file, contestant)
        else:
            words = "exported", files["program"], "auto" if contestant == "predict.py" else contestant
        if words and (precision != "int8" or contestant in ENGINES):
            found[contestant] = command(sys.executable, *words, *numbers)
    return found


def parse() -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return text.split(",")

    parser = LineParser(__doc__)
    parser.add_argument("--model", type=several, default=["ResNet50", "MobileNetV1", "EfficientNetB0"])
    parser.add_argument("--batch_size", type=lambda text: [int(size) for size in several(text)], default=[1, 8])
    parser.add_argument("--precision", type=several, default=["float32"], help="float32, bfloat16, float16, int8")
    parser.add_argument("--contestant", type=several, default=CONTESTANTS[:-1], help="some of those above")
    parser.add_argument("--isa", type=several, default=["default", "AVX2"], help=f"some of {', '.join(ISAS)}")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.6, help="length of a turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu_time", action="store_true", help="measure processor time instead of wall time")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument(
        "--table", type=Path, help="file to write the tables to; in an existing file they replace the marked part"
    )
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    return args


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: export(name, args.precision, args.contestant, Path(folder) / name) for name in args.model}
        texts = [race_all(files, isa, Path(folder) / "cache", args) for isa in useful_isas(args.isa)]
    if args.table:
        write_table(args.table, "inference", "\n\n".join(texts))


def race_all(files: dict[str, dict[str, Path]], isa: str, cache: Path, args: argparse.Namespace) -> str:
    """Runs the race for all networks with one set of the processor's instructions; returns the table.

    Args:
        files: the exported files of each network.
        isa: the instructions, a key of `ISAS`.
        cache: folder for predict.py's measurements in this race.
        args: the command's flags.
    """
    about = f"{machine(args.threads, PACKAGES, isa)}; {args.device}"
    print(f"{about}; images per second (milliseconds a batch)")
    environment = {"OMP_NUM_THREADS": str(args.threads), "XDG_CACHE_HOME": str(cache), **ISAS[isa]}
    rows = {}
    for name, precision, batch_size in itertools.product(args.model, args.precision, args.batch_size):
        title = f"{name}, {precision}, batch {batch_size}"
        print(f"\n{title}")
        contestants = start(commands(name, files[name], precision, batch_size, args), environment)
        rows[title] = rates(contestants, batch_size, args.rounds, args.seconds)
    shares = {f"{name}: share of the fastest": (name, CONTESTANTS) for name in PROGRAMS if name in args.contestant}
    return f"{about}:\n\n{table(rows, CONTESTANTS, shares)}"


if __name__ == "__main__":
    main()
