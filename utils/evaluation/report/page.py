"""From answers to the page: what each part of page.html is given."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.evaluation.class_report import ClassMeter, class_table
from utils.evaluation.report import statistics
from utils.evaluation.report.answers import Answers
from utils.evaluation.report.charts import (
    MOST_ORDERED,
    confusion_picture,
    order_of_classes,
    rejection_chart,
    reliability_chart,
)
from utils.evaluation.report.comparison import Comparison
from utils.evaluation.report.examples import SIDE, Examples, data_url
from utils.evaluation.report.slices import slices
from utils.evaluation.report.suspects import Suspects
from utils.reading.class_names import Names, name_of

# Classes up to which the matrix is a table with numbers.
FEW_CLASSES = 30
MISTAKES, SUSPECTS, FLIPPED, DUPLICATES, PAIRS, OF_A_PAIR, CHANGED = 24, 50, 24, 24, 8, 2, 10


@dataclass(frozen=True)
class Subject:
    """What a page is about.

    Attributes:
        answers: of the network.
        meter: of the evaluation, gathered.
        names: of the classes, by number, as far as they are known.
        examples: of the images.
    """

    answers: Answers
    meter: ClassMeter
    names: Names
    examples: Examples

    def name(self, number: int) -> str:
        """What a class is called, in short."""
        return (name_of(self.names, number) or str(number)).split(",")[0] if number >= 0 else "none"

    def example(self, place: int, answer: int | None = None) -> dict[str, Any]:
        """An image, by its place among the answers, with its label and the network's answer, or another class."""
        answers, row = self.answers, int(self.answers.rows[place])
        shown = int(answers.classes[place, 0]) if answer is None else answer
        among = np.flatnonzero(answers.classes[place] == shown)
        return {
            "picture": self.examples.picture(row),
            "heat": "",
            "tiny": self._tiny(place),
            "name": self.examples.images.name(row).encode("utf-8", "replace").decode(),
            "label": self.name(int(answers.labels[place])),
            "answer": self.name(shown),
            "own": float(answers.own[place]),
            "score": float(answers.scores[place, among[0]]) if len(among) else 0.0,
            "note": f"{self.name(int(answers.labels[place]))} → {self.name(shown)}",
        }

    def _tiny(self, place: int) -> bool:
        """Whether an image is so small that its pixels should be seen."""
        height = self.answers.height
        return height is not None and int(height[place]) * 2 < SIDE

    @cached_property
    def mistakes(self) -> np.ndarray:
        """Places of the images that are wrong, the most confident first."""
        wrong = np.flatnonzero(~self.answers.right)
        return wrong[np.argsort(-self.answers.confidence[wrong], kind="stable")]


def figures(subject: Subject, loss: float) -> list[tuple[str, str, str]]:
    """The large figures on top: a name, the value, a remark."""
    answers, k = subject.answers, subject.meter.topk
    top1 = statistics.wilson(int(answers.right.sum()), len(answers))
    hits = (answers.classes[:, :k] == answers.labels[:, None]).any(1)
    balanced = statistics.mean_of_classes(answers.right, answers.labels)
    rows = class_table(subject.meter, subject.names)
    f1 = [row["f1"] for row in rows if row["images"] and isinstance(row["f1"], float)]
    known = [row for row in rows if isinstance(row["acc1"], float)]
    worst = min(known, key=lambda row: (row["acc1"], row["class"]))
    return [
        ("top-1 accuracy", f"{top1.value:.2%}", _between(top1)),
        (f"top-{k} accuracy", f"{hits.mean():.2%}", _between(statistics.wilson(int(hits.sum()), len(answers)))),
        ("balanced accuracy", f"{balanced.value:.2%}", f"mean of {len(known)} classes; {_between(balanced)}"),
        ("mean F1 of classes", f"{sum(f1) / max(1, len(f1)):.2%}", "each class counts the same"),
        ("worst class", f"{worst['acc1']:.2%}", f"{subject.name(int(worst['class'] or 0))}, {worst['images']} images"),
        ("loss", f"{loss:.4f}", "cross-entropy"),
    ]


def _between(interval: statistics.Interval) -> str:
    return f"95%: {100 * interval.low:.2f} to {100 * interval.high:.2f}"


def confusion(subject: Subject) -> dict[str, Any]:
    """The matrix, as a table or a picture, and the pairs most often confused."""
    counts = None if subject.meter.confusion is None else subject.meter.confusion.numpy()
    found: dict[str, Any] = {"matrix": None, "map": None, "ordered": False, "pairs": confused_pairs(subject)}
    if counts is None:
        return found
    if len(counts) <= FEW_CLASSES:
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        rows = []
        for number, (line, part) in enumerate(zip(counts.tolist(), np.sqrt(shares).tolist(), strict=True)):
            cells = [
                {
                    "count": count,
                    "dark": share > 0.7,
                    "colour": f"rgba({'47,95,179' if number == column else '217,119,43'},{share:.2f})",
                }
                for column, (count, share) in enumerate(zip(line, part, strict=True))
            ]
            rows.append((subject.name(number), cells))
        found["matrix"] = {"names": [name for name, _ in rows], "rows": rows}
    else:
        order = order_of_classes(counts)
        found["map"] = data_url(confusion_picture(counts, order), "png")
        found["ordered"] = len(counts) <= MOST_ORDERED
    return found


def confused_pairs(subject: Subject) -> list[dict[str, Any]]:
    """The pairs of classes most often taken for each other, with the most confident mistakes both ways."""
    answers, wrong = subject.answers, subject.mistakes
    pairs = np.stack((answers.labels[wrong], answers.classes[wrong, 0]), 1)
    unordered, which, counts = np.unique(np.sort(pairs, 1), axis=0, return_inverse=True, return_counts=True)
    images = np.bincount(answers.labels, minlength=int(pairs.max(initial=0)) + 1)
    found = []
    for pair in np.argsort(-counts, kind="stable")[:PAIRS].tolist():
        mine = which.reshape(-1) == pair
        first, second = unordered[pair].tolist()
        ways = [wrong[mine & (pairs[:, 0] == label)] for label in (first, second)]
        found.append(
            {
                "first": subject.name(first),
                "second": subject.name(second),
                "there": len(ways[0]),
                "back": len(ways[1]),
                "images_first": int(images[first]),
                "images_second": int(images[second]),
                "examples": [subject.example(place) for way in ways for place in way[:OF_A_PAIR].tolist()]
                + [subject.example(place) for label in (first, second) for place in _right_ones(answers, label)],
            }
        )
    return found


def _right_ones(answers: Answers, label: int) -> list[int]:
    """The image of a class that the network is most sure of, and right, if there is one."""
    own = np.flatnonzero(answers.right & (answers.labels == label))
    return [int(own[answers.confidence[own].argmax()])] if len(own) else []


def calibration(subject: Subject) -> dict[str, Any]:
    """What the probabilities are worth, and the thresholds for wanted precisions."""
    answers = subject.answers
    bins = statistics.reliability(answers.confidence, answers.right)
    temperature = statistics.best_temperature(answers.logits, answers.labels[answers.sampled])
    mended = statistics.tempered(answers.logits, temperature)
    after = statistics.reliability(mended, answers.right[answers.sampled])
    two = len(subject.meter.counts[0]) == 2
    # Of two classes, infer.py and predict.py ask whether it is the second.
    second = np.where(answers.classes[:, 0] == 1, answers.confidence, 1 - answers.confidence)
    scores, right = (second, answers.labels == 1) if two else (answers.confidence, answers.right)
    thresholds = statistics.thresholds_for(scores, right)
    curve = statistics.rejection_curve(answers.confidence, answers.right)
    return {
        "reliability": reliability_chart(bins, after),
        "ece": statistics.calibration_error(bins),
        "temperature": temperature,
        "tempered_ece": statistics.calibration_error(after),
        "sampled": len(answers.sampled) if len(answers.sampled) < len(answers) else 0,
        "rejection": rejection_chart(curve, [] if two else thresholds),
        "thresholds": thresholds,
        "threshold_title": f"Threshold of {subject.name(1)} for a wanted precision"
        if two
        else "Threshold for a wanted precision",
        "answered_title": f"taken for {subject.name(1)}" if two else "images with an answer",
        "threshold_note": f"from this probability on, an image is {subject.name(1)}."
        if two
        else "an image whose best class has a lower probability gets no class.",
    }


def class_rows(subject: Subject) -> tuple[list[tuple[str, str]], list[list[dict[str, Any]]]]:
    """The table of classes: the headings, and rows of cells."""
    k = subject.meter.topk
    columns = [("class", "number"), ("name", "text"), ("images", "number"), ("top-1", "share")]
    columns += [(f"top-{k}", "share"), ("precision", "share"), ("F1", "share")]
    columns += [("taken for", "text"), ("so often", "number")]
    rows = []
    for row in class_table(subject.meter, subject.names):
        taken = row["taken_for"]
        values = [row["class"], subject.name(int(row["class"] or 0)), row["images"], row["acc1"], row[f"acc{k}"]]
        values += [row["precision"], row["f1"], "" if taken is None else subject.name(int(taken))]
        values.append(row["taken_for_images"])
        rows.append([_cell(value, kind) for value, (_, kind) in zip(values, columns, strict=True)])
    return columns, rows


def _cell(value: Any, kind: str) -> dict[str, Any]:
    text = kind == "text"
    if value is None:
        return {"value": "", "shown": "–", "text": text}
    return {"value": value, "shown": f"{100 * value:.1f}" if kind == "share" else value, "text": text}


def comparison(subject: Subject, found: Comparison) -> dict[str, Any]:
    """What changed since an earlier result."""
    labels = subject.answers.labels[found.places]
    images = np.bincount(labels)
    before, now = (np.bincount(labels, right, len(images)) for right in (found.right_before, found.right_now))
    change = np.abs(now - before) / np.maximum(images, 1)
    changed = [label for label in np.argsort(-change, kind="stable")[:CHANGED].tolist() if change[label] > 0]

    def flipped(won: bool) -> list[dict[str, Any]]:
        chosen = found.flipped(won)
        sure = subject.answers.confidence[found.places[chosen]]
        chosen = chosen[np.argsort(-sure, kind="stable")][:FLIPPED]
        return [
            {**subject.example(int(found.places[one])), "before": subject.name(int(found.before[one]))}
            for one in chosen.tolist()
        ]

    return {
        "title": found.title,
        "verdict": found.verdict(),
        "images": len(found.places),
        "before": float(found.right_before.mean()),
        "now": float(found.right_now.mean()),
        "won": found.test.only_second,
        "lost": found.test.only_first,
        "classes": [
            {
                "name": subject.name(label),
                "images": int(images[label]),
                "before": before[label] / images[label],
                "now": now[label] / images[label],
            }
            for label in changed
        ],
        "won_examples": flipped(True),
        "lost_examples": flipped(False),
    }


def suspects(subject: Subject, found: Suspects, path: Path) -> dict[str, Any]:
    """The labels that are likely wrong."""
    shown = zip(found.places[:SUSPECTS].tolist(), found.classes[:SUSPECTS].tolist(), strict=True)
    return {
        "suspects": [subject.example(place, answer) for place, answer in shown],
        "suspect_count": found.likely,
        "suspect_list": str(path),
    }


def render(content: dict[str, Any]) -> str:
    """The page."""
    import jinja2  # takes a moment, which evaluations without a report need not

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
    )
    return environment.get_template("page.html").render(content)


def whole_page(subject: Subject, loss: float, parts: dict[str, Any]) -> str:
    """The page of all parts; `parts` has those that need more than the answers."""
    columns, rows = class_rows(subject)
    sections = [("mistakes", "Mistakes"), ("labels", "Labels"), ("confusion", "Confusion")]
    sections += [("calibration", "Probabilities"), ("slices", "Where it fails"), ("classes", "Classes")]
    if parts["duplicates"] is not None:
        sections.insert(2, ("duplicates", "Duplicates"))
    if parts["comparison"] is not None:
        sections.insert(0, ("comparison", "Comparison"))
    return render(
        {
            "figures": figures(subject, loss),
            "sections": sections,
            "slices": slices(subject.answers),
            "columns": columns,
            "classes": rows,
            "command": shlex.join(["eval.py", *sys.argv[1:]]).encode("utf-8", "replace").decode(),
            **confusion(subject),
            **calibration(subject),
            **parts,
        }
    )
