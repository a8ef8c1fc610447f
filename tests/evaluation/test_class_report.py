"""What an evaluation says class by class, and of the order of the labels."""

from __future__ import annotations

import csv
import json
import os

import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.evaluation.class_report import (
    MAX_CONFUSION,
    ClassMeter,
    draw_confusion,
    looks_permuted,
    read_label_map,
    write_class_table,
    write_confusion,
)


def meter_of_three() -> ClassMeter:
    """Four images of three classes, and one without a label; the last class has none."""
    meter = ClassMeter(3, torch.device("cpu"), 2)
    logits = torch.tensor([[3.0, 2, 1], [1, 3, 2], [2, 3, 1], [1, 2, 3], [3, 2, 1]])
    meter.add(torch.tensor(0.5), logits, torch.tensor([0, 0, 1, 1, -1]))
    return meter


def test_counts_by_class():
    meter = meter_of_three()
    assert meter.counts.tolist() == [[2, 2, 0], [1, 1, 0], [1, 2, 0], [1, 2, 1]]
    assert meter.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert meter.totals() == (4, 2, 3)


def test_the_table_of_classes(tmp_path):
    """A class without images has no shares, and is taken for nothing."""
    write_class_table(tmp_path / "x.csv", meter_of_three(), ["red", "green, light", "blue"])
    assert (tmp_path / "x.csv").read_text().splitlines() == [
        "class,name,images,top1,top2,acc1,acc2,taken_for,taken_for_images,predicted,precision,recall,f1",
        "0,red,2,1,1,0.50000,0.50000,1,1,1,1.00000,0.50000,0.66667",
        '1,"green, light",2,1,2,0.50000,1.00000,2,1,2,0.50000,0.50000,0.50000',
        "2,blue,0,0,0,,,,,1,0.00000,,0.00000",
    ]


def test_the_table_as_json(tmp_path):
    write_class_table(tmp_path / "x.JSON", meter_of_three(), ["red"])
    first, _, last = json.loads((tmp_path / "x.JSON").read_text())
    assert first == {
        "class": 0,
        "name": "red",
        "images": 2,
        "top1": 1,
        "top2": 1,
        "acc1": 0.5,
        "acc2": 0.5,
        "taken_for": 1,
        "taken_for_images": 1,
        "predicted": 1,
        "precision": 1.0,
        "recall": 0.5,
        "f1": 0.66667,
    }
    assert (last["name"], last["acc1"], last["recall"], last["precision"]) == (None, None, None, 0.0)


@pytest.mark.parametrize(
    ("names", "heads"),
    [
        (["red", "猫, cat", "$x_"], ["red", "猫, cat", "$x_"]),
        (["red", "red", "x"], "012"),
        (["red"], "012"),
        ((), "012"),
    ],
)
def test_the_matrix_as_numbers(names, heads, tmp_path):
    for suffix in (".csv", ".json"):
        write_confusion(tmp_path / f"c{suffix}", meter_of_three().confusion, names)
    rows = list(csv.reader((tmp_path / "c.csv").open(encoding="utf-8")))
    assert rows[0] == ["label", *heads]
    assert rows[1:] == [[heads[0], "1", "1", "0"], [heads[1], "0", "1", "1"], [heads[2], "0", "0", "0"]]
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert content["confusion"] == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert content["names"] == [*names, *[None] * (3 - len(names))]


def test_names_in_no_encoding_are_written_as_they_are(tmp_path):
    """Those of class folders may be any bytes."""
    write_class_table(tmp_path / "x.csv", meter_of_three(), [os.fsdecode(b"caf\xe9")])
    assert b"0,caf\xe9,2,1,1" in (tmp_path / "x.csv").read_bytes()
    write_class_table(tmp_path / "x.json", meter_of_three(), [os.fsdecode(b"caf\xe9")])
    assert json.loads((tmp_path / "x.json").read_text(errors="surrogateescape"))[0]["name"] == os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PDF"])
def test_names_in_the_picture_of_the_matrix_are_no_formulas(suffix, tmp_path, recwarn):
    path = tmp_path / f"c{suffix}"
    write_confusion(path, meter_of_three().confusion, [r"$5 to $10 \frac", "a_b^", "$"])
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".PDF": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    assert not recwarn.list


def test_a_picture_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
    def fail(*_: object):
        raise ValueError("no such glyph")

    monkeypatch.setattr("utils.evaluation.class_report.draw_confusion", fail)
    write_confusion(tmp_path / "c.png", meter_of_three().confusion, ())
    assert "c.png: the picture cannot be drawn (no such glyph): give a name in .csv" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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
        (f"0 {'9' * 5000}\n", "line 1: '0 9{50,60}.{0,5} is not `old new`"),
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


def test_counts_in_the_picture_of_the_matrix():
    confusion = torch.tensor([[7, 0], [123_456, 2]])
    (axes, _) = draw_confusion(confusion, []).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "7", (0, 1): "123k", (1, 1): "2"}
