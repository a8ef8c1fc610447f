"""A run that ends when its validations get no better."""

from __future__ import annotations

import math

from training import assert_same_checkpoint

from utils.training.position import Position


def test_counting():
    """An improvement of the average counts as well, and NaN is no improvement."""
    position, stale = Position(8), []
    for test, average in ((0.1, 0.1), (0.2, 0.1), (0.2, 0.1), (0.1, 0.15), (math.nan, 0.15), (0.15, 0.1), (0.21, 0)):
        position.note_validation({"test": test, "test_ema": average})
        stale.append(position.stale)
    assert stale == [0, 0, 1, 0, 1, 2, 0] and position.highest == {"test": 0.21, "test_ema": 0.15}
    assert not position.is_at_end(9, 1)
    position.note_validation({"test": 0.1})
    assert position.is_at_end(9, 1) and not position.is_at_end(9, 0) and not position.is_at_end(9, 2)


def test_a_run(train_here, tiny_dataset, tmp_path):
    """At a tiny learning rate the accuracy stays the same; a resumed run stops where an uninterrupted one does."""
    flags = {"lr": 1e-12, "l2_decay": 0, "batch_size": 48, "early_stop": 2, "validate": True}
    network, ends = {}, {}
    for name, parts in (("whole", [9]), ("parts", [2, 9])):
        for epochs in parts:
            result = train_here(tiny_dataset, tmp_path / name, num_epochs=epochs, checkpoint="auto", **flags)
            assert result.code == 0
        network[name] = next((tmp_path / name).iterdir())
        ends[name] = [line for line in result.out.splitlines() if line.startswith("stopped after epoch")]
    assert ends["whole"] == ends["parts"] and "2 validations without a better acc1 than" in ends["whole"][0]
    assert_same_checkpoint(network["whole"] / "latest", network["parts"] / "latest")
    again = train_here(tiny_dataset, tmp_path / "whole", num_epochs=9, checkpoint="auto", **flags)
    assert "nothing is left to do: 2 validations without a better acc1" in again.out and "[End pass" not in again.out
    on = train_here(tiny_dataset, tmp_path / "whole", num_epochs=9, checkpoint="auto", **flags | {"early_stop": 3})
    assert on.out.count("[End pass") == 1 and "stopped after epoch" in on.out
    refused = train_here(tiny_dataset, tmp_path / "none", **flags | {"validate": False})
    assert "--early_stop needs validation" in refused.error and refused.code == 2
