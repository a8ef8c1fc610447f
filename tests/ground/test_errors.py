"""Mistakes and faults are one line and an exit code."""

from __future__ import annotations

import errno
import sys

import pytest

from utils import errors
from utils.errors import FlagError, UserError, run_script


def test_a_flag_error_exits_with_2():
    assert FlagError("x").exit_code == 2


def test_a_message_is_one_line_whatever_a_file_brings_into_it():
    message = "a\nb\t\x1b[2J\ud800 is no name of 猫, as caf\udce9 and é are"
    assert str(UserError(message)) == r"a\nb\t\x1b[2J\ud800 is no name of 猫, as caf" + "\udce9 and é are"


def fails_with(error: BaseException):
    def main():
        print("so far")
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such file"), 1, "script.py: error: no such file"),
        (FlagError("--lr: no"), 2, "script.py: error: --lr: no"),
        (KeyboardInterrupt(), 130, "script.py: interrupted"),
        (BrokenPipeError(), 141, ""),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.jpg"),
            1,
            "script.py: error: a.jpg: no space left on device",
        ),
        (ModuleNotFoundError(name="cv2"), 1, "script.py: error: the package cv2 is not installed: pip install -r req"),
        (
            MemoryError("9 GB\nor so"),
            1,
            "script.py: error: out of memory: free memory on this machine (9 GB or so)",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            1,
            "script.py: error: out of memory: free memory on this machine (cuDNN error: CUDNN_STATUS_ALLOC_FAILED)",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
            1,
            "script.py: error: out of memory: free memory on this machine (CUDA error: out of memory CUDA kernel",
        ),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"),
            1,
            "script.py: error: this build of PyTorch does not support this GPU: install one that does ",
        ),
        (
            type("TritonMissing", (RuntimeError,), {})("Cannot find a working triton installation.\nMore"),
            1,
            "script.py: error: --use_compile: PyTorch needs Triton to compile for a GPU: Cannot find a working triton",
        ),
        (
            RuntimeError("InductorError: RuntimeError: Failed to find C compiler. Please specify via CC\nTraceback"),
            1,
            "script.py: error: --use_compile: ",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_no_fault_of_the_program_is_one_line(monkeypatch, capsys, error, code, line):
    monkeypatch.setattr(sys, "argv", ["/some/where/script.py"])
    with pytest.raises(SystemExit) as end:
        run_script(fails_with(error))
    captured = capsys.readouterr()
    assert end.value.code == code
    assert captured.out == "so far\n"
    assert captured.err.startswith(line) and captured.err.count("\n") == bool(line)


def test_a_script_says_what_its_flags_can_do_about_memory(capsys):
    with pytest.raises(SystemExit):
        run_script(fails_with(MemoryError("9 GB")), less_memory="lower --gpu_mem")
    assert "error: out of memory: lower --gpu_mem (9 GB)\n" in capsys.readouterr().err


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_script(fails_with(ZeroDivisionError()))
    with pytest.raises(SystemExit) as end:
        run_script(lambda: None)
    assert end.value.code == 0


def test_the_first_process_of_a_machine_speaks_for_all(monkeypatch, capsys):
    monkeypatch.setattr(errors, "PATIENCE", 0.0)
    for number in ("1", "0"):
        monkeypatch.setenv("LOCAL_RANK", number)
        errors.report_once(f"of {number}", "train.py")
    assert capsys.readouterr().err == "train.py: error: of 0\n"
