"""Reports a user's mistake in one line, with an exit code and no traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import time
from collections.abc import Callable
from typing import NoReturn

# Seconds that a process waits for another one to print its line.
PATIENCE = 10.0

# Remedies for too little memory: in general, and for the flags of most scripts.
FREE_MEMORY = "free memory on this machine"
LESS_MEMORY = "lower --batch_size, or --image_shape"

# Out-of-memory messages of PyTorch, CUDA's libraries and ONNX Runtime that have no exception type of their own.
OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|CUDA error: out of memory|CU(BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED"
    r"|Failed to allocate memory for requested buffer"
).search


class UserError(Exception):
    """A problem that the user can fix: bad input, a missing file, weights that do not fit.

    The message is one line that names the flag or file, the value and the remedy.

    Args:
        message: that line. Text from files and command lines may contain anything: line breaks, tabs, cursor codes and
            half characters are escaped, so that the message stays one line.
        exit_code: 2 for a command line that cannot work, 1 for everything met later.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__("".join(map(_printable, message)))
        self.exit_code = exit_code


def _printable(character: str) -> str:
    """A character of a message, or its escape; bytes of file names that are not UTF-8 (PEP 383) are printed
    unchanged.
    """
    if character.isprintable() or "\udc80" <= character <= "\udcff":
        return character
    return character.encode("unicode_escape").decode()


class FlagError(UserError):
    """A flag, or a combination of flags, that cannot work. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


class FormatError(ValueError):
    """A file is damaged or has another format than expected.

    The message is the reason without the file's name; the caller, which knows the name, combines both into a
    `UserError`.
    """


def report(message: str, script: str | None = None) -> None:
    """Prints an error's line on stderr, after everything printed before.

    Args:
        message: of a `UserError`.
        script: name to put before it; None: the running script's.
    """
    flush_output()
    say_on_stderr(f"{script or os.path.basename(sys.argv[0])}: error: {message}")


def say_on_stderr(line: str) -> None:
    """Prints a line on stderr; drops it if stderr is closed or its disk is full."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def report_interruption() -> None:
    """Says that Ctrl-C has ended the script."""
    say_on_stderr(f"{os.path.basename(sys.argv[0])}: interrupted")


def report_once(message: str, script: str | None = None) -> None:
    """The same, for an error in the command line or the machine, that every process of a launcher meets here.

    The first one on this machine prints it. The others wait for the launcher to end them once that one has failed: if
    one of them failed before, the launcher would end the first before it has said why.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        report(message, script)
    else:
        time.sleep(PATIENCE)


def one_line(error: Exception) -> str:
    """The message on one line and of limited length, as names within a file may contain line breaks and be very
    long.
    """
    return cut(" ".join(str(error).split()), 800)


def cut(text: str, length: int) -> str:
    """At most the first `length` characters."""
    return text if len(text) <= length else f"{text[:length]}..."


def reason(error: OSError) -> str:
    """The system's reason why a file failed, without the file's name."""
    return (error.strerror or str(error)).lower()


def of_writing(error: BaseException) -> str | None:
    """Why a file could not be written. None for any other error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # PyTorch's and safetensors' writers have their own errors, recognised by name and text as below. When they write to
    # a Python file object, the message begins with it.
    if type(error).__name__ != "SafetensorError" and not re.search(r"inline_container|StreamWriter", str(error)):
        return None
    if isinstance(error.__context__, OSError):
        return of_writing(error.__context__)
    return str(error).splitlines()[0]


def of_the_machine(error: BaseException, less_memory: str = FREE_MEMORY) -> str | None:
    """The line for an error caused by the machine; None for any other error.

    Args:
        error: about memory, disks, missing packages or compilers, or any other.
        less_memory: the remedy for too little memory.
    """
    if isinstance(error, BrokenPipeError):  # the reader of stdout (`| head`) has seen enough
        return None
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        name = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}{reason(error)}"
    # PyTorch's own errors, for GPU and CPU, are recognised by name and text, as this module must not import PyTorch.
    text = str(error)
    if isinstance(error, MemoryError | OSError) or type(error).__name__ == "OutOfMemoryError" or OUT_OF_MEMORY(text):
        return f"out of memory: {less_memory} ({' '.join(text.split())[:200]})"
    if "no kernel image is available" in text:
        return (
            "this build of PyTorch does not support this GPU: install one that does "
            "(https://pytorch.org/get-started/locally), or give --device=cpu"
        )
    if type(error).__name__ in ("TritonMissing", "GPUTooOldForTriton"):
        return (
            f"--use_compile: PyTorch needs Triton to compile for a GPU: {text.splitlines()[0][:200]}; leave the "
            "flag out"
        )
    if "No working C++ compiler found" in text or "Failed to find C compiler" in text:  # of Inductor, of Triton
        return "--use_compile: no C++ compiler was found: install gcc and g++, or set the variables CC and CXX"
    if type(error).__name__ in ("BackendCompilerFailed", "InductorError"):
        lines = [line for line in text.splitlines() if line and not line.startswith("backend=")]
        return (
            "--use_compile: PyTorch's compiler fails on this network or processor "
            f"({lines[0][:200] if lines else type(error).__name__}): leave out the flag that turns it on"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed: pip install -r requirements.txt"
    return None


def run_script(main: Callable[[], object], less_memory: str = FREE_MEMORY) -> NoReturn:
    """Runs a script's `main` and turns errors of the user and the machine into one line on stderr and an exit code.

    Args:
        main: the script.
        less_memory: which of its flags save memory.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # there is none if it was closed
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding
    try:
        main()
    except UserError as error:
        report_once(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        report_interruption()
        sys.exit(130)
    except BrokenPipeError:
        flush_output()
        sys.exit(141)
    except Exception as error:
        line = of_the_machine(error, less_memory)
        if line is None:
            raise
        report_once(line)
        sys.exit(1)
    sys.exit(0)


def flush_output() -> None:
    """Flushes stdout; discards what cannot be written, so that the flush at exit does not fail again."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
