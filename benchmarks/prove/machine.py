"""The relevant hardware and software of a machine, queried in a separate process, as a driver may hang or crash."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from utils import __version__
from utils.errors import UserError
from utils.system import usable_processors

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch", "torchvision", "numpy", "opencv-python", "opencv-python-headless", "timm", "onnx", "onnxscript",
    "onnxruntime", "onnxruntime-gpu", "tensorrt", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "triton", "pytest",
)  # fmt: skip
MODULES = ("pytest", "onnxscript", "onnxruntime", "tensorrt", "nvidia.dali")


@dataclass
class Machine:
    """A machine.

    Attributes:
        gpu: name of its first GPU; None if PyTorch can use none.
        why_no_gpu: PyTorch's reason if there is none.
        gpus: number of GPUs.
        gpu_memory: memory of the first GPU, in bytes.
        processors: number of processors that this process may use.
        modules: the installed ones of `MODULES`.
        providers: ONNX Runtime's execution providers.
        versions: versions of this toolbox, the system, Python, CUDA, cuDNN and `PACKAGES`.
    """

    gpu: str | None = None
    why_no_gpu: str = ""
    gpus: int = 0
    gpu_memory: int = 0
    processors: int = 1
    modules: list[str] = field(default_factory=list)
    providers: list[str] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def look() -> dict[str, Any]:
    """This machine as the fields of a `Machine`; initializes CUDA."""
    import torch

    found: dict[str, Any] = {"processors": usable_processors()}
    found["modules"] = [name for name in MODULES if _is_there(name)]
    if find_library("nvinfer") and "tensorrt" not in found["modules"]:  # without its Python package
        found["modules"].append("tensorrt")
    versions: dict[str, str | None] = {"toolbox": __version__, "system": platform.platform(), "processor": _processor()}
    versions |= {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    versions["torch"] = torch.__version__
    if "onnxruntime" in found["modules"]:
        import onnxruntime

        found["providers"] = onnxruntime.get_available_providers()
    if torch.cuda.is_available():
        try:
            torch.ones(1, device="cuda").add_(1).item()
            about = torch.cuda.get_device_properties(0)
            found |= {"gpu": about.name, "gpus": torch.cuda.device_count(), "gpu_memory": about.total_memory}
            versions["cudnn"] = str(torch.backends.cudnn.version())
        except RuntimeError as error:
            found["why_no_gpu"] = str(error).splitlines()[0]
    elif torch.version.cuda is None:
        found["why_no_gpu"] = f"torch {torch.__version__} is built without CUDA"
    else:
        found["why_no_gpu"] = f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no GPU: see nvidia-smi"
    return {**found, "versions": versions}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def find_machine(environment: dict[str, str], seconds: float = 120.0) -> Machine:
    """Queries this machine in a process with these additional environment variables.

    Raises:
        UserError: PyTorch cannot be imported, or does not answer.
    """
    program = "import json; from benchmarks.prove.machine import look; print(json.dumps(look()))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"PyTorch did not find a GPU or its absence within {seconds:.0f} s: see nvidia-smi, or give --cpu"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"{sys.executable} cannot import a required package ({last}): run bash run.sh setup")
    return Machine(**json.loads(done.stdout.strip().splitlines()[-1]))
