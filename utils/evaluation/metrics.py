"""Loss and accuracy, summed on the device and read only when they are printed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

FIELDS = ("loss", "finite", "acc1", "acck", "labelled", "images", "bad", "skipped")


class Meter:
    """Sums over a stretch of steps, of losses, hits and images. Nothing waits for the device but `total`.

    Args:
        device: where the sums live.
        topk: the k of the second accuracy, at most the number of classes.

    Attributes:
        sums: float64, one per name in `FIELDS`: loss times images of the batches whose loss is finite, and their
            images; hits in the top 1 and the top k, and the images that have labels; images; batches whose loss is
            not finite; steps that loss scaling skipped.
        first_bad: number of the first such batch since the last `take`, on the device; -1 without one.
    """

    def __init__(self, device: torch.device, topk: int = 5) -> None:
        self.topk = topk
        self.sums = torch.zeros(len(FIELDS), dtype=torch.float64, device=device)
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: int = 0, skipped: Tensor | float = 0.0) -> None:
        """Adds a batch.

        Args:
            loss: mean loss of the batch, a scalar.
            logits: (N, classes).
            labels: int64 (N,); -1 where there is none.
            number: of the batch, for `first_bad`.
            skipped: 1 if loss scaling skipped the step on it, a scalar on the device; 0.0 where none can be.
        """
        images = labels.shape[0]
        hits = logits.topk(min(self.topk, logits.shape[1]), dim=1).indices == labels[:, None]
        finite = torch.isfinite(loss)
        bad = ~finite
        self.first_bad = torch.where(bad & (self.first_bad < 0), number, self.first_bad)
        values = [
            torch.where(finite, loss, 0) * images,
            finite * images,
            hits[:, 0].sum(),
            hits.sum(),
            (labels >= 0).sum(),
            torch.full_like(bad, images, dtype=self.sums.dtype),
            bad,
            skipped if isinstance(skipped, Tensor) else torch.full_like(bad, skipped, dtype=self.sums.dtype),
        ]
        self.sums += torch.stack([value.to(self.sums.dtype) for value in values])

    def take(self) -> Tensor:
        """The sums so far, still on the device; starts again from zero."""
        sums, self.sums = self.sums, torch.zeros_like(self.sums)
        self.first_bad = torch.full_like(self.first_bad, -1)
        return sums


def total(sums: Tensor) -> dict[str, float]:
    """Sums of a `Meter`, over all processes, as means per image; "images", "bad" and "skipped" stay sums.

    Waits for the device. Every process has to call it.
    """
    if dist.is_initialized():
        sums = sums.clone()
        dist.all_reduce(sums)
    return means(sums)


def means(sums: Tensor) -> dict[str, float]:
    """Sums of a `Meter` of this process, as `total` gives them over all. Waits for the device."""
    loss, finite, acc1, acck, labelled, images, bad, skipped = sums.tolist()
    return {
        "loss": loss / finite if finite else float("nan"),
        "acc1": acc1 / max(labelled, 1.0),
        "acck": acck / max(labelled, 1.0),
        "images": images,
        "bad": bad,
        "skipped": skipped,
    }


def describe(values: dict[str, float], topk: int, prefix: str = "", accuracy: bool = True) -> str:
    """The fields of a log line: `loss 6.93147, acc1 0.00000, acc5 0.00000`, each name after `prefix`."""
    fields = [f"{prefix}loss {values['loss']:.5f}"]
    if accuracy:
        fields += [f"{prefix}acc1 {values['acc1']:.5f}", f"{prefix}acc{topk} {values['acck']:.5f}"]
    return ", ".join(fields)
