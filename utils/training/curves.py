"""The metrics of a run over its epochs: curves.json, curves.png and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.console import warn
from utils.errors import one_line
from utils.files import written_whole
from utils.training.tracker import Tracked

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Curves:
    """The metrics of a run by epoch: curves.json and curves.png in its folder, and TensorBoard events.

    A context manager; all records are on disk at the end of the block.

    Args:
        folder: of the run.
        history: epochs of an earlier part of a resumed run.
        tracked: tracker that also records the metrics.
    """

    def __init__(
        self, folder: Path, history: list[dict[str, float]] | None = None, tracked: Tracked | None = None
    ) -> None:
        self.folder = folder
        self.history = list(history or [])
        self.writer = None
        self._tracked = tracked
        self._warned = False
        self._excepthook = threading.excepthook
        threading.excepthook = self._thread_failed
        with self._spared():
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"))

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        """Keeps failing curves from ending a run, whatever the libraries raise: for a full disk, a missing package, a
        folder name that is not UTF-8. Warns once, then skips the curves.
        """
        try:
            yield
        except Exception as error:
            if not self._warned:
                warn(f"the curves in {self.folder} are not complete: {one_line(error)}")
            self._warned = True

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Keeps TensorBoard's thread from printing errors that it passes on to `_spared`."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._excepthook(failure)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Records values at a training step."""
        if self._tracked is not None:
            self._tracked.record(values, step)
        if self.writer is None:
            return
        with self._spared():
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def text(self, name: str, text: str, step: int) -> None:
        """Records a text, in Markdown, at a training step."""
        if self.writer is None:
            return
        with self._spared():
            self.writer.add_text(name, text, step)

    def epoch(self, epoch: int, values: dict[str, float], step: int = 0) -> None:
        """Records the values of a finished epoch, after `step` steps of the run, and redraws the curves."""
        self.history = [past for past in self.history if past["epoch"] < epoch]
        self.history.append({"epoch": epoch, **values})
        with self._spared(), written_whole(self.folder / "curves.json", "--model_save_dir") as file:
            file.write_text(json.dumps(self.history, indent=1) + "\n")
        with self._spared(), written_whole(self.folder / "curves.png", "--model_save_dir") as file:
            draw_curves(self.history, file)
        if self._tracked is not None:
            self._tracked.record({f"epoch/{name}": value for name, value in values.items()}, step)
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


# Title of a plot -> prefixes of its metrics' names, after "train_" or "test_".
_DRAWN = {"loss": ("loss",), "acc": ("acc", "exact", "map", "ma", "tpr"), "lr": ("lr",)}


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """Draws loss, accuracy and learning rate by epoch into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6))
    # Margins for any tick labels. Matplotlib's automatic layouts take as long as drawing.
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.13, top=0.91, wspace=0.24)
    for axes, title in zip(figure.subplots(1, 3), ("loss", "acc", "lr"), strict=True):
        for name in dict.fromkeys(name for epoch in history for name in epoch):
            if name.split("_")[-1].startswith(_DRAWN[title]):
                points = [(epoch["epoch"], epoch[name]) for epoch in history if name in epoch]
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set_xlabel("epoch")
        axes.set_title({"acc": "accuracy", "lr": "learning rate"}.get(title, title))
        if title == "loss":
            leave_out_peaks(axes)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=110, format="png")


def leave_out_peaks(axes: Axes) -> None:
    """Cuts the loss axis below outliers, such as a run's first losses, which would flatten the rest. The title gives
    their height.
    """
    losses = np.concatenate([np.empty(0), *(np.asarray(line.get_ydata(), float) for line in axes.lines)])
    if not len(losses):
        return
    low, high = np.percentile(losses, (25, 75))
    usual = losses[losses <= high + 3 * (high - low)]  # Tukey's rule for far outliers
    if len(usual) < len(losses):
        margin = 0.05 * (usual.max() - usual.min())
        axes.set_ylim(usual.min() - margin, usual.max() + margin)
        axes.set_title(f"{axes.get_title()} (up to {losses.max():.3g})")
