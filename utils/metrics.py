"""Loss and accuracy, summed on the device and read only when they are printed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Sums over a stretch of steps: of losses, hits in the top 1 and the top k, and images.

    `add` only queues work on the device; `read` waits for it.

    Args:
        device: where the sums live.
        topk: the k of the second accuracy, at most the number of classes.
    """

    FIELDS = ("loss", "acc1", "acck", "images")

    def __init__(self, device: torch.device, topk: int = 5) -> None:
        self.topk = topk
        # float32 is not enough to count a million images on devices without float64; all of ours have it.
        self.sums = torch.zeros(len(self.FIELDS), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            loss: mean loss of the batch, a scalar.
            logits: (N, classes).
            labels: int64 (N,).
        """
        best = logits.topk(min(self.topk, logits.shape[1]), dim=1).indices
        hits = best == labels[:, None]
        images = labels.shape[0]
        top1, topk = hits[:, 0].sum(), hits.sum()
        values = [loss.detach() * images, top1, topk, torch.full_like(top1, images)]
        self.sums += torch.stack([value.to(self.sums.dtype) for value in values])

    def take(self) -> Tensor:
        """The sums so far, still on the device; starts again from zero."""
        sums, self.sums = self.sums, torch.zeros_like(self.sums)
        return sums


def total(sums: Tensor) -> dict[str, float]:
    """Sums of a `Meter`, over all processes, as means per image: loss, acc1, acck, and the number of images.

    Waits for the device. Every process has to call it.
    """
    if dist.is_initialized():
        sums = sums.clone()
        dist.all_reduce(sums)
    loss, acc1, acck, images = sums.tolist()
    count = max(images, 1.0)
    return {"loss": loss / count, "acc1": acc1 / count, "acck": acck / count, "images": images}
