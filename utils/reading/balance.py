"""Epochs that oversample rare classes."""

from __future__ import annotations

import numpy as np

# --balance_classes -> exponent of the class's number of images; its share of an epoch is proportional to this power.
POWERS = {"sqrt": 0.5, "full": 0.0}


def balanced_order(labels: np.ndarray, power: float, seed: int, epoch: int) -> np.ndarray:
    """The images of a training epoch, as many as the list has, drawn by class.

    A class of n images has a share proportional to n ** power: 0 gives all classes the same, 0.5 is square-root
    sampling (Mahajan et al., arXiv:1805.00932), 1 the list as it is. Fractional image counts are rounded at random. If
    a class of n images gets k, each appears k // n times, and k % n random ones once more.

    Args:
        labels: the classes of the list's images, int (n,); images with a negative label are left out.
        power: see above.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        int64 (n,), the images in random order; the k-th repeat (from 0) of an image has k times the list's length
        added, as in `Job.indices`.
    """
    rng = np.random.default_rng((seed, epoch))
    counts = np.bincount(labels[labels >= 0])
    by_class = np.split(np.argsort(labels, kind="stable")[len(labels) - counts.sum() :], np.cumsum(counts)[:-1])
    shares = np.where(counts > 0, counts.clip(1).astype(np.float64) ** power, 0.0)
    # Rounding the running sum with one random offset keeps the total, and each class's mean over the epochs.
    ends = np.floor(np.cumsum(shares) / shares.sum() * len(labels) + rng.random()).astype(np.int64)
    ends[-1] = len(labels)
    chosen = []
    for images, due in zip(by_class, np.diff(ends, prepend=0), strict=True):
        if not len(images):
            continue
        whole, rest = divmod(int(due), len(images))
        times = np.full(len(images), whole)
        times[rng.permutation(len(images))[:rest]] += 1
        again = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        chosen.append(np.repeat(images, times) + len(labels) * again)
    order = np.concatenate(chosen).astype(np.int64)
    rng.shuffle(order)
    return order
