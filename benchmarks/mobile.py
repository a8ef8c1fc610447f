"""What the engines of phones and small machines make of the networks: converted or not, difference, time, size.

    python benchmarks/mobile.py --table=docs/mobile.md
    python benchmarks/mobile.py --model=MobileNetV3_small_x1_0 --engine=executorch,ncnn
    python benchmarks/mobile.py --model=ResNet18_vd --weights=output/ResNet18_vd/best_model --photos=photos \\
        --calibration_dir=data/train        int8 as well

    executorch      NAME/model.pte of infer.py --inference_format=executorch
    litert          what litert-torch makes of the network
    ncnn            what pnnx makes of it
    mnn             what its converter makes of NAME/model.onnx
    onnxruntime     NAME/model.onnx itself

Not given --model: of each family the network of the fewest multiply-adds, with random weights. Everything runs on one
thread of this machine, one image at a time; the difference is the largest of any logit, as a share of the largest logit
that PyTorch computes. Each conversion has a process of its own, with limits. What is found is kept in --results, line
by line: started again, the program goes on where it was stopped. Where the packages of the engines do not go together,
--environments is a folder of virtual environments that are called like the engines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.phones.tables import tables
from benchmarks.turns.report import machine, write_table
from models import catalogue
from models.families import FAMILIES
from utils.flags.line_parser import LineParser

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("executorch", "litert", "ncnn", "mnn", "onnxruntime")


def smallest_of_families() -> list[str]:
    """Of each module of models/ the network that computes least, the smallest first."""
    facts = catalogue.read()
    found = (min(names, key=lambda name: facts[name].multiply_adds) for names in FAMILIES.values())
    return sorted(found, key=lambda name: facts[name].multiply_adds)


def python_of(engine: str, environments: Path | None) -> str:
    """The Python that has an engine's packages."""
    if environments is not None:
        for place in ("bin/python", "Scripts/python.exe"):
            if (environments / engine / place).exists():
                return str(environments / engine / place)
    return sys.executable


def run_limited(python: str, call: str, words: list[object], args: argparse.Namespace) -> str | None:
    """Runs a function of benchmarks/phones/ in a process of its own; returns why it was ended, None if it was not."""
    program = f"import sys; sys.path[:0] = {[str(ROOT)]}; {call}"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (args.memory << 30, args.memory << 30))

    with tempfile.TemporaryFile("w+", errors="replace") as said:  # a pipe would stay open with what it has started
        process = subprocess.Popen(
            [python, "-c", program, *map(str, words)],
            env=variables,
            stdout=None if args.verbose else subprocess.DEVNULL,
            stderr=None if args.verbose else said,
            start_new_session=True,
            preexec_fn=limit if os.name == "posix" else None,
        )
        try:
            process.wait(args.seconds)
        except subprocess.TimeoutExpired:
            return f"more than {args.seconds:g} s"
        finally:
            end(process)
        said.seek(0)
        lines = [line.strip() for line in said if line.strip()]
    if process.returncode < 0:
        return f"ended by {signal.Signals(-process.returncode).name}"
    return None if not process.returncode else (lines[-1] if lines else f"ended with {process.returncode}")[:300]


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, and the converters that it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def measure(name: str, engines: list[str], args: argparse.Namespace) -> None:
    """Measures a network in some engines; a line of --results for each."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        if args.weights:
            call, words = "write_trained", [name, args.weights, args.photos, args.calibration_dir, source]
        else:
            call, words = "write_random", [name, source]
        program = f"from pathlib import Path; from benchmarks.phones import source; source.{call}(*sys.argv[1:-1], "
        why = run_limited(sys.executable, f"{program}Path(sys.argv[-1]))", words, args)
        for engine in engines:
            place = Path(folder) / engine
            place.mkdir()
            found: dict[str, Any] = {"failed": f"not exported to ONNX: {why}"} if why else {}
            if not why:
                call = "from benchmarks.phones import one; one.measure(*sys.argv[1:])"
                ended = run_limited(python_of(engine, args.environments), call, [engine, source, place], args)
                if (place / "result.json").exists():
                    found = json.loads((place / "result.json").read_text())
                if ended:
                    found["failed"] = ended
            keep(args.results, {"network": name, "engine": engine, "trained": bool(args.weights), **found})


def keep(file: Path, found: dict[str, Any]) -> None:
    """Adds a line to the file of results, and shows it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as results:
        results.write(f"{json.dumps(found)}\n")
    shown = {name: f"{value:.3g}" for name, value in found.items() if isinstance(value, float)}
    print(
        found["network"], found["engine"], found.get("failed", ""), *(f"{k} {v}" for k, v in shown.items()), flush=True
    )


def read(file: Path) -> list[dict[str, Any]]:
    """What was found before; half a line, of a run that was stopped, is left out."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def parse() -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return text.split(",")

    parser = LineParser(__doc__)
    parser.add_argument("--model", type=several, help="not given: one of each family")
    parser.add_argument("--engine", type=several, default=list(ENGINES[:-1]), help="some of those above")
    parser.add_argument("--weights", help="of the one --model, as train.py has saved them")
    parser.add_argument("--photos", help="with --weights: images that the answers are counted on")
    parser.add_argument("--calibration_dir", help="with --weights: images to quantize by")
    parser.add_argument("--environments", type=Path, help="folder of virtual environments, called like the engines")
    parser.add_argument(
        "--results", type=Path, default=Path("output/mobile.jsonl"), help="what was found, line by line"
    )
    parser.add_argument("--seconds", type=float, default=600, help="that a conversion and its measurement may take")
    parser.add_argument("--memory", type=int, default=24, help="GB of address space that they may have")
    parser.add_argument("--verbose", action="store_true", help="show what the converters say")
    parser.add_argument("--table", type=Path, help="file that the tables are written to, or into")
    args = parser.parse_args()
    if unknown := sorted({*args.engine} - {*ENGINES}):
        parser.error(f"--engine {unknown[0]}: there are {', '.join(ENGINES)}")
    if args.weights and not (args.model and len(args.model) == 1 and args.photos and args.calibration_dir):
        parser.error("--weights goes with one --model, --photos and --calibration_dir")
    return args


def main() -> None:
    args = parse()
    done = {(each["network"], each["engine"], each["trained"]) for each in read(args.results)}
    for name in args.model or smallest_of_families():
        left = [engine for engine in args.engine if (name, engine, bool(args.weights)) not in done]
        if left:
            measure(name, left, args)
    if args.table:
        write_table(args.table, "mobile", f"{machine(1, ('torch',))}:\n\n{tables(read(args.results), ENGINES)}")


if __name__ == "__main__":
    main()
