"""Validation images that were trained on: those with a near-duplicate among the training images.

Candidates are those whose features a network takes for nearly the same; they are confirmed by their pixels
(`utils.reading.duplicates`), as to a network different images of a class may be all alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.console import progress
from utils.evaluation.report import page
from utils.evaluation.report.examples import Examples
from utils.files import write_text
from utils.reading.build import eval_transform, training_images
from utils.reading.duplicates import alike, fingerprint
from utils.reading.image_list import ImageList
from utils.reading.opencv_loader import OpenCVLoader

# Cosine of the features from which on two images are looked at.
COSINE = 0.9


class Pair(NamedTuple):
    """A validation image and the training image nearest to it, by their places in their lists."""

    val: int
    train: int
    cosine: float


class Found(NamedTuple):
    """The training images, and the pairs by the validation images' places."""

    images: ImageList
    pairs: list[Pair]


@torch.no_grad()
def find(args: argparse.Namespace, model: Any, images: ImageList, prepare: Callable[[Tensor], Tensor]) -> Found:
    """Goes through both lists, and compares each training image with all validation images.

    Args:
        args: eval.py's flags.
        model: in evaluation mode.
        images: of the validation.
        prepare: uint8 (n, H, W, 3) on the processor to the network's input.

    Raises:
        UserError: there are no training images.
    """
    trained = training_images(args)
    own = list(_looked_at(args, model, images, prepare))
    rows = np.concatenate([part[0] for part in own])
    features = torch.cat([part[1] for part in own])
    prints = np.concatenate([part[2] for part in own])
    best: dict[int, Pair] = {}
    for train_rows, train_features, train_prints in _looked_at(args, model, trained, prepare):
        cosines = features @ train_features.T
        first, second = (cosines >= COSINE).nonzero(as_tuple=True)
        values = cosines[first, second].tolist()
        near = alike(prints[first.cpu().numpy()], train_prints[second.cpu().numpy()])
        for val, train, cosine, same in zip(first.tolist(), second.tolist(), values, near.tolist(), strict=True):
            pair = Pair(int(rows[val]), int(train_rows[train]), cosine)
            if same and (pair.val not in best or cosine > best[pair.val].cosine):
                best[pair.val] = pair
    return Found(trained, [best[row] for row in sorted(best)])


def _looked_at(
    args: argparse.Namespace, model: nn.Module, images: ImageList, prepare: Callable[[Tensor], Tensor]
) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Of the images of a list, a batch at a time: places int64 (n,), features of length 1 (n, d), fingerprints."""
    loader = OpenCVLoader(
        images, eval_transform(args), args.batch_size, training=False, workers=args.reader_thread,
        read_ahead_images=args.reader_buf_size,
    )  # fmt: skip
    with progress(len(images), "duplicates") as bar:
        for batch in loader.epoch(0):
            features: Any = getattr(model, "forward_features")(prepare(batch.images))  # noqa: B009 (a `Network` has it)
            prints = np.stack([fingerprint(pixels) for pixels in batch.images.numpy()])
            yield batch.indices.numpy(), nn.functional.normalize(features.flatten(1).float()), prints
            bar.update(len(batch))
    loader.close()


def list_path(report: Path) -> Path:
    """Where the list of all pairs of a report goes."""
    return report.with_name(f"{report.stem}_duplicates.csv")


def section(subject: page.Subject, args: argparse.Namespace, found: Found) -> dict[str, Any]:
    """What the page says of the pairs; writes the list of all of them.

    Raises:
        UserError: it cannot be written.
    """
    answers, path = subject.answers, list_path(Path(args.report))
    place_of = {row: place for place, row in enumerate(answers.rows.tolist())}
    pairs = [pair for pair in found.pairs if pair.val in place_of]
    places = [place_of[pair.val] for pair in pairs]
    labels = [found.images.label(pair.train) for pair in pairs]
    own = answers.labels[places].tolist()
    others = np.ones(len(answers), bool)
    others[places] = False
    lines = [
        f"{subject.examples.images.name(pair.val)},{label},{found.images.name(pair.train)},{train},{pair.cosine:.4f}\n"
        for pair, label, train in zip(pairs, own, labels, strict=True)
    ]
    write_text(path, "".join(["val,label,train,label of train,cosine\n", *lines]), "--report")
    train_examples = Examples(found.images, subject.examples.transform)
    clashing = [number for number in range(len(pairs)) if labels[number] != own[number]]
    shown = [*clashing, *(number for number in range(len(pairs)) if labels[number] == own[number])][: page.DUPLICATES]
    return {
        "count": len(pairs),
        "share": len(pairs) / max(1, len(answers)),
        "trained": len(found.images),
        "clashes": len(clashing),
        "accuracy_without": float(answers.right[others].mean()) if others.any() else None,
        "list": str(path),
        "pairs": [
            {
                "val": subject.example(places[number]),
                "train": {
                    "picture": train_examples.picture(pairs[number].train),
                    "tiny": subject.example(places[number])["tiny"],
                    "name": found.images.name(pairs[number].train).encode("utf-8", "replace").decode(),
                    "label": subject.name(labels[number]),
                },
            }
            for number in shown
        ],
    }
