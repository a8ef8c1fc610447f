"""What a report keeps of each image of a validation: little, and on the device until the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.processes import gather_to_main
from utils.reading.loader import Batch

# Best classes that are kept of an image.
BEST = 10
# Numbers of logits that are kept, for the temperature: those of images evenly spread over the list.
MOST_LOGITS = 1 << 24


@dataclass(frozen=True)
class Answers:
    """What a network said of the N images that have labels, in the order of the list.

    Attributes:
        rows: int64 (N,), the images' places in the list.
        labels: int64 (N,).
        classes: int64 (N, k), the best classes, best first.
        scores: float32 (N, k), their probabilities.
        own: float32 (N,), the probability of the label.
        brightness, contrast, sharpness: float32 (N,), of what the network sees; see `appearance`.
        sampled: int64 (M,), places in these arrays, ascending, of the images whose logits are kept.
        logits: float32 (M, classes).
        height, width: int32 (N,), of the files' images; None where the reader does not tell.
    """

    rows: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    own: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    sharpness: np.ndarray
    sampled: np.ndarray
    logits: np.ndarray
    height: np.ndarray | None = None
    width: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        """bool (N,): whether the best class is the label."""
        return self.classes[:, 0] == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """float32 (N,): the probability of the best class."""
        return self.scores[:, 0]

    def __len__(self) -> int:
        return len(self.rows)


def appearance(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness, contrast and sharpness of images, uint8 (N, H, W, 3), float32 (N,) each.

    The mean and the standard deviation of their grey levels, from 0 to 1, and the mean difference between pixels that
    are neighbours in a row, as a share of the deviation: it falls as an image is blurred, whatever its contrast.
    """
    # A product with a vector and a norm: on a processor, sums over three channels and deviations take far longer.
    weights = torch.full((3,), 1 / (3 * 255), device=images.device)
    grey = torch.mv(images.reshape(-1, 3).float(), weights).view(images.shape[:3])
    flat = grey.flatten(1)
    mean = flat.mean(1)
    deviation = (torch.linalg.vector_norm(flat, dim=1) ** 2 / flat.shape[1] - mean**2).clamp_min(0).sqrt()
    edges = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean((1, 2))
    return mean, deviation, edges / deviation.clamp_min(1 / 255)


class Collector:
    """Collects `Answers` while `utils.evaluation.validation.validate` goes through the images.

    Args:
        images: in the list, over all processes.
        classes: of the network.
        topk: classes per image that are needed at least.
    """

    def __init__(self, images: int, classes: int, topk: int) -> None:
        self.best = min(classes, max(BEST, topk))
        self.every = -(-images * classes // MOST_LOGITS)
        self._rows: list[Tensor] = []
        self._columns: list[tuple[Tensor, ...]] = []
        self._logits: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor, batch: Batch) -> None:
        """Takes a batch in; see `validate`. Nothing waits for the device."""
        scores = logits.softmax(1)
        best = scores.topk(self.best, 1)
        own = scores.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        self._rows.append(batch.indices)
        self._columns.append((labels, best.indices, best.values, own, *appearance(images)))
        kept = batch.indices % self.every == 0  # known on the processor
        self._logits.append(logits if self.every == 1 else logits[kept.nonzero()[:, 0].to(logits.device)])

    def gather(self, sizes: np.ndarray | None) -> Answers | None:
        """The answers of all processes, in the main one; None in the others. Every process has to call it.

        Args:
            sizes: heights and widths of the images of this process by their places in the list, as
                `OpenCVLoader.note_sizes` gives them; None where it does not.
        """
        mine: list[np.ndarray] = []
        if self._rows:
            rows = torch.cat(self._rows).numpy()
            columns = [torch.cat(column).cpu().numpy() for column in zip(*self._columns, strict=True)]
            shape = [] if sizes is None else [sizes[rows]]
            mine = [rows, torch.cat(self._logits).cpu().numpy(), *columns, *shape]
        parts = [part for part in gather_to_main(mine) if part]
        return _in_order([np.concatenate(column) for column in zip(*parts, strict=True)], self.every) if parts else None


def _in_order(columns: list[np.ndarray], every: int) -> Answers:
    """Answers by the order of the list, of the images that have labels."""
    rows, logits, labels, classes, scores, own, *looks = columns
    place = np.full(len(rows), -1)  # of an image's logits
    place[rows % every == 0] = np.arange(len(logits))
    order = np.argsort(rows, kind="stable")
    order = order[labels[order] >= 0]
    kept = place[order] >= 0
    sizes = looks[3][order] if len(looks) > 3 else None
    return Answers(
        rows[order],
        labels[order],
        classes[order],
        scores[order],
        own[order],
        *(look[order] for look in looks[:3]),
        sampled=np.flatnonzero(kept),
        logits=logits[place[order][kept]],
        height=None if sizes is None else sizes[:, 0],
        width=None if sizes is None else sizes[:, 1],
    )
