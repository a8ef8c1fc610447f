"""Runs with several seeds: mean and standard deviation of their results."""

from __future__ import annotations

import copy
import gc
import json
import statistics
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from utils.console import is_main_process, log
from utils.errors import FlagError
from utils.evaluation.meters import best_metric
from utils.files import write_text
from utils.flags import Flags
from utils.processes import broadcast_object
from utils.training.checkpoint import BEST, MANIFEST, find_checkpoint, read_state
from utils.training.record import note_changed_flags


def check_seeds(args: Namespace) -> None:
    """Raises `FlagError` if --seeds cannot work with the other flags."""
    if args.seeds == 1:
        return
    if args.checkpoint not in (None, "", "auto"):
        raise FlagError(
            "--seeds starts several runs: leave out --checkpoint, or give --checkpoint=auto to continue them"
        )
    if args.is_profiler:
        raise FlagError("--seeds and --is_profiler=True: leave out one of them")
    if (args.random_seed or 0) + args.seeds > 1 << 63:
        raise FlagError(f"--random_seed {args.random_seed} is too large for --seeds={args.seeds}: lower it")


def run_seeds(args: Flags, run: Callable[[Flags], int]) -> int:
    """Trains with --seeds seeds in turn, and reports the results.

    The seeds start at --random_seed (0 if not given), and each run has its own folder, seed_N in --model_save_dir. With
    --checkpoint=auto, finished runs are skipped. The results go to MODEL_seeds.json in --model_save_dir after each run.

    Args:
        args: train.py's flags.
        run: trains by its flags; returns the number of the signal that ended the run, or 0.

    Returns:
        The number of the signal that ended a run, or 0.
    """
    first, path = args.random_seed or 0, Path(args.model_save_dir, f"{args.model}_seeds.json")
    results: dict[int, dict[str, float]] = {}
    for number, seed in enumerate(range(first, first + args.seeds), 1):
        own = copy.deepcopy(args)
        own.random_seed, own.model_save_dir = seed, str(Path(args.model_save_dir, f"seed_{seed}"))
        found = _figures(own, finished=True) if args.checkpoint == "auto" else None
        log(f"--seeds: run {number} of {args.seeds}, seed {seed}" + (", is finished" if found else ""))
        if found is None:
            if signal := run(own):
                return signal
            gc.collect()  # the network and its optimizer refer to each other
            found = _figures(own, finished=False)
        if found is not None:
            results[seed], args.batch_size = found  # --batch_size=auto is the same for all runs
        if is_main_process():
            write_text(path, json.dumps(summary(results), indent=1) + "\n", "--model_save_dir")
    for name, values in summary(results)["figures"].items():
        each = ", ".join(f"{value:.5f}" for value in values["values"])
        mean = f"{values['mean']:.5f} +- {values['deviation']:.5f}"
        log(f"seeds {first} to {first + args.seeds - 1}: {name} {mean} ({each})")
    if is_main_process():
        log(f"written to {path}")
    return 0


def _figures(args: Flags, finished: bool) -> tuple[dict[str, float], int] | None:
    """The results of a run and its --batch_size, in every process; None if there are none.

    Args:
        args: its flags.
        finished: accept only a finished run.
    """
    found = None
    if is_main_process():
        folder = find_checkpoint("auto", Path(args.model_save_dir, args.model))
        if folder is not None:
            state = read_state(folder)
            position, steps = state["position"], state["training"]["step"]
            over = position.is_at_end(args.num_epochs, args.early_stop) or 0 < args.max_iter <= steps
            if over or not finished:
                figures = _of_history(position.history)
                if BEST in position.best:
                    figures[f"best_test_{best_metric(args)}"] = position.best[BEST]
                found = figures, args.batch_size or position.batch_size
            if over and finished and (folder / MANIFEST).exists():
                note_changed_flags(args, folder)
    return broadcast_object(found)


def _of_history(history: list[dict[str, float]]) -> dict[str, float]:
    """The results of the last validated epoch, or training results if none was validated."""
    for prefix in ("test_", "train_"):
        for epoch in reversed(history):
            if figures := {name: value for name, value in epoch.items() if name.startswith(prefix)}:
                return figures
    return {}


def summary(results: Mapping[int, Mapping[str, float]]) -> dict:
    """Mean, sample standard deviation (0 for a single run) and values of the metrics that all runs have.

    Args:
        results: metrics by seed.
    """
    names = [name for name in next(iter(results.values()), {}) if all(name in figures for figures in results.values())]
    figures = {}
    for name in names:
        values = [figures[name] for figures in results.values()]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        figures[name] = {"mean": statistics.fmean(values), "deviation": deviation, "values": values}
    return {"seeds": list(results), "figures": figures}
