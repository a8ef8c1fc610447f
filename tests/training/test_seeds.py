"""Several seeds in one go."""

from __future__ import annotations

import json
import statistics

from training import NETWORK, assert_same_checkpoint

from utils.training.seeds import summary


def test_the_summary():
    found = summary({3: {"test_acc1": 0.5, "test_loss": 1.0}, 4: {"test_acc1": 0.7}})
    assert found["seeds"] == [3, 4] and list(found["figures"]) == ["test_acc1"]
    assert found["figures"]["test_acc1"] == {
        "mean": 0.6,
        "deviation": statistics.stdev([0.5, 0.7]),
        "values": [0.5, 0.7],
    }
    assert summary({0: {"a": 1.0}})["figures"]["a"]["deviation"] == 0.0


def test_runs(train_here, tiny_dataset, tmp_path):
    """Each equals a run with its seed alone; finished runs are not repeated, and interrupted ones are resumed."""
    flags = {"batch_size": 24, "num_epochs": 2}
    alone = train_here(tiny_dataset, tmp_path / "alone", random_seed=6, **flags)
    assert alone.code == 0
    several = {"random_seed": 5, "seeds": 2, "checkpoint": "auto", **flags}
    cut = train_here(tiny_dataset, tmp_path / "cut", max_iter=3, **several)
    assert cut.code == 0 and "seeds 5 to 6: " in cut.out
    result = train_here(tiny_dataset, tmp_path / "cut", **several)
    assert result.code == 0 and result.out.count("resumed from") == 2
    assert_same_checkpoint(tmp_path / "alone" / NETWORK / "latest", tmp_path / "cut" / "seed_6" / NETWORK / "latest")
    again = train_here(tiny_dataset, tmp_path / "cut", **several | {"seeds": 3, "batch_size": "auto"})
    assert "--batch_size=auto" not in again.out  # it is that of the runs before
    assert again.out.count("is finished") == 2 and again.out.count("[End pass") == 2
    written = json.loads((tmp_path / "cut" / f"{NETWORK}_seeds.json").read_text())
    assert written["seeds"] == [5, 6, 7]
    history = json.loads((tmp_path / "alone" / NETWORK / "curves.json").read_text())
    assert written["figures"]["test_acc1"]["values"][1] == history[-1]["test_acc1"]
    assert f"test_acc1 {written['figures']['test_acc1']['mean']:.5f} +- " in again.out
    changed = train_here(tiny_dataset, tmp_path / "cut", **several | {"lr": 0.02})
    assert changed.out.count("--lr 0.02 (was 0.01)") == 2


def test_refusals(train_here, tiny_dataset, tmp_path):
    for flags, said in (
        (
            {"checkpoint": "some/folder"},
            "--seeds starts several runs: leave out --checkpoint, or give --checkpoint=auto",
        ),
        ({"random_seed": 2**63 - 2}, "is too large for --seeds=3"),
        ({"is_profiler": True}, "--seeds and --is_profiler=True"),
    ):
        result = train_here(tiny_dataset, tmp_path, seeds=3, **flags)
        assert said in result.error and result.code == 2 and not list(tmp_path.iterdir())
