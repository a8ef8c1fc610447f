"""The record of a run: its flags, versions, processor and seed, in run_1.json in its folder.

Every start writes the next file, and a checkpoint's manifest names the record of its run.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from utils import __version__
from utils.console import log, warn
from utils.errors import UserError
from utils.files import read_text, write_text
from utils.flags import Flags
from utils.flags.parsing import as_typed
from utils.processes import world_size
from utils.training.checkpoint import MANIFEST

ROOT = Path(__file__).resolve().parents[2]

# Packages besides PyTorch that affect a run's results.
PACKAGES = ("torchvision", "opencv-python", "opencv-python-headless", "pillow", "numpy", "nvidia-dali-cuda120")


def describe_run(args: Flags, seed: int | None, device: torch.device, resumed: Path | None) -> dict[str, Any]:
    """The record of a run, as plain data.

    Args:
        args: train.py's flags with their final values.
        seed: the run's.
        device: of this process.
        resumed: the checkpoint that the run continues from, or None.
    """
    return {
        "command": shlex.join(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "resumed": str(resumed) if resumed is not None else None,
        "version": __version__,
        "commit": project_commit(),
        "versions": versions(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type.upper()} ({platform.machine()})",
        "processes": world_size(),
        "seed": seed,
        "given": sorted(args.given),
        "flags": args.values(),
    }


def versions() -> dict[str, str | None]:
    """The versions of Python, PyTorch, CUDA (None in a CPU build) and the installed ones of `PACKAGES`."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def project_commit(root: Path = ROOT) -> str | None:
    """The commit of this project's checkout, with "+ changes" if files were modified; None without git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout

    try:
        checkout, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        if not root.samefile(checkout):  # a copy inside another project's checkout
            return None
        return f"{commit} + changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def write_record(folder: Path, record: dict[str, Any]) -> str | None:
    """Writes a record into a run's folder, next to those of earlier runs.

    Returns:
        The file's name. None if it could not be written; then a warning is printed, and the run continues.
    """
    numbers = [path.stem.removeprefix("run_") for path in folder.glob("run_*.json")]
    name = f"run_{1 + max((int(number) for number in numbers if number.isdecimal()), default=0)}.json"
    try:
        write_text(folder / name, json.dumps(record, indent=1) + "\n", "--model_save_dir")
    except UserError as error:
        warn(f"the flags of this run are not recorded: {error}")
        return None
    return name


def read_flags_of(checkpoint: Path) -> tuple[Path, dict[str, Any]]:
    """The record of the run that saved a checkpoint, and that run's flags.

    Raises:
        OSError, ValueError, KeyError, TypeError, RecursionError: it is missing or damaged.
    """
    name = json.loads(read_text(checkpoint / MANIFEST, limit=1))["record"]
    path = checkpoint.resolve().parent / Path(name).name
    return path, dict(json.loads(read_text(path, limit=1))["flags"])


def note_changed_flags(args: Flags, checkpoint: Path) -> None:
    """Prints in one line which flags differ from those of the resumed run."""
    try:
        path, before = read_flags_of(checkpoint)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        warn(f"{checkpoint} has no record of its flags, so they are not compared with this run's")
        return
    now = {name: value for name, value in args.values().items() if name in before and name != "checkpoint"}
    changed = [
        f"--{name} {as_typed(value)} (was {as_typed(before[name])})"
        for name, value in now.items()
        if value != before[name]
    ]
    log(f"flags that differ from {path}: {', '.join(changed)}" if changed else f"the flags are those of {path}")


def as_markdown(record: dict[str, Any]) -> str:
    """A record as text for TensorBoard: tables of the flags, with given ones in bold, and of everything else."""
    flags, given = record["flags"], record["given"]
    about = {name: value for name, value in record.items() if name not in ("flags", "given", "versions")}
    rows = [*about.items(), *record["versions"].items()]
    lines = ["| run | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    lines += ["", "| flag | value |", "|---|---|"]
    lines += [
        f"| **--{name}** | **{as_typed(value)}** |" if name in given else f"| --{name} | {as_typed(value)} |"
        for name, value in flags.items()
    ]
    return "\n".join(lines)
