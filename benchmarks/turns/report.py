"""The tables of races, with a description of the machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

# Name of an instruction set -> variables that restrict PyTorch and oneDNN to it. (ONNX Runtime, OpenVINO and Paddle
# Inference use all instructions, except in their own oneDNN.)
ISAS = {
    "default": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX512_CORE_BF16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}
# The relevant instructions by their names in /proc/cpuinfo, the newest first.
_INSTRUCTIONS = {"amx_tile": "AMX", "avx512_bf16": "AVX512_BF16", "avx512f": "AVX-512", "avx2": "AVX2"}


def instructions() -> str:
    """The newest relevant vector instructions of this processor."""
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:
        flags = set()
    found = (name for flag, name in _INSTRUCTIONS.items() if flag in flags)
    return next(found, torch.backends.cpu.get_cpu_capability())


def useful_isas(wanted: Iterable[str]) -> list[str]:
    """The chosen `ISAS`, without those that change nothing on this processor."""
    return [isa for isa in wanted if isa == "default" or (isa != instructions() and instructions() != "AVX2")]


def machine(threads: int, packages: Sequence[str], isa: str = "default") -> str:
    """Processor, instructions, threads and versions, in one line."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        text = Path("/proc/cpuinfo").read_text()
        values = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", text, re.MULTILINE))
        family = f" (family {values['cpu family']}, model {values['model']})" if "cpu family" in values else ""
        name = values.get("model name", name) + family
    installed = [each for each in packages if importlib.util.find_spec(each) is not None]
    versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in installed)
    limit = "" if isa == "default" else f", PyTorch and oneDNN restricted to {isa}"
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    used = f"{threads} thread{'s' * (threads > 1)}"
    return f"{name}, {instructions()}{limit}, {os.cpu_count()} cores, {used}; {python}, {versions}"


def table(
    rows: Mapping[str, Mapping[str, float]], contestants: Sequence[str], shares: Mapping[str, tuple[str, Sequence[str]]]
) -> str:
    """A table in Markdown: images per second, and a column for each share.

    Args:
        rows: titles -> the images per second of each contestant that took part.
        contestants: the columns; contestants that never took part are left out.
        shares: title of a column -> a contestant, and the contestants whose fastest it is compared with.
    """
    columns = [name for name in contestants if any(name in row for row in rows.values())]
    lines = [f"| | {' | '.join((*columns, *shares))} |", f"|---|{'--:|' * (len(columns) + len(shares))}"]
    for title, row in rows.items():
        cells = [f"{row[name]:.1f}" if name in row else "" for name in columns]
        for name, others in shares.values():
            fastest = max((row[other] for other in others if other in row), default=0.0)
            cells.append(f"{row[name] / fastest:.2f}" if name in row and fastest else "")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(path: Path, name: str, text: str) -> None:
    """Puts a text between the lines `<!-- NAME -->` and `<!-- /NAME -->` of a file, or into a new file."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin in old and end in old:
        text = f"{old[: old.index(begin)]}{begin}{text}\n{old[old.index(end) :]}"
    path.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
