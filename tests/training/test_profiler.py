"""--is_profiler."""

from __future__ import annotations

import json

from training import NETWORK


def test_profiler_writes_a_trace_and_stops(train_here, tiny_dataset, tmp_path):
    flags = {"is_profiler": True, "profiler_path": tmp_path / "profile", "print_step": 2, "batch_size": 4}
    result = train_here(tiny_dataset, tmp_path, **flags)
    assert result.code == 0
    assert "Self CPU" in result.out
    assert "saved in" not in result.out and not (tmp_path / NETWORK / "latest").exists()
    (trace,) = (tmp_path / "profile").iterdir()
    assert trace.name == "steps_2_to_6.json"
    assert json.loads(trace.read_text())["traceEvents"]
    assert "train batch 6" in result.out and "train batch 8" not in result.out  # 7 steps of 12


def test_a_run_too_short_to_profile(train_here, tiny_dataset, tmp_path):
    result = train_here(tiny_dataset, tmp_path, is_profiler=True, profiler_path=tmp_path / "profile", validate=False)
    assert result.code == 0 and not (tmp_path / "profile").exists()
    assert "warning: --is_profiler: the run was too short, nothing was profiled: lower --print_step" in result.err
