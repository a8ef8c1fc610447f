"""Logs the metrics of a run to MLflow or Weights & Biases as well."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from utils.console import log, warn
from utils.errors import FlagError, one_line

# --tracker -> its package.
TRACKERS = ("mlflow", "wandb")
# File in the run's folder with the trackers' ids.
FILE = "tracker.json"
# MLflow's limits on the length of a parameter and on their number per call.
LONGEST, MOST = 500, 100


class Tracker(Protocol):
    """Records a run elsewhere. Its methods may raise anything."""

    @property
    def name(self) -> str:
        """The run's name or id in the tracker."""
        ...

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Records figures at a step of the run."""
        ...

    def close(self, code: int) -> None:
        """Ends the record; `code` is 0 for a complete run."""
        ...


class MLflow:
    """A run of MLflow, configured by its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

    def __init__(self, title: str, flags: Mapping[str, Any], before: str | None) -> None:
        self._mlflow = importlib.import_module("mlflow")
        if before is None:
            self._run = self._mlflow.start_run(run_name=title)
            values = [(name, str(value)[:LONGEST]) for name, value in flags.items()]
            for start in range(0, len(values), MOST):
                self._mlflow.log_params(dict(values[start : start + MOST]))
        else:
            self._run = self._mlflow.start_run(run_id=before)

    @property
    def name(self) -> str:
        return str(self._run.info.run_id)

    def record(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self, code: int) -> None:
        self._mlflow.end_run("FINISHED" if not code else "FAILED")


class WandB:
    """A run of Weights & Biases, configured by its own variables (WANDB_PROJECT, WANDB_MODE)."""

    def __init__(self, title: str, flags: Mapping[str, Any], before: str | None) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(name=title, config=dict(flags), id=before, resume="allow")

    @property
    def name(self) -> str:
        return str(self._run.id)

    def record(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, code: int) -> None:
        self._run.finish(exit_code=code)


KINDS: dict[str, type[MLflow | WandB]] = {"mlflow": MLflow, "wandb": WandB}


class Tracked:
    """A tracker that never ends a run: any error becomes a warning and disables it.

    A context manager; a resumed run continues its record in the tracker.

    Args:
        kind: one of `TRACKERS`.
        folder: of the run; it keeps the tracker's id.
        title: of the run.
        flags: its flags.
        resumed: whether the run is resumed.
    """

    def __init__(self, kind: str, folder: Path, title: str, flags: Mapping[str, Any], resumed: bool) -> None:
        self._kind = kind
        self._tracker: Tracker | None = None
        note = folder / FILE
        with self._spared():
            before = _noted(note).get(kind) if resumed else None
            tracker = self._tracker = KINDS[kind](title, flags, before)
            note.write_text(json.dumps({**_noted(note), kind: tracker.name}) + "\n", encoding="utf-8")
            log(f"--tracker={kind}: the run is {tracker.name}" + (", continued" if before else ""))

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tracker = None
            warn(f"--tracker={self._kind}: recording stopped: {one_line(error) or type(error).__name__}")

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Records figures at a step of the run."""
        if self._tracker is not None:
            with self._spared():
                self._tracker.record(values, step)

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if self._tracker is not None:
            with self._spared():
                self._tracker.close(0 if kind is None else 1)


def _noted(note: Path) -> dict[str, str]:
    """The trackers' ids of a run; empty if the file is missing or damaged."""
    try:
        names = json.loads(note.read_text(encoding="utf-8"))
        return {name: value for name, value in names.items() if isinstance(value, str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def check_tracker(kind: str | None) -> None:
    """Raises `FlagError` if the package of --tracker is not installed."""
    if kind is None:
        return
    if importlib.util.find_spec(kind) is None:
        raise FlagError(f"--tracker={kind}: the package is not installed: pip install {kind}, or leave the flag out")
