"""Freed memory is kept for the next tensor."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Page faults of a large block's second use: of a fresh process, as the setting cannot be taken back.
SECOND_USE = """
import resource, sys
from utils.system import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 << 20)
    block[::4096] = bytes(len(block) // 4096)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del block
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to")
def test_a_freed_block_is_used_again():
    faults = {}
    for how in ("keep", "default"):
        command = [sys.executable, "-c", SECOND_USE, how]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["keep"] < 10 < faults["default"]
