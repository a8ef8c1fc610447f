"""What operating systems do differently."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

import pytest

from utils import system


def test_read_at_without_pread(tmp_path, monkeypatch):
    """Threads that share a file do not move each other's place in it."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 64)
    monkeypatch.delattr(os, "pread", raising=False)
    found = []

    def read(number):
        found.append((number, system.read_at(file, 100, number * 100)))

    with open(tmp_path / "file", "rb", buffering=0) as file:
        threads = [
            threading.Thread(target=lambda n=n: found.append((n, system.read_at(file, 100, n * 100))))
            for n in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert system.read_at(file, 100, 256 * 64 - 10) == bytes(range(246, 256))
    whole = bytes(range(256)) * 64
    assert sorted(found) == [(n, whole[n * 100 : n * 100 + 100]) for n in range(40)]


def test_a_file_that_somebody_has_open_is_replaced_a_little_later(tmp_path, monkeypatch):
    """On Windows; elsewhere the error is another one, and comes at once."""
    attempts = []

    def replace(source, target):
        attempts.append(source)
        if len(attempts) < 3:
            raise PermissionError(13, "it is open")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PermissionError):
        system.replace("a", "b")
    assert len(attempts) == 1
    monkeypatch.setattr(system, "WINDOWS", True)
    system.replace("a", "b")
    assert len(attempts) == 3
    monkeypatch.setattr(system, "RENAME_PATIENCE", 0.0)
    attempts.clear()
    with pytest.raises(PermissionError):
        system.replace("a", "b")


def test_sync_on_windows(tmp_path, monkeypatch):
    """Files are opened for writing, which changes nothing in them; folders are left to the system."""
    (tmp_path / "file").write_text("content")
    monkeypatch.setattr(system, "WINDOWS", True)
    opened = []
    monkeypatch.setattr(os, "open", lambda *a, real=os.open: opened.append(a) or real(*a))
    system.sync(tmp_path)
    system.sync(tmp_path / "file")
    assert opened == [(tmp_path / "file", os.O_RDWR)]
    assert (tmp_path / "file").read_text() == "content"


def test_processors_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert system.usable_processors() == 6


def test_workers_without_signal_masks(monkeypatch):
    """A worker ignores Ctrl-C by itself; where there are masks it is born deaf, and is left alone."""
    handled = []
    monkeypatch.setattr(signal, "signal", lambda *a: handled.append(a))
    system.ignore_interrupts()
    assert not handled
    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    with system.signals_kept_from_children(signal.SIGINT):
        system.ignore_interrupts()
    assert handled == [(signal.SIGINT, signal.SIG_IGN)]


def test_a_spawned_process_does_not_import_the_script():
    script = sys.modules["__main__"]
    with pytest.raises(ValueError), system.without_script():
        assert getattr(sys.modules["__main__"], "__file__", None) is None
        raise ValueError
    assert sys.modules["__main__"] is script


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was_after_a_pause(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ValueError), system.garbage_collection_paused():
            with system.garbage_collection_paused():
                pass
            assert not gc.isenabled()
            raise ValueError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
