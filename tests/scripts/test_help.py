"""Every script of the repository says what it does when asked, and refuses in one line what it does not know."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "data", "docs", "scripts", "utils")  # not .venv, whose files need not even be UTF-8
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).glob("**/*.py")))
    if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")
)

# What argparse asks for before it looks at the rest.
REQUIRED = {
    "benchmarks/prove/inference.py": ["--contestant=eager", "--folder=x"],
    "benchmarks/prove/part_of_list.py": ["--data_dir=x", "--folder=x", "--train=1", "--val=1"],
    "benchmarks/serving/load.py": ["--model_file=x"],
    "data/cifar10/prepare.py": ["x"],
    "docs/make_paddle_parity.py": ["x"],
}


@pytest.fixture
def start(monkeypatch, capsys):
    """Runs a script in this process, as `python SCRIPT WORDS` does. Returns its exit code, stdout and stderr."""

    def run(script: str, *words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *words])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


def test_the_scripts_are_found():
    assert {"train.py", "utils/convert_weights.py", "docs/make_flags.py", "data/digits/prepare.py"} < set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(start, script):
    code, out, err = start(script, "--help")
    assert code == 0 and not err
    assert "--help" in out and len(out.splitlines()) > 4, "it says what the script does"


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_flags(start, script):
    code, out, err = start(script, *REQUIRED.get(script, []), "--no_such_flag=1")
    path = Path(script)
    called = path.parent.name if path.name == "__main__.py" else path.name
    assert code == 2 and not out
    assert err.startswith(f"{called}: error: ") and "--no_such_flag" in err and err.count("\n") == 1


@pytest.mark.parametrize("script", ["data/digits/prepare.py", "docs/make_flags.py"])
def test_unexpected_words(start, script):
    code, _, err = start(script, "words")
    assert code == 2 and err.startswith(f"{Path(script).name}: error: ") and "words" in err and err.count("\n") == 1


def test_the_download_of_imagenet():
    command = ["bash", str(ROOT / "data/ILSVRC2012/download_imagenet2012.sh")]
    asked = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert asked.returncode == 0 and asked.stdout.startswith("Downloads ImageNet")
    refused = subprocess.run([*command, "--fast"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "download_imagenet2012.sh: error: unexpected argument --fast: it takes none (see --help)\n"
