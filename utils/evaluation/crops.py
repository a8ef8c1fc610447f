"""Evaluation with many crops of an image, and over crop sizes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.network import main_output
from utils.console import warn
from utils.errors import one_line
from utils.files import write_text, written_whole


class AverageOverCrops:
    """A network that averages its scores over many crops of an image.

    Args:
        network: images to logits.
        normalize: uint8 (n, height, width, 3) to the network's input.
        batch_size: inputs per forward pass.
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], normalize: Callable[[Tensor], Tensor], batch_size: int
    ) -> None:
        self.network = network
        self.normalize = normalize
        self.batch_size = batch_size

    def __call__(self, crops: Tensor) -> Tensor:
        """Crops, uint8 (images, crops, height, width, 3), without their mirror images, to the logarithm of the mean
        probabilities, (images, classes), of all crops and their mirror images."""
        images, count = crops.shape[:2]
        scores = []
        for part in crops.flatten(0, 1).split(max(1, self.batch_size // 2)):
            both = self.normalize(torch.cat((part, part.flip(2))))
            straight, mirrored = main_output(self.network(both)).float().softmax(1).chunk(2)
            scores.append(straight + mirrored)
        mean = torch.cat(scores).view(images, count, -1).mean(1) / 2
        # Far below any relevant probability: rounding to 0 must not make the loss infinite.
        return mean.clamp_min(1e-30).log()


def write_sweep(path: Path, sizes: Sequence[int], rows: Sequence[dict[str, float]], title: str) -> None:
    """Writes accuracy over crop size to `path`, a CSV file, and plots it in a .png next to it, if possible.

    Args:
        path: the CSV file.
        sizes: sides of the crops.
        rows: the metrics for each.
        title: of the plot.

    Raises:
        UserError: the table cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["crop_size", *rows[0]])
    writer.writerows([size, *row.values()] for size, row in zip(sizes, rows, strict=True))
    write_text(path, text.getvalue(), "--crop_sweep_path")
    try:
        _plot_sweep(path.with_suffix(".png"), sizes, rows, title)
    except Exception as error:  # a drawing library may raise anything, but the results are known
        warn(f"--crop_sweep_path {path}: the plot cannot be drawn ({one_line(error)})")


def _plot_sweep(path: Path, sizes: Sequence[int], rows: Sequence[dict[str, float]], title: str) -> None:
    """The plot of `write_sweep`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in [name for name in rows[0] if name.startswith("test_acc")]:
        axes.plot(sizes, [100 * row[name] for row in rows], marker="o", label=name.replace("test_acc", "top-"))
    axes.set(xlabel="crop size", ylabel="accuracy (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(path, "--crop_sweep_path") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
