"""The output of infer.py and predict.py: one line per image with its name, a tab, and JSON.

Names are written unchanged except for characters that would break the line: a backslash becomes `\\\\`, a tab `\\t`, a
newline `\\n`, a carriage return `\\r`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.console import log, warn
from utils.errors import UserError, reason
from utils.files import is_stream
from utils.reading.class_names import Names, name_of

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {escape: character for character, escape in _ESCAPES.items()}


def escaped(name: str) -> str:
    """Escapes a file name for use in a line."""
    return name.translate(str.maketrans(_ESCAPES))


def unescaped(text: str) -> str:
    """Reverses `escaped`."""
    return re.sub(r"\\.", lambda found: _UNESCAPES.get(found[0], found[0]), text)


@dataclass(frozen=True)
class Prediction:
    """The best classes of an image.

    Attributes:
        image: its file name.
        score: probabilities, best first.
        classes: their class numbers.
        class_name: their names, None for unknown ones; None if the network has no known names.
    """

    image: str
    score: list[float]
    classes: list[int]
    class_name: list[str | None] | None = None

    def values(self) -> dict[str, list[Any]]:
        """`{"score": [...], "class": [...], "class_name": [...]}`, without class_name if there are no names."""
        result: dict[str, list[Any]] = {"score": self.score, "class": self.classes}
        if self.class_name is not None:
            result["class_name"] = self.class_name
        return result

    def line(self) -> str:
        """The image's name, a tab, and the values in JSON."""
        return f"{escaped(self.image)}\t{json.dumps(self.values(), ensure_ascii=False)}"


@dataclass(frozen=True)
class Scores:
    """The answer for an image from a network that does not return classes.

    Attributes:
        image: its file name.
        score: the numbers.
    """

    image: str
    score: list[float]

    def line(self) -> str:
        """`NAME<tab>{"score": [...]}`."""
        return f"{escaped(self.image)}\t{json.dumps({'score': self.score})}"


def top_predictions(
    logits: Tensor, images: Sequence[str], class_names: Names, topk: int, precision_flag: str | None = None
) -> Iterator[Prediction]:
    """The `topk` best classes of each image of a batch.

    Args:
        logits: (N, classes).
        images: N file names.
        class_names: by class number, as far as known.
        topk: at most the number of classes.
        precision_flag: the flag that lowers the precision below float32, for errors.

    Raises:
        UserError: the logits of an image are not finite numbers.
    """
    scores, classes = logits.float().softmax(1).topk(topk)
    for image, score, numbers in zip(images, scores.tolist(), classes.tolist(), strict=True):
        if not math.isfinite(score[0]):
            raise not_finite(image, "scores", precision_flag)
        yield Prediction(image, [round(s, 8) for s in score], numbers, _named(numbers, class_names))


def _named(numbers: Sequence[int], class_names: Names) -> list[str | None] | None:
    """The names of classes; None if the network has no known names."""
    return [name_of(class_names, number) for number in numbers] if class_names else None


def labels_found(
    logits: Tensor,
    images: Sequence[str],
    class_names: Names,
    thresholds: Sequence[float],
    precision_flag: str | None = None,
) -> Iterator[Prediction]:
    """The labels of each image of a batch whose probability reaches their threshold, best first; may be empty.

    Args:
        logits: (N, classes), each for a sigmoid.
        images, class_names, precision_flag: as in `top_predictions`.
        thresholds: one per class.

    Raises:
        UserError: the logits of an image are not finite numbers.
    """
    scores = logits.float().sigmoid()
    scores, classes = torch.sort(scores, dim=1, descending=True, stable=True)
    for image, score, numbers in zip(images, scores.tolist(), classes.tolist(), strict=True):
        if not math.isfinite(sum(score)):
            raise not_finite(image, "scores", precision_flag)
        found = [(round(s, 8), number) for s, number in zip(score, numbers, strict=True) if s >= thresholds[number]]
        numbers = [number for _, number in found]
        yield Prediction(image, [s for s, _ in found], numbers, _named(numbers, class_names))


class AtLeast(NamedTuple):
    """The minimum probability of the best class; an image below it gets no class."""

    probability: float


def sure_predictions(
    logits: Tensor, images: Sequence[str], class_names: Names, topk: int, least: AtLeast, precision_flag: str | None
) -> Iterator[Prediction]:
    """Like `top_predictions`, but without classes if the best one is below the minimum."""
    for found in top_predictions(logits, images, class_names, topk, precision_flag):
        sure = found.score[0] >= least.probability
        yield found if sure else Prediction(found.image, [], [], _named([], class_names))


def second_of_two(
    logits: Tensor, images: Sequence[str], class_names: Names, threshold: float, precision_flag: str | None
) -> Iterator[Prediction]:
    """Like `top_predictions`, for two classes: the second if its probability reaches the threshold, else the first."""
    for found in top_predictions(logits, images, class_names, 2, precision_flag):
        by_class = dict(zip(found.classes, found.score, strict=True))
        chosen = int(by_class[1] >= threshold)
        yield Prediction(found.image, [by_class[chosen]], [chosen], _named([chosen], class_names))


def not_finite(image: str, what: str, precision_flag: str | None) -> UserError:
    """The error for an image with `what` that are not finite; for the flag see `top_predictions`."""
    why = f"leave out {precision_flag}" if precision_flag else "the weights are damaged or belong to another network"
    return UserError(f"{image}: the network's {what} are not finite numbers: {why}")


class ResultFile:
    """Prints results, and writes them to a file, one line per image.

    Args:
        path: the file; None: only print.
        topk: scores per image; None: any number.
        resume: keep the lines of an interrupted run, and append to them.
        asked_for: whether the user named the file. A default file is mentioned at the end, and if its folder is not
            writable, results are only printed.

    Attributes:
        done: how many results the file has, by the image's name.

    Raises:
        UserError: the file cannot be written, is not a file of results, or has another number of scores per image.
    """

    def __init__(self, path: str | None, topk: int | None, resume: bool = False, asked_for: bool = True) -> None:
        self.path = path
        self.topk = topk
        self.asked_for = asked_for
        self.done: Counter[str] = Counter()
        self._file = None
        if path is None:
            return
        try:
            if is_stream(Path(path)):
                self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)
                return
            complete = self._complete_part(path) if resume and Path(path).exists() else 0
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "r+b" if complete else "wb")  # noqa: SIM115 (closed by __exit__)
            self._file.truncate(complete)
            self._file.seek(complete)
        except OSError as error:
            if asked_for or resume:
                raise UserError(f"--save_json_path {path}: {reason(error)}") from None
            warn(
                f"--save_json_path not given: {path} cannot be written ({reason(error)}), so the results are "
                "only printed"
            )
        if resume:
            log(f"{self.done.total()} results kept from {path}")

    def _complete_part(self, path: str) -> int:
        """Reads the image names of an earlier run's results; returns the end of its last complete line."""
        end = 0
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                name, _, result = line.partition(b"\t")
                try:
                    count = len(json.loads(result)["score"])
                except (ValueError, TypeError, KeyError):
                    raise UserError(f"--save_json_path {path} is not a file of results: give another one") from None
                if self.topk is not None and count != self.topk:
                    raise UserError(
                        f"--resume: the results in {path} have {count} classes per image: give --topk={count}, or "
                        "another --save_json_path"
                    )
                self.done[unescaped(name.decode(errors="surrogateescape"))] += 1
                end += len(line)
        return end

    def write(self, predictions: Sequence[Prediction | Scores]) -> None:
        """Prints the images' lines and flushes the file, so that an interrupted run can resume from there.

        Raises:
            UserError: they cannot be written to the file.
        """
        text = "".join(f"{prediction.line()}\n" for prediction in predictions)
        try:
            if self._file is not None:
                self._file.write(text.encode(errors="surrogateescape"))
                self._file.flush()
        except OSError as error:
            raise UserError(f"--save_json_path {self.path}: {reason(error)}") from None
        for prediction in predictions:
            log(prediction.line())

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            with suppress(OSError):  # errors that `write` already reported
                self._file.close()
            if kind is None and not self.asked_for and not self.done:
                log(f"these results are also in {self.path}; choose another file with --save_json_path")
