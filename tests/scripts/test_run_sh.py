"""run.sh, the front door."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_sh(*arguments: str, root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", root / "run.sh", *arguments],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [(), ("trian",), ("--helpp",)])
def test_no_or_an_unknown_command_gets_the_usage(arguments):
    result = run_sh(*arguments)
    assert result.returncode == 2
    assert "usage: bash run.sh" in result.stderr
    assert result.stdout == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sh of its own")
def test_another_shell_hands_over_to_bash():
    done = subprocess.run(["sh", ROOT / "run.sh", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("error: unknown command trian")) == (2, 1), done.stderr


@pytest.mark.parametrize(
    "arguments", [("train",), ("train", "ResNet5O"), ("train", "resnet-50vd"), ("bench", "nothing"), ("serve",)]
)
def test_an_unknown_recipe_or_benchmark_is_one_line(arguments):
    result = run_sh(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("run.sh: error: ")
    assert result.stderr.count("\n") == 1
    assert ("did you mean ResNet50_vd?" in result.stderr) == (arguments[1:] == ("resnet-50vd",))


@pytest.fixture
def house(tmp_path) -> Path:
    """A copy of run.sh with requirement files that the stand-in for an interpreter, `bin/python`, need not install.

    The stand-in is a virtual environment's real interpreter, except that it records what pip is asked to do in
    `pip.log`, and that pip then fails as often as `pip.failures` says.
    """
    for name in ("run.sh", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    for module in ("cv2", "numpy", "PIL", "torch", "tqdm"):
        (site / f"{module}.py").touch()
    (site / "pip.py").write_text(
        "import pathlib, sys\n"
        f"log = pathlib.Path({str(tmp_path / 'pip.log')!r})\n"
        "words = sys.argv[1:]\n"
        "if '-r' in words:\n"
        "    words += pathlib.Path(words[words.index('-r') + 1]).read_text().split('\\n')\n"
        "log.write_text((log.read_text() if log.exists() else '') + '\\n'.join(words))\n"
        f"sys.exit(pathlib.Path({str(tmp_path / 'pip.fails')!r}).exists())\n"
    )
    return tmp_path


def setup(house: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_sh("setup", root=house, **{"PYTHON": str(house / "env" / "bin" / "python"), **environment})


def bring_torch(house: Path, version: str) -> None:
    """Lets the environment claim to have torch `version`."""
    info = next((house / "env").glob("lib/python*/site-packages")) / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")


def test_setup_installs_once(house):
    first = setup(house)
    assert first.returncode == 0, first.stderr
    asked = (house / "pip.log").read_text()
    assert "torch==2.13.0\n" in asked and "torchvision==0.28.0\n" in asked and "pytest" in asked

    again = setup(house)
    assert again.returncode == 0 and "up to date" in again.stdout
    assert (house / "pip.log").read_text() == asked

    with open(house / "requirements.txt", "a") as file:
        file.write("one-more\n")
    assert setup(house).returncode == 0
    assert "one-more" in (house / "pip.log").read_text()


@pytest.mark.parametrize(("version", "kept"), [("2.11.0+cu128", True), ("2.15.1", True), ("2.10.0", False)])
def test_a_torch_that_is_there_is_kept_if_new_enough(house, version, kept):
    bring_torch(house, version)
    assert setup(house).returncode == 0
    lines = (house / "pip.log").read_text().splitlines()
    assert (f"torch=={version}" in lines) == kept
    assert ("torch==2.13.0" in lines) != kept
    assert ("torchvision" in lines) == kept


def test_without_an_index_the_packages_that_are_there_do(house):
    (house / "pip.fails").touch()
    result = setup(house)
    assert result.returncode == 0 and "continuing with the packages" in result.stdout

    # A command does not try again, setup does.
    asked = (house / "pip.log").read_text()
    run_sh("bench", root=house, PYTHON=str(house / "env" / "bin" / "python"))
    assert (house / "pip.log").read_text() == asked
    (house / "pip.fails").unlink()
    assert "ready" in setup(house).stdout

    next((house / "env").glob("lib/python*/site-packages/torch.py")).unlink()
    (house / "pip.fails").touch()
    (house / "env" / ".requirements").unlink()
    result = setup(house)
    assert result.returncode == 1 and "could not be installed" in result.stderr


def test_opencv_without_system_libraries_is_replaced(house):
    next((house / "env").glob("lib/python*/site-packages/cv2.py")).write_text("raise ImportError('libGL.so.1')")
    assert setup(house).returncode == 0
    assert "opencv-python-headless>=" in (house / "pip.log").read_text()


def test_an_unusable_interpreter_is_one_line(house, tmp_path):
    old = tmp_path / "old"
    old.write_text("#!/usr/bin/env bash\nexit 1\n")
    old.chmod(0o755)
    for python in (str(old), "no-such-python"):
        result = setup(house, PYTHON=python)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1 and "3.10 to 3.13" in result.stderr


def test_an_environment_of_windows(house):
    """Git Bash finds the interpreter where Windows has it, active or not."""
    (house / "eval.py").write_text("import sys; print('eval', *sys.argv[1:])")
    setup(house)
    scripts = house / ".venv" / "Scripts"
    scripts.mkdir(parents=True)
    (scripts / "python.exe").write_text(f'#!/bin/sh\nexec "{house}/env/bin/python" "$@"\n')
    (scripts / "python.exe").chmod(0o755)
    for variables in ({"VIRTUAL_ENV": ""}, {"VIRTUAL_ENV": str(house / ".venv")}):
        result = run_sh("eval", "--topk=3", root=house, **{"PYTHON": "", **variables})
        assert result.returncode == 0, result.stderr
        assert result.stdout == "eval --topk=3\n"


def test_prove_takes_an_interpreter_that_brings_all(house):
    """Nothing is installed on a machine that has its own torch, torchvision and OpenCV."""
    (house / "benchmarks" / "prove").mkdir(parents=True)
    (house / "benchmarks" / "prove" / "__main__.py").write_text("import sys\nprint('proven', *sys.argv[1:])\n")
    environment = {"PYTHON": str(house / "env" / "bin" / "python")}
    bring_torch(house, "2.11.0+cu130")
    site = next((house / "env").glob("lib/python*/site-packages"))
    for module in ("torchvision", "safetensors", "yaml", "filelock"):
        (site / f"{module}.py").touch()
    result = run_sh("prove", "--minutes=5", root=house, **environment)
    assert (result.returncode, result.stdout) == (0, "proven --minutes=5\n"), result.stderr
    assert not (house / "pip.log").exists()
    (site / "torchvision.py").unlink()
    assert run_sh("prove", root=house, **environment).stdout.endswith("proven\n")
    assert (house / "pip.log").exists()
