"""A pytest plugin that writes each test's result immediately, so that a crash or a time limit loses none.

python -m pytest -p benchmarks.prove.pytest_results --results_path=FILE

The file has one JSON object per line: {"collected": names}, then {"name", "outcome", "seconds", "reason"} of each test.
"""

from __future__ import annotations

import json
from typing import Any


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--results_path", help="where to write a line for each test")


def pytest_configure(config: Any) -> None:
    if path := config.getoption("--results_path"):
        config.pluginmanager.register(_Results(path), "results")


class _Results:
    def __init__(self, path: str) -> None:
        self._file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (as long as pytest runs)

    def _write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")

    def pytest_collection_finish(self, session: Any) -> None:
        self._write(collected=[_name(item.nodeid) for item in session.items])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = str(crash.message if crash is not None else report.longrepr)
        reason = " ".join(reason.split())[:300]
        self._write(name=_name(report.nodeid), outcome=report.outcome, seconds=report.duration, reason=reason)


def _name(nodeid: str) -> str:
    """A test's name without its folders."""
    return nodeid.rsplit("/", 1)[-1]
