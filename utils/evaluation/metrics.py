"""Loss and accuracy, summed on the device and read only when they are printed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from utils.devices import sum_type

FIELDS = ("loss", "finite", "acc1", "acck", "labelled", "images", "bad", "skipped")


class Meter:
    """Sums losses, hits and images over some steps. Only `total` waits for the device.

    Args:
        device: where the sums live.
        topk: the k of the second accuracy, at most the number of classes.

    Attributes:
        names: of the two accuracies in log lines.
        sums: of `utils.devices.sum_type`, one per name in `FIELDS`: loss times images of batches with finite loss, and
            their images; hits in the top 1 and the top k, and labelled images; images; batches with a loss that is not
            finite; steps skipped by loss scaling.
        first_bad: number of the first such batch since the last `take`, on the device; -1 without one.
    """

    def __init__(self, device: torch.device, topk: int = 5) -> None:
        self.topk = topk
        self.names = ("acc1", f"acc{topk}")
        self.sums = torch.zeros(len(FIELDS), dtype=sum_type(device), device=device)
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch as validation reports it, a scalar."""
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, number: int = 0, skipped: Tensor | float = 0.0) -> None:
        """Adds a batch.

        Args:
            loss: mean loss of the batch, a scalar.
            logits: (N, classes).
            labels: int64 (N,); -1 without a label.
            number: of the batch, for `first_bad`.
            skipped: 1 if loss scaling skipped the step on it, a scalar on the device; 0.0 without loss scaling.
        """
        hits = logits.topk(min(self.topk, logits.shape[1]), dim=1).indices == labels[:, None]
        self._count(loss, (hits[:, 0].sum(), hits.sum(), (labels >= 0).sum()), len(labels), number, skipped)

    def _count(
        self, loss: Tensor, accuracy: tuple[Tensor, ...], images: int, number: int, skipped: Tensor | float
    ) -> None:
        """Adds a batch, given its hits for both accuracies and its labelled images."""
        finite = torch.isfinite(loss)
        bad = ~finite
        self.first_bad = torch.where(bad & (self.first_bad < 0), number, self.first_bad)
        values = [
            torch.where(finite, loss, 0) * images,
            finite * images,
            *accuracy,
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

    def figures(self) -> dict[str, float]:
        """Metrics beyond the sums, by name. Waits for the device; every process must call it."""
        return {}


def total(sums: Tensor) -> dict[str, float]:
    """Sums of a `Meter`, over all processes, as means per image; "images", "bad" and "skipped" stay sums.

    Waits for the device. Every process must call it.
    """
    if dist.is_initialized():
        sums = sums.clone()
        dist.all_reduce(sums)
    return means(sums)


def means(sums: Tensor) -> dict[str, float]:
    """Like `total`, but for this process only. Waits for the device."""
    loss, finite, acc1, acck, labelled, images, bad, skipped = sums.tolist()
    return {
        "loss": loss / finite if finite else float("nan"),
        "acc1": acc1 / max(labelled, 1.0),
        "acck": acck / max(labelled, 1.0),
        "images": images,
        "bad": bad,
        "skipped": skipped,
    }


def named(values: dict[str, float], names: tuple[str, str]) -> dict[str, float]:
    """The accuracies of `total` or `means` by their meter's names, and the meter's `figures`."""
    first, second = names
    rest = {name: value for name, value in values.items() if name not in _SUMMED}
    return {first: values["acc1"], second: values["acck"], **rest}


_SUMMED = ("loss", "acc1", "acck", "images", "bad", "skipped")


def describe(values: dict[str, float], names: tuple[str, str], prefix: str = "", accuracy: bool = True) -> str:
    """The fields of a log line: `loss 6.93147, acc1 0.00000, acc5 0.00000`, each name after `prefix`."""
    figures = {"loss": values["loss"], **(named(values, names) if accuracy else {})}
    return ", ".join(f"{prefix}{name} {value:.5f}" for name, value in figures.items())
