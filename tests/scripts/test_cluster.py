"""scripts/cluster/: the flags in the files are ours, and a job of Slurm is queued again when its time is over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.flags import parse

CLUSTER = Path(__file__).resolve().parents[2] / "scripts" / "cluster"
needs_bash = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="needs bash")

# What Slurm has: `srun` runs the command on this machine, `scontrol` notes what it is asked for.
COMMANDS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    "scontrol": 'if [ "$1" = show ]; then printf "first\\nsecond\\n"; else echo "$@" >>asked; fi',
    "python": 'echo "$@" >command\nif [[ $* == *--wait* ]]; then trap "exit 1" TERM; touch up; '
    "while true; do sleep 0.01; done; fi",
}


def commands(path: Path) -> list[list[str]]:
    """The commands of all containers in a file."""
    found: list[list[str]] = []

    def look(node: Any) -> None:
        if isinstance(node, dict):
            found.extend([node["command"]] if "command" in node else [])
            for value in node.values():
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    for document in yaml.safe_load_all(path.read_text()):
        look(document)
    return found


@pytest.mark.parametrize("name", [path.name for path in sorted(CLUSTER.glob("*.yaml"))])
def test_flags_in_kubernetes_files_are_ours(name):
    (command,) = commands(CLUSTER / name)
    place = next(place for place, word in enumerate(command) if word.endswith(".py"))
    args = parse(command[place].removesuffix(".py"), command[place + 1 :])
    assert (args.checkpoint == "auto") if name.startswith("train") else args.resume  # it goes on


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Starts run.slurm, with words, in a job of two machines."""
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    environment = os.environ | job | {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    environment.pop("PYTHON", None)

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = ["bash", str(CLUSTER / "run.slurm"), *words]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    return start


@needs_bash
@pytest.mark.parametrize(("script", "again"), [("train.py", "--checkpoint=auto"), ("infer.py", "--resume=True")])
def test_slurm_starts_the_launcher_on_all_machines(slurm, tmp_path, script, again):
    assert slurm(script, "--batch_size=8").wait(20) == 0
    command = (tmp_path / "command").read_text()
    assert command.startswith("-m torch.distributed.run --nnodes=2 --nproc_per_node=8 ")
    assert command.endswith(f"--rdzv_endpoint=first:29400 --rdzv_id=7.0 {script} {again} --batch_size=8\n")
    assert not (tmp_path / "asked").exists()


@needs_bash
def test_slurm_queues_a_job_again_whose_time_is_over(slurm, tmp_path):
    process = slurm("train.py", "--wait")
    deadline = time.monotonic() + 20
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 1
    assert (tmp_path / "asked").read_text() == "requeue 7\n"


@needs_bash
def test_slurm_refuses_what_does_not_go_on(slurm):
    process = slurm("reader.py")
    assert process.wait(20) == 2
    assert b"run.slurm: error: reader.py cannot be resumed" in process.stderr.read()
