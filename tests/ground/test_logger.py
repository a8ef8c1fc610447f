"""Lines for people and scripts, and the curves of a run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from training import ROOT, environment

from utils.console import check_readable, log, report_unreadable, warn
from utils.errors import UserError
from utils.training.curves import Curves


def test_only_the_main_process_speaks(monkeypatch, capsys):
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        log(f"a line of {rank}")
        warn(f"a warning of {rank}")
    assert capsys.readouterr() == ("a line of 0\n", "warning: a warning of 0\n")


def test_nothing_readable_at_all():
    check_readable({}, 0)
    check_readable({"a.jpg": "is empty"}, 1)
    with pytest.raises(UserError, match=r"^none of the 2 images can be read; the first: a\.jpg: is empty$"):
        check_readable({"a.jpg": "is empty", "b.jpg": "no such file"}, 0)
    with pytest.raises(UserError, match=r"^the image cannot be read: a\.jpg: is empty$"):
        check_readable({"a.jpg": "is empty"}, 0)


def test_unreadable_files_are_counted_and_the_first_five_named(capsys):
    report_unreadable({})
    report_unreadable({"a.jpg": "is empty"})
    report_unreadable({f"{number}.jpg": "is empty" for number in range(5)})
    report_unreadable({f"{number}.jpg": "is empty" for number in range(6)})
    five = "; ".join(f"{number}.jpg: is empty" for number in range(5))
    assert capsys.readouterr().err.splitlines() == [
        "warning: 1 unreadable image file was left out: a.jpg: is empty",
        f"warning: 5 unreadable image files were left out: {five}",
        f"warning: 6 unreadable image files were left out: {five}, ...",
    ]


def test_a_resumed_run_draws_its_earlier_epochs_too(tmp_path):
    """Those that are done again replace what they were."""
    past = [{"epoch": epoch, "train_loss": 3.0 - epoch} for epoch in range(3)]
    with Curves(tmp_path, past) as curves:
        curves.epoch(2, {"train_loss": 0.5})
        curves.epoch(3, {"train_loss": 0.25})
    expected = [*past[:2], {"epoch": 2, "train_loss": 0.5}, {"epoch": 3, "train_loss": 0.25}]
    assert json.loads((tmp_path / "curves.json").read_text()) == expected
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert past[2]["train_loss"] == 1.0  # the list that was handed in is left alone


FULL_DISK = """
import resource, sys
from pathlib import Path
from utils.training.curves import Curves

resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
with Curves(Path(sys.argv[1])) as curves:
    curves.step(1, {"loss": 2.0})
    curves.epoch(0, {"loss": 2.0, "test_acc1": 0.5})
"""


def test_curves_on_a_full_disk_are_one_warning(tmp_path):
    """TensorBoard's thread, too, says nothing more."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    (warning,) = result.stderr.splitlines()
    assert warning.startswith(f"warning: the curves in {tmp_path} are not complete: ")
