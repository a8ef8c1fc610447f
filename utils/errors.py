"""How a mistake of the user's is reported: one line, an exit code, no traceback."""

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

# Seconds that a process leaves to another one for its line.
PATIENCE = 10.0

# What can be done about too little memory: by anybody, and by the flags of most scripts.
FREE_MEMORY = "free some on this machine"
LESS_MEMORY = "lower --batch_size, or --image_shape"

# What PyTorch, CUDA's libraries and ONNX Runtime say of too little memory, beside what has a type of its own.
OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|CUDA error: out of memory|CU(BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED"
    r"|Failed to allocate memory for requested buffer"
).search


class UserError(Exception):
    """A problem that the user can mend: bad input, a missing file, weights that do not fit.

    The message is one line that names the flag or file, the value and the remedy.

    Args:
        message: that line. What a file or a command line brought into it may hold anything: line breaks, tabs, codes
            that move the cursor and halves of characters are written as escapes, so that it stays one line.
        exit_code: 2 for a command line that cannot work, 1 for everything met later.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__("".join(map(_printable, message)))
        self.exit_code = exit_code


def _printable(character: str) -> str:
    """A character of a message, or its escape; bytes of names that are not UTF-8 (PEP 383) are printed as they are."""
    if character.isprintable() or "\udc80" <= character <= "\udcff":
        return character
    return character.encode("unicode_escape").decode()


class FlagError(UserError):
    """A flag, or a combination of flags, that cannot work. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


class FormatError(ValueError):
    """A file is damaged, or not of the format it was read as.

    The message is the reason, without the file's name: who opened the file knows it, and makes a `UserError` of both.
    """


def report(message: str, script: str | None = None) -> None:
    """Prints the line of an error on stderr, after all that was printed before.

    Args:
        message: of a `UserError`.
        script: name to put before it; None: that of the script that runs.
    """
    flush_output()
    say_on_stderr(f"{script or os.path.basename(sys.argv[0])}: error: {message}")


def say_on_stderr(line: str) -> None:
    """Prints a line on stderr, unless that goes to a full disk or to nobody: nothing is lost but the line."""
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
    """The message without line breaks, which names within a file may have, and not as long as they may be."""
    return cut(" ".join(str(error).split()), 800)


def cut(text: str, length: int) -> str:
    """At most the first `length` characters."""
    return text if len(text) <= length else f"{text[:length]}..."


def reason(error: OSError) -> str:
    """What the system says was wrong with a file, without the file's name."""
    return (error.strerror or str(error)).lower()


def of_writing(error: BaseException) -> str | None:
    """Why a file could not be written. None for any other error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Writers of PyTorch and safetensors have errors of their own, told by name and text as below. Where they were given
    # a file of Python's, it is said before what was wrong.
    if type(error).__name__ != "SafetensorError" and not re.search(r"inline_container|StreamWriter", str(error)):
        return None
    if isinstance(error.__context__, OSError):
        return of_writing(error.__context__)
    return str(error).splitlines()[0]


def of_the_machine(error: BaseException, less_memory: str = FREE_MEMORY) -> str | None:
    """The line for an error that is the machine's. None for any other.

    Args:
        error: of memory, disks, packages or compilers that are missing, or any other.
        less_memory: what to do about too little memory.
    """
    if isinstance(error, BrokenPipeError):  # the reader of stdout (`| head`) has seen enough
        return None
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        name = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}{reason(error)}"
    # PyTorch's own errors, of a GPU and of a CPU, are told by name and text: nothing here imports it.
    text = str(error)
    if isinstance(error, MemoryError | OSError) or type(error).__name__ == "OutOfMemoryError" or OUT_OF_MEMORY(text):
        return f"out of memory: {less_memory} ({' '.join(text.split())[:200]})"
    if "no kernel image is available" in text:
        return (
            "this PyTorch has no code for this GPU: install one that has (https://pytorch.org/get-started/locally), or "
            "give --device=cpu"
        )
    if type(error).__name__ in ("TritonMissing", "GPUTooOldForTriton"):
        return f"--use_compile: PyTorch compiles for a GPU by Triton: {text.splitlines()[0][:200]}; leave the flag out"
    if "No working C++ compiler found" in text or "Failed to find C compiler" in text:  # of Inductor, of Triton
        return "--use_compile: there is no C++ compiler: install gcc and g++, or name them in the variables CC and CXX"
    if type(error).__name__ in ("BackendCompilerFailed", "InductorError"):
        lines = [line for line in text.splitlines() if line and not line.startswith("backend=")]
        return (
            "--use_compile: PyTorch's compiler fails on this network or processor "
            f"({lines[0][:200] if lines else type(error).__name__}): leave out whatever turns it on"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed: pip install -r requirements.txt"
    return None


def run_script(main: Callable[[], object], less_memory: str = FREE_MEMORY) -> NoReturn:
    """Runs a script's `main` and turns what is no fault of the program's into one line on stderr and an exit code.

    Args:
        main: the script.
        less_memory: what its flags can do about too little memory.
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
    """Flushes stdout; what cannot be written any more goes to nowhere, where the flush at exit would fail again."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
