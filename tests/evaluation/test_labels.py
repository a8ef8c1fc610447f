"""Several labels per image: figures, tables, answers."""

from __future__ import annotations

import csv
import importlib

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from utils.errors import FlagError
from utils.evaluation.classify import Classifier
from utils.evaluation.labels import LabelsMeter, average_precision, write_label_table
from utils.evaluation.meters import answer_thresholds, best_metric, check_labels, one_per_class
from utils.evaluation.metrics import describe, total
from utils.evaluation.predictions import AtLeast, labels_found, second_of_two, sure_predictions
from utils.evaluation.rates import best_rates
from utils.flags import parse

CPU = torch.device("cpu")


def some_answers(images: int = 60, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, generator=generator)
    labels = (logits + torch.randn(images, classes, generator=generator) > 0.3).long()
    return logits, labels


def filled(logits: torch.Tensor, labels: torch.Tensor, thresholds: list[float]) -> LabelsMeter:
    meter = LabelsMeter(CPU, thresholds, keep_scores=True)
    for part, those in zip(logits.split(25), labels.split(25), strict=True):
        meter.add(meter.loss(part, those), part, those)
    return meter


def test_figures_are_those_of_scikit_learn():
    """Which PaddleClas computes its HammingDistance, AccuracyScore and mean average precision with."""
    logits, labels = some_answers()
    thresholds = [0.5, 0.3, 0.7, 0.5]
    found = (logits.sigmoid() >= torch.tensor(thresholds)).numpy()
    there = labels.numpy()
    meter = filled(logits, labels, thresholds)
    values = total(meter.sums)
    assert 1 - values["acc1"] == pytest.approx(sk.hamming_loss(there, found))
    assert values["acck"] == pytest.approx(sk.accuracy_score(there, found))
    figures = meter.figures()
    assert figures["map"] == pytest.approx(sk.average_precision_score(there, logits.numpy(), average="macro"))
    for name, score in (
        ("jaccard", sk.jaccard_score),
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
    ):
        assert figures[name] == pytest.approx(score(there, found, average="samples", zero_division=0))
    balanced = [sk.balanced_accuracy_score(there[:, column], found[:, column]) for column in range(4)]
    assert figures["ma"] == pytest.approx(np.mean(balanced))
    precision, recall = figures["precision"], figures["recall"]
    assert figures["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert describe({**values, "map": 0.25}, meter.names, "test_").split(", ")[1:] == [
        f"test_accuracy {values['acc1']:.5f}", f"test_exact {values['acck']:.5f}", "test_map 0.25000"
    ]  # fmt: skip


def test_average_precision_counts_equal_scores_as_one_step():
    scores, there = np.array([0.9, 0.5, 0.5, 0.5, 0.1], np.float32), np.array([0, 1, 0, 1, 1], bool)
    assert average_precision(scores, there) == pytest.approx(sk.average_precision_score(there, scores))
    assert np.isnan(average_precision(scores, np.zeros(5, bool)))


def test_a_class_without_images_is_left_out_of_the_mean():
    logits, labels = some_answers()
    labels[:, 2] = 0
    expected = np.mean([sk.average_precision_score(labels[:, c], logits[:, c]) for c in (0, 1, 3)])
    assert filled(logits, labels, [0.5] * 4).figures()["map"] == pytest.approx(expected)


def test_table_of_the_labels(tmp_path):
    logits, labels = some_answers()
    meter = filled(logits, labels, [0.5] * 4)
    meter.figures()
    write_label_table(tmp_path / "labels.csv", meter, ["a", "b", "c", "d"])
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    found = logits[:, 1] >= 0
    assert int(rows[1]["images"]) == labels[:, 1].sum() and int(rows[1]["found"]) == found.sum()
    assert float(rows[1]["f1"]) == pytest.approx(sk.f1_score(labels[:, 1], found), abs=1e-5)
    assert (rows[1]["name"], float(rows[1]["threshold"])) == ("b", 0.5)


def test_labels_of_an_image():
    logits = torch.tensor([[2.0, -1.0, 3.0], [-3.0, -3.0, -3.0]])
    first, second = labels_found(logits, ["a.jpg", "b.jpg"], ["x", "y", "z"], [0.5, 0.2, 0.96])
    assert (first.classes, first.class_name) == ([0, 1], ["x", "y"])
    assert first.score == pytest.approx([0.88079708, 0.26894142])
    assert second.line() == 'b.jpg\t{"score": [], "class": [], "class_name": []}'


def test_the_second_of_two_classes_from_a_threshold_on():
    logits = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    first, second = second_of_two(logits, ["a.jpg", "b.jpg"], ["no", "yes"], 0.9, None)
    assert (first.class_name, second.class_name) == (["no"], ["yes"])
    assert (*first.score, *second.score) == pytest.approx((0.26894142, 0.95257413))


def test_most_found_at_few_false_alarms():
    """Against the counting of every threshold."""
    rng = np.random.default_rng(0)
    positive, negative = rng.beta(4, 2, 300).astype(np.float32), rng.beta(2, 4, 500).astype(np.float32)
    best = (0.0, 0.0, 0.0)
    for step in range(10_000):
        tpr, fpr = (positive > step / 10_000).mean(), (negative > step / 10_000).mean()
        if fpr <= 0.05 and tpr > best[0]:
            best = (tpr, fpr, step / 10_000)
    found = best_rates(positive, negative, 0.05)
    assert (found["tpr"], found["fpr"], found["threshold"]) == pytest.approx(best)
    assert best_rates(negative[:0], negative, 0.05)["tpr"] == 0


def test_thresholds():
    assert one_per_class([0.3], 3) == [0.3] * 3
    args = parse("infer", ["--pretrained_model=x", "--threshold=0.3,0.6"])
    assert answer_thresholds(args, 2, True) == [0.3, 0.6]
    with pytest.raises(FlagError, match="--threshold has 2 values: give one, or one for each of the 4 classes"):
        answer_thresholds(args, 4, True)
    with pytest.raises(FlagError, match="--threshold has 2 values, which needs --multi_label=True"):
        answer_thresholds(args, 2, False)
    args = parse("infer", ["--pretrained_model=x", "--threshold=0.3"])
    assert (answer_thresholds(args, 2, False), answer_thresholds(args, 3, False)) == (0.3, AtLeast(0.3))
    args = parse("infer", ["--pretrained_model=x"])
    assert answer_thresholds(args, 1000, False) is None
    assert answer_thresholds(args, 2, False, [0.9]) == 0.9
    assert answer_thresholds(args, 3, True, [0.9]) == [0.9] * 3


def test_an_image_of_which_the_network_is_not_sure_gets_no_class():
    logits = torch.tensor([[2.0, 0, 0], [1, 1, 1]])
    sure, unsure = sure_predictions(logits, ["a", "b"], ["x", "y", "z"], 2, AtLeast(0.5), None)
    assert (sure.classes, sure.class_name) == ([0, 1], ["x", "y"])
    assert unsure.line() == 'b\t{"score": [], "class": [], "class_name": []}'
    assert Classifier(lambda x: x, lambda x: x, [], 2, thresholds=AtLeast(0.5)).scores_per_image is None
    args = parse("infer", ["--pretrained_model=x", "--threshold=0.5", "--grad_cam=1", "--vis_dir=x"])
    with pytest.raises(
        FlagError, match="--grad_cam explains the best class, and with --threshold an image may have none"
    ):
        importlib.import_module("infer").check_flags(args)


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("eval", ["--multi_label=1", "--label_map=x"], "--label_map needs one label per image"),
        ("eval", ["--multi_label=1", "--crop_num=12"], "--crop_num=12 needs one label per image"),
        ("train", ["--multi_label=1", "--class_dim=3", "--threshold=0.5,0.5"], "--threshold has 2 values"),
        ("eval", ["--tpr_at_fpr=0.1"], "--tpr_at_fpr needs two classes"),
        (
            "eval",
            ["--tpr_at_fpr=0.1", "--class_dim=2", "--per_class_path=x"],
            "--per_class_path does not work with --tpr_at_fpr",
        ),
    ],
)
def test_flags_that_do_not_go_together(script, flags, message):
    with pytest.raises(FlagError, match=message):
        check_labels(parse(script, flags))


def test_the_figure_that_the_best_network_has():
    assert best_metric(parse("train", [])) == "acc1"
    assert best_metric(parse("train", ["--multi_label=1"])) == "map"
    assert best_metric(parse("train", ["--multi_label=1", "--best_metric=ma"])) == "ma"
    assert best_metric(parse("train", ["--tpr_at_fpr=0.1"])) == "tpr"
    with pytest.raises(FlagError, match="--best_metric=ma is not measured in this validation: choose from acc1"):
        best_metric(parse("train", ["--best_metric=ma"]))
