"""The items of a proof: the commands, their order and time limits, and how their results are read."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.prove.machine import ROOT, Machine
from benchmarks.prove.report import Row, measured

PYTHON = sys.executable
PARTS = ("tests", "step", "inference", "cifar10")
# GPUs that reach 3,500 images/s with ResNet50, and 95% on CIFAR-10 in five minutes.
DATA_CENTRE = re.compile(r"\b(GH200|H100|H200|B100|B200|B300|GB200|GB300)\b")
CIFAR10 = ROOT / "data" / "cifar10"
CIFAR10_RECIPE = ROOT / "scripts" / "train" / "cifar10_95.sh"


@dataclass
class Item:
    """A command.

    Attributes:
        part, name: its part and its name.
        command: program and arguments.
        seconds: its time limit, to which unused time of earlier items is added.
        read: reads the files that it wrote, even if it did not finish, and returns its rows; takes the seconds that it
            ran. None: there are no results, and it passes if it finishes.
        missing: why it cannot be run on this machine; "" if it can.
        needed: whether nothing is proven without it.
        after: names of items whose files it needs; it is skipped if one of them failed.
    """

    part: str
    name: str
    command: list[str]
    seconds: float
    read: Callable[[float], list[Row]] | None
    missing: str = ""
    needed: bool = False
    after: list[str] = field(default_factory=list)


def plan(machine: Machine, folder: Path, archive: Path | None) -> list[Item]:
    """All items, the most important first.

    Args:
        machine: the machine to prove.
        folder: the folder for the items' files.
        archive: the archive of CIFAR-10; None if there is none.
    """
    items = [
        *tests(machine, folder),
        *steps(machine, folder),
        *inference(machine, folder),
        *cifar10(machine, folder, archive),
    ]
    for item in items if machine.gpu is None else ():
        item.seconds *= 2  # the work is small, but the machine may be slow
    return items


# -------------------------------------------------------------------------------------------------------------- tests


def tests(machine: Machine, folder: Path) -> list[Item]:
    """The tests marked `gpu`; without a GPU, the same tests on the CPU. Each group has its own process, as a GPU error
    in a process makes all later tests in it fail."""
    items = []
    for name, files, seconds in (
        ("networks", ["tests/gpu/test_gpu_networks.py"], 50),
        ("training", ["tests/gpu/test_gpu_training.py", "tests/training/test_engine.py"], 140),
        ("engines", ["tests/gpu/test_gpu_engines.py", "tests/reading/test_reader_dali.py"], 70),
    ):
        results = folder / f"tests_{name}.jsonl"
        command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.prove.pytest_results"]
        command += [f"--results_path={results}", *files[: 2 if machine.gpu else 1]]
        # On a CPU all networks take long, and the compiler too.
        on_cpu = ["-k", "not compiled"] + ["--all"] * (name != "networks")
        command += ["-m", "gpu"] if machine.gpu else on_cpu
        missing = "" if "pytest" in machine.modules else "pytest is not installed: pip install pytest"
        read = _reader_of_tests(results)
        items.append(Item("tests", name, command, seconds, read, missing, needed=True))
    return items


def _reader_of_tests(results: Path) -> Callable[[float], list[Row]]:
    def read(_: float) -> list[Row]:
        lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
        rows, collected = {}, [name for line in lines for name in line.get("collected", ())]
        for line in (line for line in lines if "name" in line):
            status = {"passed": "ok", "skipped": "skipped"}.get(line["outcome"], "failed")
            rows[line["name"]] = Row("tests", line["name"], status, line["reason"], seconds=line["seconds"])
        left = [Row("tests", name, "no time", "not reached") for name in collected if name not in rows]
        return [*rows.values(), *left]

    return read


# --------------------------------------------------------------------------------------------------------------- step


def steps(machine: Machine, folder: Path) -> list[Item]:
    """train.py's step compared with a bare loop, eager and compiled; then fed by the readers."""
    flags = ["--batch_size=256", "--steps=20", "--rounds=5"]
    if not machine.gpu:
        flags = ["--cpu", "--model=MobileNetV1_x0_25", "--batch_size=8", "--image_size=64", "--steps=2", "--rounds=3"]
    what = "ResNet50, mixed precision, NHWC, batch 256" if machine.gpu else "MobileNetV1_x0_25 on the CPU"
    items = []
    for name, more, seconds in (("step", [], 45), ("step, compiled", ["--compile"], 80)):
        file = folder / f"{name.replace(', ', '_')}.json"
        command = [PYTHON, "benchmarks/train_step.py", *flags, *more, "--mixed_only", f"--save_json_path={file}"]
        missing = "" if machine.gpu or not more else "no GPU: the compiler takes minutes on a CPU"
        read = _step_reader(file, machine, bool(more))
        items.append(Item("step", what + ", compiled" * bool(more), command, seconds, read, missing))
    file = folder / "fed.json"
    fed = ["--batch_size=256", "--steps=40", "--rounds=2", "--warm_up=20"]
    if not machine.gpu:
        fed = [*flags[:4], "--steps=12", "--rounds=1", "--pictures=8", "--warm_up=2"]
    command = [PYTHON, "benchmarks/fed_step.py", *fed, f"--save_json_path={file}"]
    items.append(Item("step", f"{what}, fed by the readers", command, 45, _fed_reader(file, machine)))
    return items


def _step_reader(file: Path, machine: Machine, compiled: bool) -> Callable[[float], list[Row]]:
    def read(_: float) -> list[Row]:
        (figures,) = json.loads(file.read_text())
        kind = "compiled" if compiled else "as it is"
        fast = 3500 if machine.gpu and DATA_CENTRE.search(machine.gpu) and not compiled else None
        text = f"train.py {figures['ours']:.0f} images/s, bare loop {figures['bare']:.0f}, {figures['precision']}"
        # On a CPU the networks are too small and the rounds too few for an aim.
        aim = 0.97 if machine.gpu else None
        return [
            measured("step", f"share of the bare loop, {kind}", f"{figures['share']:.3f}", figures["share"], aim),
            measured("step", f"images/s, {kind}", text, figures["ours"], fast),
        ]

    return read


def _fed_reader(file: Path, machine: Machine) -> Callable[[float], list[Row]]:
    def read(_: float) -> list[Row]:
        rows = []
        found = {figures["reader"]: figures for figures in json.loads(file.read_text())}
        for reader, figures in found.items():
            share = figures["fed"] / figures["synthetic"]
            text = (
                f"{share:.3f} of synthetic batches: {figures['fed']:.0f} images/s; reader alone {figures['alone']:.0f} "
                f"with {figures['workers']} workers, the step's {figures['synthetic']:.0f} need {figures['needed']:.1f}"
            )
            aim = 0.95 if reader == "dali" and machine.gpu else None
            rows.append(measured("step", f"fed by {reader}", text, share, aim))
        if "dali" not in found and "nvidia.dali" not in machine.modules:
            rows.append(Row("step", "fed by dali", "skipped", "DALI is not installed: requirements-dali.txt"))
        return rows

    return read


# ---------------------------------------------------------------------------------------------------------- inference


def inference(machine: Machine, folder: Path) -> list[Item]:
    """The ways to run an exported network."""
    flags = ["--model=ResNet50", "--precision=float16", "--batch_size=1,8,64", "--seconds=1.5"]
    if not machine.gpu:
        flags = ["--cpu", "--model=MobileNetV1_x0_25", "--image_size=64", "--precision=float32", "--batch_size=1,8"]
        flags.append("--seconds=0.3")
    start = [PYTHON, "-m", "benchmarks.prove.inference", *flags, f"--folder={folder / 'export'}"]
    export = "the export"
    command = [*start, "--contestant=export"]
    items = [Item("inference", export, command, 25, None)]
    for name, seconds in (("eager", 12), ("program", 12), ("compiled", 40), ("onnxruntime", 18), ("tensorrt", 45)):
        file = folder / f"inference_{name}.json"
        command = [*start, f"--contestant={name}", f"--save_json_path={file}"]
        item = Item("inference", name, command, seconds, _rates_reader(file, name), _lacks(name, machine))
        item.after = [export] * (name != "eager")
        items.append(item)
    return items


def _lacks(contestant: str, machine: Machine) -> str:
    """Why a contestant cannot be run here; "" if it can."""
    if contestant in ("onnxruntime", "tensorrt"):
        if not {"onnxscript", "onnxruntime"} <= set(machine.modules):
            return "onnxscript or onnxruntime is not installed: requirements-onnx.txt"
        provider = "CUDAExecutionProvider" if contestant == "onnxruntime" else "TensorrtExecutionProvider"
        if machine.gpu and provider not in machine.providers:
            return f"this build of ONNX Runtime has no {provider}: pip install onnxruntime-gpu"
    if contestant == "tensorrt" and machine.gpu and "tensorrt" not in machine.modules:
        return "TensorRT is not installed"
    if contestant in ("compiled", "tensorrt") and not machine.gpu:
        return "no GPU" + ": the compiler takes minutes on a CPU" * (contestant == "compiled")
    return ""


def _rates_reader(file: Path, contestant: str) -> Callable[[float], list[Row]]:
    def read(_: float) -> list[Row]:
        return [
            measured(
                "inference",
                f"{contestant}, {figures['precision']}, batch {figures['batch_size']}",
                f"{figures['rate']:.1f} images/s",
                figures["rate"],
            )
            for figures in json.loads(file.read_text())
        ]

    return read


# ------------------------------------------------------------------------------------------------------------ CIFAR-10


def recipe_flags(path: Path) -> list[str]:
    """The flags of a recipe in scripts/train/, for machines without bash."""
    code = " ".join(line.rstrip("\\") for line in path.read_text().splitlines() if not line.startswith("#"))
    words = shlex.split(code)
    return words[words.index("exec") + 3 : -1]  # exec bash .../launch.sh FLAGS "$@"


def cifar10(machine: Machine, folder: Path, archive: Path | None) -> list[Item]:
    """CIFAR-10 to 95%; without a GPU, two epochs on a few of its images."""
    prepare = "the images"
    is_there = (CIFAR10 / "val_list.txt").exists()
    missing = "" if is_there or archive else "no CIFAR-10 here: give --cifar10=cifar-10-python.tar.gz"
    command = [PYTHON, "-c", "pass"] if is_there else [PYTHON, "data/cifar10/prepare.py", str(archive)]
    items = [Item("cifar10", prepare, command, 40, None, missing)]
    after, output = prepare, folder / "cifar10"
    flags = [*recipe_flags(CIFAR10_RECIPE), f"--model_save_dir={output}"]
    flags.append(f"--reader_thread={min(32, machine.processors)}")
    if machine.gpu:
        name = "95% of the test images"
        flags.append("--device=cuda")
    else:
        after = "a part of them"
        part = [PYTHON, "-m", "benchmarks.prove.part_of_list", f"--data_dir={CIFAR10}", f"--folder={folder}"]
        items.append(Item("cifar10", after, [*part, "--train=2000", "--val=500"], 15, None, missing, after=[prepare]))
        name = "two epochs on 2,000 images, on the CPU"
        flags += ["--device=cpu", "--num_epochs=2", "--warm_up_epochs=0.5", "--use_fp16=False", "--eval_interval=1"]
        flags += ["--batch_size=64", "--test_batch_size=100", "--lr=0.05"]
        flags += [f"--train_list={folder / 'train_part.txt'}", f"--val_list={folder / 'val_part.txt'}"]
        flags += ["--image_shape", "3", "32", "32", "--resize_short_size=32", "--print_step=10"]
        flags += ["--train_transforms", "resize:size=32 pad:size=40 random_crop:size=32 flip"]
    command = [PYTHON, "train.py", *flags]
    item = Item("cifar10", name, command, 210, _accuracy_reader(output, machine), missing, after=[after])
    return [*items, item]


def _accuracy_reader(output: Path, machine: Machine) -> Callable[[float], list[Row]]:
    def read(seconds: float) -> list[Row]:
        (file,) = output.glob("*/curves.json")
        history = json.loads(file.read_text())
        figures = [epoch["test_acc1"] for epoch in history if "test_acc1" in epoch]
        last, epochs = figures[-1], len(history)
        text = f"{last:.2%} after {epochs} epochs, {seconds:.0f} s with validation and start"
        if not machine.gpu:
            # Guessing gets 10%; with 500 test images its standard deviation is 1.3%.
            return [measured("cifar10", "accuracy of a small part", text, last, 0.15)]
        rows = [measured("cifar10", "top-1 on the 10,000 test images", text, last, 0.95)]
        limit = 300 if DATA_CENTRE.search(machine.gpu) else None
        return [*rows, measured("cifar10", "seconds", f"{seconds:.0f} s", seconds, limit, at_most=True)]

    return read
