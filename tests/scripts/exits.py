"""How runs in several processes end, over and over: every process has to end with the exit code that it should.

python tests/scripts/exits.py --runs=300 --load=3
python tests/scripts/exits.py --runs=40 --kinds=train,stopped --launcher

It runs train.py, eval.py and infer.py to their ends, and train.py until SIGTERM stops it (143), in two processes each,
on a few tiny images, beside processes that keep the machine busy. One process imports PyTorch and is forked for each
run, which takes a second or two; every child ends as any Python program does. With --launcher each run is a command,
`python -m torch.distributed.run`, and the exit code is the launcher's (1 for a run that was stopped).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import matplotlib.figure  # noqa: F401 (this one and the next two are for the children, who need them later)
import numpy as np
import torch
import torch._dynamo
import torch.utils.tensorboard

import eval as evaluation
import infer
import models
import train
from utils.errors import run_script

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "MobileNetV1_x0_25"
MAINS = {"train": train.main, "eval": evaluation.main, "infer": infer.main, "stopped": train.main}
PATIENCE = 300.0  # seconds after which a run hangs


def make_data(folder: Path) -> None:
    """16 training and 6 validation images of two classes, and weights."""
    random = np.random.RandomState(0)
    for part, count in (("train", 16), ("val", 6)):
        for number in range(count):
            path = folder / part / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), random.randint(0, 256, (40, 40, 3), np.uint8))
    torch.save(models.build(NETWORK, class_dim=2).state_dict(), folder / "weights.pth")


def command_line(kind: str, data: Path, out: Path) -> list[str]:
    """The script of a run, and its flags."""
    flags = {"model": NETWORK, "class_dim": 2, "image_shape": "3,32,32", "resize_short_size": 32, "reader_thread": 0}
    flags |= {"batch_size": 8, "use_gpu": False}
    if kind in ("train", "stopped"):
        flags |= {"data_dir": data, "model_save_dir": out, "lr": 1e-6, "print_step": 1, "random_seed": 1}
        flags |= (
            {"num_epochs": 1, "accumulate_steps": 2} if kind == "train" else {"num_epochs": 10**6, "validate": False}
        )
    elif kind == "eval":
        flags |= {"data_dir": data, "pretrained_model": data / "weights.pth"}
    else:
        flags |= {"data_dir": data / "val", "pretrained_model": data / "weights.pth", "save_json_path": out / "names"}
    script = {"stopped": "train"}.get(kind, kind)
    return [f"{ROOT / script}.py", *(f"--{name}={value}" for name, value in flags.items())]


def fork(kind: str, command: list[str], output: Path, processes: int) -> list[int]:
    """Starts the processes of a run; returns their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = command
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        run_script(MAINS[kind])  # raises SystemExit, on which the child ends
    return children


def end(child: int, deadline: float) -> int | str:
    """The exit code of a child, negative for a signal; "hangs" (and is killed) after the deadline."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.02)


def run(kind: str, data: Path, out: Path, args: argparse.Namespace) -> tuple[int | str, ...]:
    """One run; the exit codes of its processes, or of its launcher."""
    out.mkdir()
    command, output = command_line(kind, data, out), out / "output"
    deadline = time.monotonic() + PATIENCE
    if args.launcher:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--monitor_interval=0.1"]
        with open(output, "w") as file:
            full = [*launcher, f"--nproc_per_node={args.processes}", *command]
            children = [subprocess.Popen(full, stdout=file, stderr=file, start_new_session=True).pid]
    else:
        children = fork(kind, command, output, args.processes)
    if kind == "stopped":
        while time.monotonic() < deadline and not (
            output.exists() and re.search(r"train batch 1\]", output.read_text())
        ):
            time.sleep(0.02)
        for child in children:
            os.kill(child, signal.SIGTERM)
    return tuple(end(child, deadline) for child in children)


def keep_busy(count: int) -> list[int]:
    """Processes that compute until they are killed or their parent is gone."""
    children = []
    for _ in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        parent = os.getppid()
        while os.getppid() == parent:
            sum(range(100000))
        os._exit(0)
    return children


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(MAINS), help="of " + ", ".join(MAINS))
    parser.add_argument("--load", type=int, default=0, help="processes that keep the machine busy meanwhile")
    parser.add_argument("--launcher", action="store_true")
    args = parser.parse_args()
    kinds, counts, unexpected = args.kinds.split(","), Counter(), 0
    folder, parent, busy = Path(tempfile.mkdtemp()), os.getpid(), keep_busy(args.load)
    try:
        make_data(folder)
        for number in range(args.runs):
            kind, out = kinds[number % len(kinds)], folder / f"run{number}"
            codes = run(kind, folder, out, args)
            counts[kind, codes] += 1
            wanted = (1 if args.launcher else 143) if kind == "stopped" else 0
            if set(codes) != {wanted}:
                unexpected += 1
                print(f"run {number}, {kind}: {codes}, should be {wanted}\n{(out / 'output').read_text()}", flush=True)
            shutil.rmtree(out)
            if number % 20 == 19:
                print(f"{number + 1} runs, {unexpected} of them not as they should", flush=True)
    finally:
        if os.getpid() == parent:  # a child leaves by way of here, too
            for child in busy:
                os.kill(child, signal.SIGKILL)
            shutil.rmtree(folder)
    for (kind, codes), count in sorted(counts.items(), key=str):
        print(f"{kind:8} {count:4} times {codes}")
    print(f"{args.runs} runs of {args.processes} processes: {unexpected} ended otherwise than they should")
    sys.exit(unexpected > 0)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
