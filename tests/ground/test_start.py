"""What a script imports before it does anything: nothing that it may not need and that takes long to import."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[str]:
    """The modules that a file imports as soon as it is imported, by their full names."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def everything_imported(script: str) -> set[str]:
    """The same with all that the modules of this project import in turn."""
    found, left = set(), imported(ROOT / script)
    while left:
        name = left.pop()
        found.add(name)
        parts = name.split(".")
        for path in (ROOT.joinpath(*parts, "__init__.py"), ROOT.joinpath(*parts).with_suffix(".py")):
            if path.is_file():
                left |= imported(path) - found
        if len(parts) > 1 and ".".join(parts[:-1]) not in found:
            left.add(".".join(parts[:-1]))
    return found


@pytest.mark.parametrize("package", ["PIL", "filelock", "matplotlib", "models", "onnx", "onnxruntime", "openvino",
                                     "sympy", "tensorboard", "torchvision", "utils.training", "yaml"])  # fmt: skip
def test_predict_imports_little(package):
    assert "utils.deploy.exported" in (names := everything_imported("predict.py"))
    assert {name for name in names if name == package or name.startswith(f"{package}.")} == set()


def test_an_old_python_is_named_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 10))
    with pytest.raises(SystemExit, match=r": error: Python 3\.10 or newer is needed, and this is"):
        runpy.run_path(str(ROOT / "utils/__init__.py"))
    for script in ("train.py", "eval.py", "infer.py", "predict.py", "reader.py", "ema_clean.py", "utils/__init__.py"):
        ast.parse((ROOT / script).read_text(encoding="utf-8"), feature_version=(3, 8))  # else it cannot say so
