"""`bash run.sh prove`: its order, its time, what it reports, on machines that are made up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from benchmarks.prove import __main__ as script
from benchmarks.prove import items
from benchmarks.prove.items import CIFAR10_RECIPE, PARTS, Item, plan, recipe_flags
from benchmarks.prove.machine import MODULES, ROOT, Machine
from benchmarks.prove.part_of_list import write_parts
from benchmarks.prove.pytest_results import _Results
from benchmarks.prove.report import Report, Row, measured
from benchmarks.prove.runner import Outcome, run
from utils.errors import run_script
from utils.flags import parse
from utils.reading.build import train_transform
from utils.weights.network import resolve_input

PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
H200 = Machine("NVIDIA H200", "", 1, 139 << 30, 16, list(MODULES), PROVIDERS, {"torch": "2.11.0"})
BARE_CPU = Machine(None, "torch is built without CUDA", processors=2, modules=[])


class Clock:
    """Stands still but for what `sleep` adds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Commands:
    """Takes the place of the runner: each command is known by its first word, and takes so many seconds."""

    def __init__(self, clock: Clock, seconds: dict[str, float], codes: dict[str, int] | None = None) -> None:
        self.clock, self.seconds, self.codes = clock, seconds, codes or {}
        self.given: list[tuple[str, float]] = []

    def __call__(self, command: list[str], seconds: float, log: Path, environment: dict[str, str]) -> Outcome:
        name = command[0]
        self.given.append((name, seconds))
        cut = self.seconds[name] > seconds
        self.clock.sleep(min(self.seconds[name], seconds))
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"much\n{name} says why\n")
        return Outcome(-15 if cut else self.codes.get(name, 0), min(self.seconds[name], seconds), cut)


def item(name: str, seconds: float = 60, **options) -> Item:
    rows = [measured("step", f"figure of {name}", "1.0", 1.0)]
    return Item("step", name, [name], seconds, lambda _: [*rows], **options)


def proven(
    tmp_path: Path, items: list[Item], commands: Commands, minutes: float = 14, machine: Machine = H200
) -> Report:
    report = Report(tmp_path, machine, minutes)
    script.prove(items, report, {}, commands, commands.clock)
    assert json.loads((tmp_path / "prove.json").read_text())["rows"] == [vars(row) for row in report.rows]
    return report


def statuses(report: Report) -> list[tuple[str, str]]:
    return [(row.name, row.status) for row in report.rows]


# --------------------------------------------------------------------------------------------------------------- plan


def test_a_gpu_machine_is_proven_within_14_minutes(tmp_path):
    planned = plan(H200, tmp_path, tmp_path / "cifar-10-python.tar.gz")
    assert sum(item.seconds for item in planned) <= 14 * 60
    assert list(dict.fromkeys(item.part for item in planned)) == list(PARTS)
    assert [item.name for item in planned if item.missing] == []
    for item in planned:
        files = [word for word in item.command if word.endswith(".py")]
        assert all((ROOT / file).is_file() for file in files), item.command
        assert item.command[0] == sys.executable


def test_what_a_machine_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "CIFAR10", tmp_path)
    lacking = {item.name: item.missing for item in plan(BARE_CPU, tmp_path, None) if item.missing}
    assert lacking["networks"].startswith("pytest is not installed")
    assert lacking["compiled"] == "no GPU: the compiler takes minutes on a CPU"
    assert (
        lacking["tensorrt"]
        == lacking["onnxruntime"]
        == ("onnxscript or onnxruntime is not installed: requirements-onnx.txt")
    )
    assert lacking["the images"].startswith("no CIFAR-10 here: give --cifar10=")
    old = Machine("NVIDIA A10", modules=["pytest", "onnxscript", "onnxruntime"], providers=["CPUExecutionProvider"])
    lacking = {item.name: item.missing for item in plan(old, tmp_path, None) if item.missing}
    assert "has no CUDAExecutionProvider: pip install onnxruntime-gpu" in lacking["onnxruntime"]


def test_on_a_cpu_small_networks_are_run(tmp_path):
    commands = [" ".join(item.command) for item in plan(BARE_CPU, tmp_path, tmp_path)]
    assert not any("ResNet50" in command or "-m gpu" in command for command in commands)
    assert sum("--cpu" in command or "--device=cpu" in command for command in commands) == len(commands) - 5


def test_the_recipe_is_read_without_bash(capsys):
    args = parse("train", recipe_flags(CIFAR10_RECIPE))
    assert (args.model, args.random_seed, args.image_shape) == ("ResNet18_vd", 0, [3, 128, 128])
    resolve_input(args)
    file = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    image = train_transform(args).decode(file, "a.png", np.random.default_rng(0))
    assert image.shape == (128, 128, 3)
    assert capsys.readouterr().err == ""


def test_a_part_of_a_list(tmp_path):
    for part in ("train", "val"):
        (tmp_path / f"{part}_list.txt").write_text("".join(f"{part}/{i}.png {i % 10}\n" for i in range(50)))
    write_parts(tmp_path, tmp_path, 20, 10)
    lines = (tmp_path / "train_part.txt").read_text().splitlines()
    assert len(set(lines)) == 20 and len((tmp_path / "val_part.txt").read_text().splitlines()) == 10


# --------------------------------------------------------------------------------------------------------------- time


def test_time_that_is_left_goes_to_the_next(tmp_path):
    commands = Commands(Clock(), {"a": 10, "b": 90, "c": 200})
    report = proven(tmp_path, [item("a"), item("b"), item("c")], commands)
    assert commands.given == [("a", 60), ("b", 110), ("c", 80)]
    assert statuses(report)[:2] == [("figure of a", "ok"), ("figure of b", "ok")]
    # What it has measured before it was ended counts, and it is said that it was.
    assert statuses(report)[2:] == [("figure of c", "ok"), ("c", "no time")]
    assert "ended after 80 s" in report.rows[-1].text and report.code == 1


def test_what_there_is_no_time_for_is_not_begun(tmp_path):
    commands = Commands(Clock(), {"a": 60, "b": 50})
    report = proven(tmp_path, [item("a"), item("b"), item("c")], commands, minutes=1.75)
    assert commands.given == [("a", 60), ("b", 45)]
    assert statuses(report)[-2:] == [("b", "no time"), ("c", "no time")]
    assert report.rows[-1].text == "0 s were left of the 1.75 minutes: raise --minutes or choose a --part"


def test_a_command_is_ended_with_its_children(tmp_path):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    started = time.monotonic()
    outcome = run([sys.executable, "-c", child], 0.4, tmp_path / "log", {})
    assert outcome.cut and outcome.code != 0 and time.monotonic() - started < 10
    outcome = run(
        [sys.executable, "-c", "import os; print(os.environ['A']); raise SystemExit(3)"],
        60,
        tmp_path / "log",
        {"A": "b"},
    )
    assert (outcome.code, outcome.cut, (tmp_path / "log").read_text()) == (3, False, "b\n")


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_failure_stops_only_what_needs_it(tmp_path):
    def no_figures(_: float) -> list[Row]:
        raise FileNotFoundError("a.json")

    first = item("a", missing="")
    first.read = no_figures
    tried = [first, item("b", after=["a"]), item("c", missing="no DALI"), item("d")]
    tried += [Item("inference", name, [name], 60, None) for name in ("the export", "the images", "late")]
    commands = Commands(
        Clock(), dict.fromkeys(["a", "d", "the export", "the images"], 1) | {"late": 9e9}, {"a": 1, "the images": 2}
    )
    report = proven(tmp_path, tried, commands)
    assert statuses(report) == [
        ("a", "failed"), ("b", "skipped"), ("c", "skipped"), ("figure of d", "ok"), ("the export", "ok"),
        ("the images", "failed"), ("late", "no time"),
    ]  # fmt: skip
    assert "a says why (exit code 1, see " in report.rows[0].text
    assert report.code == 1
    table = (tmp_path / "prove.md").read_text()
    assert "| failed | step | a |" in table and "no DALI (1): c" in table


def test_exit_codes(tmp_path):
    def code(machine: Machine, *items: Item) -> int:
        return proven(tmp_path, list(items), Commands(Clock(), {"a": 1}), machine=machine).code

    assert code(H200, item("a"), item("b", missing="no DALI")) == 0
    assert code(BARE_CPU, item("a"), item("b", missing="no GPU")) == 3
    assert code(H200, item("a"), item("b", missing="pytest is not installed", needed=True)) == 1
    report = Report(tmp_path, H200, 14)
    report.add([measured("step", "share", "0.960", 0.96, aim=0.97)])
    assert report.code == 1 and report.rows[0].line() == "missed   step: share: 0.960 (aim: at least 0.97)"
    assert report.verdict().startswith("NVIDIA H200; 1 missed; ")
    assert measured("cifar10", "seconds", "299 s", 299, aim=300, at_most=True).status == "ok"


def test_tests_that_a_crash_kept_from_being_run(tmp_path, capsys):
    tests = plan(H200, tmp_path, None)[:1]
    results = _Results(str(tmp_path / "tests_networks.jsonl"))
    names = ["tests/gpu/test_x.py::test_a", "tests/gpu/test_x.py::test_b", "tests/gpu/test_x.py::test_c"]
    results.pytest_collection_finish(SimpleNamespace(items=[SimpleNamespace(nodeid=name) for name in names]))
    report = SimpleNamespace(nodeid=names[0], when="call", outcome="passed", duration=0.5, longrepr=None)
    results.pytest_runtest_logreport(report)
    crash = SimpleNamespace(reprcrash=SimpleNamespace(message="assert 0.5 <= 3e-05\n  where"))
    report = SimpleNamespace(nodeid=names[1], when="call", outcome="failed", duration=0.5, longrepr=crash)
    results.pytest_runtest_logreport(report)
    commands = Commands(Clock(), {sys.executable: 5}, {sys.executable: -11})
    proof = proven(tmp_path, tests, commands)
    assert [(row.name, row.status, row.text) for row in proof.rows[:3]] == [
        ("test_x.py::test_a", "ok", ""),
        ("test_x.py::test_b", "failed", "assert 0.5 <= 3e-05 where"),
        ("test_x.py::test_c", "no time", "not reached"),
    ]
    assert proof.rows[3].status == "failed" and "exit code -11" in proof.rows[3].text
    assert "failed   tests: test_x.py::test_b: assert 0.5" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- script


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--part=tests,speed"], "argument --part: 'speed' is not a part: give some of tests,step,inference,cifar10"),
        (["--minutes=0"], "argument --minutes: "),
        (["--minutes=soon"], "argument --minutes: "),
        (["--cifar10=nothing.tar.gz"], "--cifar10 nothing.tar.gz: there is no such file"),
        (["--gpu"], "unknown flag --gpu"),
    ],
)
def test_a_bad_command_line_is_one_line(monkeypatch, capsys, flags, line):
    monkeypatch.setattr(sys, "argv", ["prove", *flags])
    with pytest.raises(SystemExit) as end:
        run_script(script.main)
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert line in err and err.count("\n") == 1


def test_an_output_that_cannot_be_written_and_a_python_without_torch(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["prove", f"--output={tmp_path}/file/prove"])
    with pytest.raises(SystemExit) as end:
        run_script(script.main)
    assert end.value.code == 1 and "--output" in capsys.readouterr().err

    done = subprocess.CompletedProcess([], 1, "", "Traceback\nModuleNotFoundError: No module named 'torch'\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done)
    monkeypatch.setattr(sys, "argv", ["prove", f"--output={tmp_path}/prove"])
    with pytest.raises(SystemExit) as end:
        run_script(script.main)
    assert end.value.code == 1
    assert "cannot import a required package (ModuleNotFoundError: No module named 'torch')" in capsys.readouterr().err


def test_a_run_without_a_gpu_from_end_to_end(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "find_machine", lambda environment: BARE_CPU)
    monkeypatch.setattr(sys, "argv", ["prove", f"--output={tmp_path}", "--part=tests", "--cpu"])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "old.json").touch()
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 3
    said = capsys.readouterr().out
    told = "no GPU (--cpu): running small versions of what a CPU can run, which prove nothing about a GPU\n"
    assert said.startswith(told)
    assert "tests: networks: pytest is not installed" in said
    assert not (tmp_path / "files" / "old.json").exists()
    assert json.loads((tmp_path / "prove.json").read_text())["exit_code"] == 3
