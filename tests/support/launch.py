"""A script in one process or several, as a launcher starts them, but forked from one that has imported everything: what
takes seconds with a launcher takes a fraction of one.

Beyond a launcher it notes which images are opened, and kills processes in the middle of their work.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

ROOT = Path(__file__).resolve().parents[2]

# Seconds that processes have to end by themselves once one of them has failed. (Those that meet an error that all of
# them meet wait for the launcher to end them.)
PATIENCE = 30.0


@dataclass
class Result:
    """What came of it: the exit code of each process (negative: killed by that signal), the lines of all of them on
    stdout and stderr, and the paths of the images opened, in no particular order."""

    codes: list[int]
    out: list[str]
    err: list[str]
    opened: list[str]

    @property
    def code(self) -> int:
        """The exit code of the first process."""
        return self.codes[0]


class Running:
    """A script that has been started, in a process group of its own: what tests need of a `subprocess.Popen`.

    Attributes:
        pid: of its process.
        stdout: its lines on stdout and stderr.
        returncode: its exit code (negative: killed by that signal), once `communicate` has returned.
    """

    def __init__(self, output: Path, code: Path) -> None:
        self.stdout = open(output)  # noqa: SIM115
        self.pid = int(self.stdout.readline())
        self.returncode: int | None = None
        self._code = code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 60.0) -> tuple[str, None]:
        """What it prints until it ends; it is killed when it takes longer than that many seconds."""
        timer = threading.Timer(timeout, os.killpg, (self.pid, signal.SIGKILL))
        timer.start()
        with self.stdout:
            output = self.stdout.read()
        timer.cancel()
        deadline = time.monotonic() + timeout
        while not self._code.exists():
            assert time.monotonic() < deadline, "its output has ended, and it runs on"
            time.sleep(0.005)
        self.returncode = int(self._code.read_text())
        return output, None


class Launcher:
    """Runs scripts, in one process or in several.

    Args:
        project: whether they are the project's; those of others find PyTorch imported, and nothing of the project.
    """

    def __init__(self, project: bool = True) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        if not project:
            del environment["PYTHONPATH"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, __file__, *["project"] * project]
        self._server = subprocess.Popen(command, env=environment, **pipes)
        self._started = 0

    def __call__(
        self, script: str, count: int, folder: Path, *flags: str, kill: tuple[str, int] | None = None
    ) -> Result:
        """Runs a script in a folder.

        Args:
            script: its name, or the path of one that is not the project's.
            count: number of processes; 1: as without a launcher.
            folder: where to run it.
            flags: its command line.
            kill: who is killed (SIGKILL) when the last process opens its n-th image: "one", that process, or "all".
        """
        for name in ("codes", "out", "err"):
            (folder / f".{name}").write_text("")
        (folder / ".opened").unlink(missing_ok=True)
        self._ask(script=str(ROOT / script), count=count, folder=str(folder), flags=flags, kill=kill)
        ended = int(self._server.stdout.readline())
        (folder / ".opened").touch()
        codes, *lines = ((folder / f".{name}").read_text().splitlines() for name in ("codes", "out", "err", "opened"))
        return Result([int(code) for code in codes] or [ended] * count, *lines)

    def start(self, script: str, folder: Path, *flags: str) -> Running:
        """Starts a script in one process, and leaves it running."""
        self._started += 1
        output, code = (folder / f".{name}{self._started}" for name in ("output", "code"))
        os.mkfifo(output)
        files = {"output": str(output), "code": str(code)}
        self._ask(script=str(ROOT / script), count=1, folder=str(folder), flags=flags, kill=None, **files)
        return Running(output, code)

    def _ask(self, **job: object) -> None:
        print(json.dumps(job), file=self._server.stdin, flush=True)

    def close(self) -> None:
        self._server.stdin.close()
        assert self._server.wait(timeout=60) == 0


def serve(project: bool) -> None:
    """Runs the jobs that come in on stdin. What is not to be left running is answered with 0, or what killed it."""
    if project:
        sys.path.insert(0, str(ROOT))
        # What a run imports late: its optimizer, and its curves.
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
        import torch._dynamo
        import torch.utils.tensorboard  # noqa: F401

        import infer  # noqa: F401
        import predict  # noqa: F401
        import reader  # noqa: F401
        import train  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            (run_beside if "output" in job else run_processes)(job)
        if "output" not in job:
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


def run_beside(job: dict[str, Any]) -> None:
    """Runs a job of one process, which first tells its number, notes its exit code, and ends this process."""
    pid = os.fork()
    if not pid:
        os.setsid()
        os.chdir(job["folder"])
        output = os.open(job["output"], os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        print(os.getpid(), flush=True)
        run_process(job, 0, 0)
    _, status = os.waitpid(pid, 0)
    code = Path(job["code"])
    code.with_suffix(".part").write_text(str(os.waitstatus_to_exitcode(status)))
    code.with_suffix(".part").rename(code)
    os._exit(0)


def run_processes(job: dict[str, Any]) -> None:
    """Runs a job in a process group of its own, notes the exit codes, and ends this process."""
    os.setsid()
    os.chdir(job["folder"])
    for stream, name in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), stream)
    port = os.pipe()
    running = {}
    for rank in range(job["count"]):
        pid = os.fork()
        if not pid:
            run_process(job, rank, int(os.read(port[0], 5)))
        running[pid] = rank
    # As a launcher, this process has the store: it outlives the processes. It has a thread, so it is not forked.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(port[1], f"{store.port:05}".encode() * job["count"])
    codes: dict[int, int] = {}
    deadline = time.monotonic() + 120
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
            if any(codes.values()):
                deadline = min(deadline, time.monotonic() + PATIENCE)
        elif time.monotonic() > deadline:
            os.write(2, f"still running: processes {sorted(running.values())}\n".encode())
            os.kill(0, signal.SIGKILL)
        time.sleep(0.005)
    Path(".codes").write_text("".join(f"{codes[rank]}\n" for rank in range(job["count"])))
    os._exit(0)


def run_process(job: dict[str, Any], rank: int, port: int) -> None:
    """Runs the script as the process `rank`, and ends."""
    count = job["count"]
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
        os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    sys.argv = [job["script"], *job["flags"]]
    watch_images(job["kill"] if rank == count - 1 else None)
    code = 0
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch_images(kill: tuple[str, int] | None) -> None:
    """Notes each image that this process, or a worker of its, opens to read; kills as `Launcher` says."""
    log = os.open(".opened", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    seen = 0

    def note(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event != "open" or not re.search(r"\.(jpg|png)$", str(arguments[0])):
            return
        if arguments[2] & os.O_ACCMODE != os.O_RDONLY:
            return
        os.write(log, f"{arguments[0]}\n".encode())
        seen += 1
        if kill and seen == kill[1]:
            os.kill(os.getpid() if kill[0] == "one" else 0, signal.SIGKILL)

    sys.addaudithook(note)


if __name__ == "__main__":
    serve("project" in sys.argv)
