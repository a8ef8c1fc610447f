"""The drawings of a report: curves as SVG, with text that stays text, and the confusion matrix as pixels."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from utils.evaluation.report.statistics import Bin, Threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, INK = "#2f5fb3", "#d9772b", "#aab2bf", "#1f2733"
# Classes up to which the rows of the matrix are put into an order of their own: it takes a second for as many.
MOST_ORDERED = 1200
# (A page shows about as many: where it has to leave pixels out, single mistakes would vanish.)
MOST_PIXELS = 600
# Images that a bin of the reliability diagram needs, to say anything.
FEW = 10
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e9ee",
    "axes.axisbelow": True,
}


def _svg(figure: Figure, title: str) -> str:
    """A figure as an element of a page, as wide as there is room; `title` is for those who cannot see it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = text.getvalue()[text.getvalue().index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    # The page's own font, whatever Matplotlib measured with.
    element = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", element)
    return element.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def reliability_chart(bins: Sequence[Bin], tempered: Sequence[Bin]) -> str:
    """Accuracy over confidence, with the shares of images below; `tempered` is drawn as a line. Bins of few images
    are pale, and left out of the line."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "reliability"}):
        figure = Figure(figsize=(5, 4.2), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        width = bins[0].high - bins[0].low if bins else 1
        middles = [(part.low + part.high) / 2 for part in bins]
        sure, unsure = ([part for part in bins if (part.images >= FEW) == enough] for enough in (True, False))
        for parts, opacity, label in ((sure, 1.0, "accuracy"), (unsure, 0.3, f"of fewer than {FEW} images")):
            places = [(part.low + part.high) / 2 for part in parts]
            axes.bar(places, [part.accuracy for part in parts], width * 0.92, color=BLUE, alpha=opacity, label=label)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="as it should be")
        tempered = [part for part in tempered if part.images >= FEW]
        axes.plot(
            [part.confidence for part in tempered],
            [part.accuracy for part in tempered],
            color=ORANGE,
            marker="o",
            markersize=4,
            label="with the temperature",
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        axes.legend(frameon=False, loc="upper left")
        total = sum(part.images for part in bins)
        below.bar(middles, [part.images / total for part in bins], width * 0.92, color=GREY)
        below.set(xlabel="probability of the best class", ylabel="images")
        return _svg(figure, "accuracy over confidence")


def rejection_chart(curve: tuple[np.ndarray, np.ndarray, np.ndarray], thresholds: Sequence[Threshold]) -> str:
    """Accuracy over the share of images that are answered."""
    import matplotlib
    from matplotlib.figure import Figure

    _, answered, precision = curve
    # A thousand points say what a hundred thousand do.
    shown = np.unique(np.linspace(0, len(answered) - 1, 1000).astype(np.int64))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "rejection"}):
        figure = Figure(figsize=(5, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(answered[shown], precision[shown], color=BLUE)
        axes.plot([t.answered for t in thresholds], [t.precision for t in thresholds], "o", color=ORANGE, markersize=5)
        low = float(precision[shown].min())
        axes.set(xlim=(0, 1.02), ylim=(max(0.0, low - 0.1 * (1 - low) - 0.002), 1.002))
        axes.set(xlabel="share of images with an answer", ylabel="accuracy of these")
        return _svg(figure, "accuracy over the share of images with an answer")


def order_of_classes(confusion: np.ndarray) -> np.ndarray:
    """An order in which classes that are taken for each other stand side by side, int64 (classes,).

    That of the eigenvector to the second eigenvalue of the graph's normalised Laplacian (Shi and Malik, 2000).
    """
    classes = len(confusion)
    if not 3 <= classes <= MOST_ORDERED:
        return np.arange(classes)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    near = shares + shares.T
    np.fill_diagonal(near, 0)
    near += max(near.mean(), 1e-6) / 100  # or classes that nothing is taken for would be graphs of their own
    scale = 1 / np.sqrt(near.sum(1))
    _, vectors = np.linalg.eigh(np.eye(classes) - scale[:, None] * near * scale[None])
    return np.argsort(vectors[:, 1] * scale, kind="stable")


def confusion_picture(confusion: np.ndarray, order: np.ndarray) -> bytes:
    """The matrix as a PNG, a pixel a pair (or the worst of several pairs): right answers are blue, others orange.

    A row has the shares of the label's images; their square roots are shown, so that few are seen, too.
    """
    shares = (confusion / np.maximum(confusion.sum(1, keepdims=True), 1))[order][:, order]
    strength = np.sqrt(shares)[..., None]
    on_diagonal = np.eye(len(order), dtype=bool)[..., None]
    colour = np.where(on_diagonal, _bgr(BLUE), _bgr(ORANGE))
    pixels = 255 - strength * (255 - colour)
    if len(order) > MOST_PIXELS:
        pixels = _darkest(pixels, -(-len(order) // MOST_PIXELS))
    scale = max(1, 600 // len(pixels))
    pixels = pixels.round().astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    return cv2.imencode(".png", pixels)[1].tobytes()


def _bgr(colour: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)[::-1].astype(np.float64)


def _darkest(pixels: np.ndarray, factor: int) -> np.ndarray:
    """A picture `factor` times smaller, of the darkest of the pixels that become one."""
    side = -(-len(pixels) // factor) * factor
    padded = np.full((side, side, 3), 255.0)
    padded[: len(pixels), : len(pixels)] = pixels
    return padded.reshape(side // factor, factor, side // factor, factor, 3).min((1, 3))
