"""What looks after a training by itself, in several processes."""

from __future__ import annotations

import json
import re

from training import NETWORK, command_line


def test_two_processes_agree(launch, tiny_dataset, tmp_path):
    """On the batch size, the images that are drawn, what is frozen, when to stop, and over several seeds."""
    flags = {
        "batch_size": "auto",
        "test_batch_size": 16,
        "balance_classes": "sqrt",
        "class_weights": "sqrt",
        "freeze": 1,
        "lr": 1e-12,
        "l2_decay": 0,
        "early_stop": 1,
        "num_epochs": 9,
        "seeds": 2,
        "print_step": 100,
    }
    result = launch("train.py", 2, tmp_path, *command_line(tiny_dataset, tmp_path / "out", **flags))
    assert result.codes == [0, 0], result.err
    lines = "\n".join(result.out)
    assert re.findall(r"--batch_size=auto: --batch_size=(\d+), (\d+) in each of 2", lines) == [("4", "2")]
    assert lines.count("1 validation without a better acc1") == 2 and lines.count("--freeze=1: ") == 3
    written = json.loads((tmp_path / "out" / f"{NETWORK}_seeds.json").read_text())
    assert written["seeds"] == [1, 2] and "test_acc1" in written["figures"]
