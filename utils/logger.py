"""What a run says: lines for people and scripts, a progress bar, TensorBoard events and a picture of the curves."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import written_whole


def is_main_process() -> bool:
    """Whether this process is the one that speaks and writes (rank 0; the only one without a launcher)."""
    return int(os.environ.get("RANK", 0)) == 0


def log(line: str) -> None:
    """Prints a line, from the main process only, above the progress bar if there is one."""
    if is_main_process():
        bar = sys.modules.get("tqdm")
        if bar is not None and sys.stderr.isatty():
            bar.tqdm.write(line)
        else:
            print(line, flush=True)


def warn(line: str) -> None:
    """Prints a warning on stderr, from the main process only."""
    if is_main_process():
        print(f"warning: {line}", file=sys.stderr, flush=True)


def progress(total: int, description: str, initial: int = 0) -> Any:
    """A tqdm bar on a terminal; where there is none (a pipe, a file, another process) one that shows nothing."""
    from tqdm import tqdm

    shown = is_main_process() and sys.stderr.isatty()
    return tqdm(total=total, desc=description, initial=initial, disable=not shown, leave=False, dynamic_ncols=True)


def report_unreadable(unreadable: dict[str, str]) -> None:
    """Says how many files could not be read, and why for the first few.

    Args:
        unreadable: path -> reason, of all processes.
    """
    if unreadable:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(unreadable.items())[:5])
        more = ", ..." if len(unreadable) > 5 else ""
        warn(f"{len(unreadable)} unreadable image files were left out: {shown}{more}")


def check_readable(unreadable: dict[str, str], read: int) -> None:
    """Raises `UserError` if there were images and none of them could be read.

    Args:
        unreadable: path -> reason, of all processes.
        read: number of images that could be read, in all processes.
    """
    if unreadable and not read:
        path, reason = next(iter(unreadable.items()))
        raise UserError(f"none of the {len(unreadable)} images can be read; the first: {path}: {reason}")


class Curves:
    """The figures of a run by epoch: curves.json and curves.png in its folder, and TensorBoard events.

    A context manager; what was recorded is on disk at the end of the block.

    Args:
        folder: of the run.
        history: epochs of an earlier part of the run, when it is resumed.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]] | None = None) -> None:
        self.folder = folder
        self.history = list(history or [])
        self.writer = None
        self._warned = False
        self._excepthook = threading.excepthook
        threading.excepthook = self._thread_failed
        with self._spared():
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"))

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        """Neither a full disk nor a missing package ends a run for its curves: one warning, then they are left out."""
        try:
            yield
        except (OSError, UserError, ImportError) as error:
            if not self._warned:
                warn(f"the curves in {self.folder} are not complete: {error}")
            self._warned = True

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Keeps TensorBoard's thread, which hands its errors on to `_spared`, from printing them too."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._excepthook(failure)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Records values at a training step."""
        if self.writer is None:
            return
        with self._spared():
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Records the values of a finished epoch and draws the curves anew."""
        self.history = [past for past in self.history if past["epoch"] < epoch]
        self.history.append({"epoch": epoch, **values})
        with self._spared(), written_whole(self.folder / "curves.json", "--model_save_dir") as file:
            file.write_text(json.dumps(self.history, indent=1) + "\n")
        with self._spared(), written_whole(self.folder / "curves.png", "--model_save_dir") as file:
            draw_curves(self.history, file)
        if self.writer is None:
            return
        with self._spared():
            for name, value in values.items():
                self.writer.add_scalar(f"epoch/{name}", value, epoch)
            self.writer.flush()

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.writer is not None:
            with self._spared():
                self.writer.close()
        threading.excepthook = self._excepthook


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """Draws loss, accuracy and learning rate by epoch into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, title in zip(figure.subplots(1, 3), ("loss", "acc", "lr"), strict=True):
        for name in dict.fromkeys(name for epoch in history for name in epoch):
            if title in name.split("_")[-1]:
                points = [(epoch["epoch"], epoch[name]) for epoch in history if name in epoch]
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set_xlabel("epoch")
        axes.set_title({"acc": "accuracy", "lr": "learning rate"}.get(title, title))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=110, format="png")
