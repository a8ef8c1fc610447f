"""The figures of a run in MLflow or Weights & Biases, beside those in its folder."""

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

# --tracker -> the package that it is.
TRACKERS = ("mlflow", "wandb")
# In the folder of a run: what the trackers call it.
FILE = "tracker.json"
# MLflow takes no longer values of parameters, and no more of them at a time.
LONGEST, MOST = 500, 100


class Tracker(Protocol):
    """What records a run elsewhere. Its methods may raise anything."""

    @property
    def name(self) -> str:
        """What the run is called there."""
        ...

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Records figures at a step of the run."""
        ...

    def close(self, code: int) -> None:
        """Ends the record; `code` is 0 for a run that came to its end."""
        ...


class MLflow:
    """A run of MLflow, where its own variables say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

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
    """A run of Weights & Biases, where its own variables say (WANDB_PROJECT, WANDB_MODE)."""

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
    """A tracker that never ends a run: whatever it raises is a warning, and then it is left out.

    A context manager; a record that is resumed goes on where the tracker has it.

    Args:
        kind: one of `TRACKERS`.
        folder: of the run, where it is noted what the tracker calls it.
        title: of the run.
        flags: its flags.
        resumed: it goes on with an earlier part of itself.
    """

    def __init__(self, kind: str, folder: Path, title: str, flags: Mapping[str, Any], resumed: bool) -> None:
        self._kind = kind
        self._tracker: Tracker | None = None
        note = folder / FILE
        with self._spared():
            before = _noted(note).get(kind) if resumed else None
            tracker = self._tracker = KINDS[kind](title, flags, before)
            note.write_text(json.dumps({**_noted(note), kind: tracker.name}) + "\n", encoding="utf-8")
            log(f"--tracker={kind}: the run is {tracker.name} there" + (", and goes on" if before else ""))

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tracker = None
            warn(f"--tracker={self._kind}: nothing more is recorded there: {one_line(error) or type(error).__name__}")

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
    """What the trackers call a run; nothing where that is not noted, or is damaged."""
    try:
        names = json.loads(note.read_text(encoding="utf-8"))
        return {name: value for name, value in names.items() if isinstance(value, str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def check_tracker(kind: str | None) -> None:
    """Raises `FlagError` if the package of --tracker is not there."""
    if kind is None:
        return
    if importlib.util.find_spec(kind) is None:
        raise FlagError(f"--tracker={kind}: the package is not installed: pip install {kind}, or leave the flag out")
