"""The loop of infer.py and predict.py: classifies each image of a list once and writes the answers in the list's order.

Several processes share the list and work in rounds: in each round every process answers one batch, interleaved with the
others', and the first process writes all answers. So no process is more than one round ahead, and if a run ends early,
its results cover the beginning of the list; any number of processes can continue from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.console import check_readable, is_main_process, log, progress, report_unreadable
from utils.evaluation.attributes import KINDS, attributes_found
from utils.evaluation.features import Features
from utils.evaluation.predictions import (
    AtLeast,
    Prediction,
    Scores,
    labels_found,
    not_finite,
    second_of_two,
    sure_predictions,
    top_predictions,
)
from utils.processes import broadcast_object, gather_objects, gather_to_main, world_size
from utils.reading.class_names import Names
from utils.reading.file_report import report_files
from utils.reading.image_list import ImageList
from utils.reading.loader import Batch, Loader


class Results(Protocol):
    """A destination for answers."""

    @property
    def done(self) -> Counter[str]:
        """How many answers the resumed run has given, by the image's name."""
        ...

    def write(self, answers: Sequence[Any], /) -> None:
        """Adds answers, which then survive the end of the process."""

    def __enter__(self) -> Results: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@dataclass(frozen=True)
class Classifier:
    """Answers with an image's best classes.

    Attributes:
        network: inputs (N, 3, H, W) to logits (N, classes).
        prepare: pixels, uint8 (N, H, W, 3) RGB on the CPU, to inputs.
        class_names: by class number, as far as known.
        topk: classes per image.
        precision_flag: the flag that lowers the precision below float32, for errors.
        thresholds: None: the `topk` best classes. One per class: all classes whose sigmoid reaches its threshold. A
            single one: of two classes the second if it reaches the threshold, else the first. `AtLeast`: the `topk`
            best, if the best one reaches it, else none.
        attributes: the kind of attributes, a key of `utils.evaluation.attributes.KINDS`, or None.
    """

    network: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor]
    class_names: Names
    topk: int = 1
    precision_flag: str | None = None
    thresholds: float | AtLeast | Sequence[float] | None = None
    attributes: str | None = None

    @property
    def scores_per_image(self) -> int | None:
        """The number of classes per image; None if it varies."""
        if self.attributes is not None:
            return KINDS[self.attributes][0]
        if self.thresholds is None:
            return self.topk
        return 1 if isinstance(self.thresholds, float) else None

    def __call__(self, pixels: Tensor, names: Sequence[str]) -> list[Prediction]:
        """The classes of images, given their pixels and names; raises `UserError` for scores that are not finite."""
        return self.answers(self.network(self.prepare(pixels)), names)

    def answers(self, logits: Tensor, names: Sequence[str]) -> list[Prediction]:
        """The same, given the network's logits (N, classes)."""
        if isinstance(self.thresholds, float):
            return list(second_of_two(logits, names, self.class_names, self.thresholds, self.precision_flag))
        if isinstance(self.thresholds, AtLeast):
            least, flag = self.thresholds, self.precision_flag
            return list(sure_predictions(logits, names, self.class_names, self.topk, least, flag))
        if not isinstance(self.thresholds, int | None):
            if self.attributes is not None:
                return list(attributes_found(logits, names, self.thresholds, self.attributes, self.precision_flag))
            return list(labels_found(logits, names, self.class_names, self.thresholds, self.precision_flag))
        return list(top_predictions(logits, names, self.class_names, self.topk, self.precision_flag))


@dataclass(frozen=True)
class Extractor:
    """Answers with an image's features.

    Attributes:
        network: inputs (N, 3, H, W) to features (N, channels).
        prepare, precision_flag: as in `Classifier`.
    """

    network: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor]
    precision_flag: str | None = None

    def __call__(self, pixels: Tensor, names: Sequence[str]) -> list[Features]:
        """The features of images, given their pixels and names; raises `UserError` if they are not finite."""
        rows = self.network(self.prepare(pixels)).float().cpu().numpy()
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            raise not_finite(names[int(finite.argmin())], "features", self.precision_flag)
        return [Features(name, row) for name, row in zip(names, rows, strict=True)]


@dataclass(frozen=True)
class Scorer:
    """Answers with the numbers of a network that does not return classes.

    Attributes:
        extractor: computes the numbers.
        decimals: to round to.
    """

    extractor: Extractor
    decimals: int

    def __call__(self, pixels: Tensor, names: Sequence[str]) -> list[Scores]:
        """The numbers of images, given their pixels and names; raises `UserError` if they are not finite."""
        found = self.extractor(pixels, names)
        return [Scores(name, [round(value, self.decimals) for value in row.ravel().tolist()]) for name, row in found]


@torch.no_grad()
def answer_images(
    images: ImageList,
    answer: Callable[[Tensor, Sequence[str]], Sequence[Any]],
    open_loader: Callable[[ImageList], Loader],
    open_results: Callable[[], Results],
) -> None:
    """Answers the images of a list that have no answer yet, and reports unreadable ones.

    Args:
        images: the list, the same in every process.
        answer: maps pixels, uint8 (N, H, W, 3) RGB on the CPU, and N names to N answers.
        open_loader: makes the loader for this process's share of a list.
        open_results: opens the destination; called in the first process only.

    Raises:
        UserError: no image can be read, in this run or the resumed one; or raised by the arguments.
    """
    with ExitStack() as stack:
        results = stack.enter_context(open_results()) if is_main_process() else None
        rows = broadcast_object(None if results is None else _rows_left(images, results.done))
        read = len(images) - len(rows)
        bar = stack.enter_context(progress(len(images), "images", read))
        if not len(rows):
            log("every image already has a result")
            return
        left = images.subset(rows)
        loader = open_loader(left)
        answered = 0
        for batch in _rounds(loader, len(left)):
            own = [] if batch is None else _answers(batch, left, answer)
            answered += len(own)
            in_order = sorted((pair for part in gather_to_main(own) for pair in part), key=itemgetter(0))
            if results is not None:
                results.write([found for _, found in in_order])
            bar.update(len(in_order))
        shares = gather_objects((answered, loader.unreadable))
        unreadable = dict(sorted(entry for _, part in shares for entry in part.items()))
        check_readable(unreadable, read + sum(count for count, _ in shares))
    report_unreadable(unreadable)
    report_files(loader)


def _rows_left(images: ImageList, done: Counter[str]) -> np.ndarray:
    """List indices, int64, of the unfinished images; a list may name an image several times."""
    if not done:
        return np.arange(len(images))
    answers, rows = done.copy(), []
    for row in range(len(images)):
        if answers[name := images.name(row)]:
            answers[name] -= 1
        else:
            rows.append(row)
    return np.array(rows, np.int64)


def _rounds(loader: Loader, count: int) -> Iterator[Batch | None]:
    """This process's batch in each round over the `count` images of a list; None if it has no image in a round.

    A loader skips a batch without readable images, and the processes' shares may differ by one image. Without empty
    rounds, the processes would wait for each other at different places.
    """
    size = loader.batch_size * world_size()
    batches = loader.epoch(0)
    batch = next(batches, None)
    for end in range(size, count + size, size):
        if batch is None or batch.indices[0] >= end:
            yield None
        else:
            yield batch
            batch = next(batches, None)


def _answers(
    batch: Batch, images: ImageList, answer: Callable[[Tensor, Sequence[str]], Sequence[Any]]
) -> list[tuple[int, Any]]:
    """The answer for each image of a batch, with its list index."""
    rows = batch.indices.tolist()
    return list(zip(rows, answer(batch.images, [images.name(row) for row in rows]), strict=True))
