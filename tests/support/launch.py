"""A script in several processes, as a launcher starts them, but forked from one that has imported everything: what
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
import time
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


class Launcher:
    """Runs scripts of the project in several processes."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen([sys.executable, __file__], env=environment, **pipes)

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
        job = {"script": str(ROOT / script), "count": count, "folder": str(folder), "flags": flags, "kill": kill}
        for name in ("codes", "out", "err", "opened"):
            (folder / f".{name}").write_text("")
        print(json.dumps(job), file=self._server.stdin, flush=True)
        ended = int(self._server.stdout.readline())
        codes, *lines = ((folder / f".{name}").read_text().splitlines() for name in ("codes", "out", "err", "opened"))
        return Result([int(code) for code in codes] or [ended] * count, *lines)

    def close(self) -> None:
        self._server.stdin.close()
        assert self._server.wait(timeout=60) == 0


def serve() -> None:
    """Runs the jobs that come in on stdin, one after the other, and answers each with 0, or what killed all of it."""
    sys.path.insert(0, str(ROOT))
    import torch._dynamo  # which optimizers import  # noqa: F401

    import infer  # noqa: F401
    import predict  # noqa: F401
    import reader  # noqa: F401
    import train  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            run_processes(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


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
    finally:
        sys.stdout.flush()
        os._exit(code)


def watch_images(kill: tuple[str, int] | None) -> None:
    """Notes each image that this process, or a worker of its, opens to read; kills as `Launcher` says."""
    log = os.open(".opened", os.O_WRONLY | os.O_APPEND)
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
    serve()
