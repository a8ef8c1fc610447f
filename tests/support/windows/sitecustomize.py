"""Makes Python lack what it lacks on Windows, as far as PyTorch can do without it here: for tests, by PYTHONPATH.

Python imports this at its start, in the process of a script and in those that it spawns.
"""

import mmap
import multiprocessing
import os
import signal
import sys
import tempfile

import utils.system

sys.modules |= dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios"))
for module, names in {
    os: (
        *("O_CLOEXEC", "O_NONBLOCK", "chown", "fork", "getuid", "memfd_create", "mkfifo", "pread"),
        *("sched_getaffinity", "symlink", "sysconf"),
    ),
    signal: ("SIGALRM", "SIGHUP", "pthread_sigmask"),
}.items():
    for name in names:
        delattr(module, name)
utils.system.WINDOWS = True
multiprocessing.set_start_method("spawn")


class NamedMemory(mmap.mmap):
    """Takes the names that memory may have on Windows, for which it uses files here."""

    def __new__(cls, file, length, *arguments, tagname=None, **others):
        if tagname is None:
            return super().__new__(cls, file, length, *arguments, **others)
        with open(os.path.join(tempfile.gettempdir(), tagname), "a+b") as memory:
            memory.truncate(length)
            return super().__new__(cls, memory.fileno(), length)


mmap.mmap = NamedMemory
