"""What an evaluation says class by class, and of the order of the labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.evaluation.class_report import (
    MAX_CONFUSION,
    ClassMeter,
    looks_permuted,
    read_label_map,
    write_class_table,
)


def meter_of_three() -> ClassMeter:
    """Four images of three classes, and one without a label; the last class has none."""
    meter = ClassMeter(3, torch.device("cpu"), 2)
    logits = torch.tensor([[3.0, 2, 1], [1, 3, 2], [2, 3, 1], [1, 2, 3], [3, 2, 1]])
    meter.add(torch.tensor(0.5), logits, torch.tensor([0, 0, 1, 1, -1]))
    return meter


def test_counts_by_class():
    meter = meter_of_three()
    assert meter.counts.tolist() == [[2, 2, 0], [1, 1, 0], [1, 2, 0]]
    assert meter.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert meter.totals() == (4, 2, 3)


def test_the_table_of_classes(tmp_path):
    """A class without images has no shares, and is taken for nothing."""
    write_class_table(tmp_path / "x.csv", meter_of_three(), ["red", "green, light", "blue"])
    assert (tmp_path / "x.csv").read_text().splitlines() == [
        "class,name,images,top1,top2,acc1,acc2,taken_for,taken_for_images",
        "0,red,2,1,1,0.50000,0.50000,1,1",
        '1,"green, light",2,1,2,0.50000,1.00000,2,1',
        "2,blue,0,0,0,,,,",
    ]


def test_too_many_classes_have_no_confusion_matrix():
    meter = ClassMeter(MAX_CONFUSION + 1, torch.device("cpu"))
    assert meter.confusion is None
    assert not looks_permuted(meter)


# ----------------------------------------------------------------------------------------------------- orders of labels


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 1\n1 0\n2 2\n", "1 classes have no new number, such as 3"),
        ("0 1\n1 0\n2 2\n3 2\n", "two classes have the same new number"),
        ("0 1\n1 0\n2 2\n3 4\n", "line 4: there is no class 4 of 4"),
        ("0 1\n0 2\n", "line 2: class 0 has two new numbers"),
        ("0 1\n1\n", "line 2: '1' is not `old new`"),
        ("0 x\n", "line 1: '0 x' is not `old new`"),
    ],
)
def test_bad_label_maps(text, reason, tmp_path):
    file = tmp_path / "map.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_label_map(str(file), 4)
    with pytest.raises(UserError, match="no such file"):
        read_label_map(str(tmp_path / "none.txt"), 4)


def meter_of(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> ClassMeter:
    meter = ClassMeter(classes, torch.device("cpu"), 3)
    meter.add(torch.tensor(0.0), nn.functional.one_hot(predicted, classes).float(), labels)
    return meter


def test_a_permutation_is_told_from_a_bad_network():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(50).repeat(10)
    permutation = (torch.arange(50) * 7 + 3) % 50
    guesses = torch.randint(0, 50, labels.shape, generator=random)
    often = torch.rand(labels.shape, generator=random) < 0.7
    assert looks_permuted(meter_of(torch.where(often, permutation[labels], guesses), labels, 50))
    assert not looks_permuted(meter_of(torch.where(often, labels, guesses), labels, 50))
    assert not looks_permuted(meter_of(guesses, labels, 50))
    assert not looks_permuted(meter_of(torch.full_like(labels, 4), labels, 50))
    assert not looks_permuted(meter_of(labels // 10, labels, 50))
    # Too few images to tell.
    assert not looks_permuted(meter_of(permutation[labels][:100], labels[:100], 50))
