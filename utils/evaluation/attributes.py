"""Puts the outputs of PaddleClas's PULC attribute networks into words: for a person, a vehicle, a photographed table.

The meaning of the outputs and the words are PaddleClas's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from utils.evaluation.predictions import Prediction, not_finite

_AGES = ("AgeLess18", "Age18-60", "AgeOver60")
_DIRECTIONS = ("Front", "Side", "Back")
_BAGS = ("HandBag", "ShoulderBag", "Backpack")
_UPPER = ("UpperStride", "UpperLogo", "UpperPlaid", "UpperSplice")
_LOWER = ("LowerStripe", "LowerPattern", "LongCoat", "Trousers", "Shorts", "Skirt&Dress")
_COLOURS = ("yellow", "orange", "green", "gray", "red", "blue", "white", "golden", "brown", "black")
_VEHICLES = ("sedan", "suv", "van", "hatchback", "mpv", "pickup", "bus", "truck", "estate")
# Words for a table with and without the attribute.
_TABLE = (
    ("Scanned", "Photo"),
    ("Little", "Numerous"),
    ("Black-and-White", "Multicolor"),
    ("Clear", "Blurry"),
    ("Without-Obstacles", "With-Obstacles"),
    ("Horizontal", "Tilted"),
)


def _best(words: Sequence[str], scores: Sequence[float]) -> str:
    return words[max(range(len(scores)), key=scores.__getitem__)]


def _of_person(scores: Sequence[float], has: Sequence[bool]) -> list[str]:
    bag = 15 + max(range(3), key=scores[15:18].__getitem__)
    upper = ["LongSleeve" if scores[3] > scores[2] else "ShortSleeve"]
    upper += [word for word, seen in zip(_UPPER, has[4:8], strict=True) if seen]
    lower = [word for word, seen in zip(_LOWER, has[8:14], strict=True) if seen]
    return [
        "Female" if has[22] else "Male",
        _best(_AGES, scores[19:22]),
        _best(_DIRECTIONS, scores[23:26]),
        f"Glasses: {has[1]}",
        f"Hat: {has[0]}",
        f"HoldObjectsInFront: {has[18]}",
        _BAGS[bag - 15] if has[bag] else "No bag",
        f"Upper: {' '.join(upper)}",
        f"Lower:  {' '.join(lower or [_best(_LOWER, scores[8:14])])}",
        "Boots" if has[14] else "No boots",
    ]


def _of_vehicle(scores: Sequence[float], has: Sequence[bool]) -> list[str]:
    found = []
    for what, words, first in (("Color", _COLOURS, 0), ("Type", _VEHICLES, 10)):
        best = first + max(range(len(words)), key=scores[first : first + len(words)].__getitem__)
        sure = f"{what}: ({words[best - first]}, prob: {scores[best]:.8g})"
        found.append(sure if has[best] else f"{what} unknown")
    return found


def _of_table(scores: Sequence[float], has: Sequence[bool]) -> list[str]:
    return [words[not seen] for words, seen in zip(_TABLE, has, strict=True)]


# --attributes -> the number of the network's outputs, and the function that puts them into words.
KINDS: dict[str, tuple[int, Callable[[Sequence[float], Sequence[bool]], list[str]]]] = {
    "person": (26, _of_person),
    "vehicle": (19, _of_vehicle),
    "table": (6, _of_table),
}


@dataclass(frozen=True)
class Attributes(Prediction):
    """The attributes of an image; its classes are all outputs of the network, in order, without names.

    Attributes:
        attributes: in words.
        output: 1 for each output above its threshold, else 0.
    """

    attributes: list[str] = field(default_factory=list)
    output: list[int] = field(default_factory=list)

    def values(self) -> dict[str, list[Any]]:
        """`{"attributes": [...], "output": [...], "score": [...]}`."""
        return {"attributes": self.attributes, "output": self.output, "score": self.score}


def attributes_found(
    logits: Tensor,
    images: Sequence[str],
    thresholds: Sequence[float],
    kind: str,
    precision_flag: str | None = None,
) -> Iterator[Attributes]:
    """The attributes of each image of a batch.

    Args:
        logits: (N, outputs), each for a sigmoid.
        images, precision_flag: as in `utils.evaluation.predictions.top_predictions`.
        thresholds: one per output, which the score must exceed.
        kind: a key of `KINDS`.

    Raises:
        UserError: the logits of an image are not finite numbers.
    """
    in_words = KINDS[kind][1]
    for image, scores in zip(images, logits.float().sigmoid().tolist(), strict=True):
        if not math.isfinite(sum(scores)):
            raise not_finite(image, "scores", precision_flag)
        has = [score > threshold for score, threshold in zip(scores, thresholds, strict=True)]
        yield Attributes(
            image,
            [round(score, 8) for score in scores],
            list(range(len(scores))),
            attributes=in_words(scores, has),
            output=[int(seen) for seen in has],
        )
