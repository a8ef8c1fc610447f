"""Figures in MLflow and Weights & Biases: stand-ins of these packages take the calls."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from training import NETWORK

from utils.training.tracker import FILE, Tracked


@pytest.fixture
def calls(monkeypatch):
    """What the stand-ins were asked to do."""
    found: list[tuple] = []

    def note(name, answer=None):
        return lambda *args, **options: (found.append((name, *args, options)), answer)[1]

    run = SimpleNamespace(info=SimpleNamespace(run_id="r1"), id="w1", log=note("log"), finish=note("finish"))
    for package, names in {
        "mlflow": {"start_run": run, "log_params": None, "log_metrics": None, "end_run": None},
        "wandb": {"init": run},
    }.items():
        module = ModuleType(package)
        module.__spec__ = ModuleSpec(package, None)
        for name, answer in names.items():
            setattr(module, name, note(name, answer))
        monkeypatch.setitem(sys.modules, package, module)
    return found


@pytest.mark.parametrize("kind", ["mlflow", "wandb"])
def test_a_run(train_here, tiny_dataset, tmp_path, calls, kind):
    """A resumed run goes on in the same record."""
    flags = {"tracker": kind, "batch_size": 24, "checkpoint": "auto"}
    assert train_here(tiny_dataset, tmp_path, max_iter=1, **flags).code == 0
    folder = tmp_path / NETWORK
    name = {"mlflow": "r1", "wandb": "w1"}[kind]
    assert json.loads((folder / FILE).read_text()) == {kind: name}
    first = list(calls)
    calls.clear()
    assert f"the run is {name}, continued" in train_here(tiny_dataset, tmp_path, **flags).out
    if kind == "mlflow":
        assert first[0] == ("start_run", {"run_name": f"{NETWORK}, seed 1"})
        params = {key: value for call in first if call[0] == "log_params" for key, value in call[1].items()}
        assert params["lr"] == "0.01" and params["model"] == NETWORK
        assert calls[0] == ("start_run", {"run_id": "r1"}) and calls[-1] == ("end_run", "FINISHED", {})
        logged = [(call[2]["step"], call[1]) for call in calls if call[0] == "log_metrics"]
    else:
        assert first[0][1]["id"] is None and first[0][1]["config"]["lr"] == 0.01
        assert calls[0][1]["id"] == "w1" and calls[-1] == ("finish", {"exit_code": 0})
        logged = [(call[2]["step"], call[1]) for call in calls if call[0] == "log"]
    assert [step for step, _ in logged] == [2, 2]
    assert {"train/loss", "train/lr"} <= logged[0][1].keys() and {"epoch/test_acc1"} <= logged[1][1].keys()


def test_a_tracker_never_ends_a_run(tmp_path, calls, monkeypatch, capsys):
    """A damaged note is ignored, and an error is reported once."""

    def fail(*args, **options):
        raise ConnectionError("nobody\nthere")

    (tmp_path / FILE).write_text("[")
    with Tracked("mlflow", tmp_path, "run", {"lr": 0.1}, resumed=True) as tracked:
        assert calls[0] == ("start_run", {"run_name": "run"})
        monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", fail)
        for step in range(3):
            tracked.record({"loss": 1.0}, step)
    monkeypatch.setattr(sys.modules["mlflow"], "start_run", fail)
    with Tracked("mlflow", tmp_path, "run", {}, resumed=False) as tracked:
        tracked.record({"loss": 1.0}, 0)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all("--tracker=mlflow: recording stopped" in line for line in warnings)


def test_a_package_that_is_not_there(train_here, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = train_here(tiny_dataset, tmp_path, tracker="wandb")
    assert result.code == 2 and "--tracker=wandb: the package is not installed: pip install wandb" in result.error
    assert not list(tmp_path.iterdir())
