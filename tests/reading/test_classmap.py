"""Readable names of the classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.errors import UserError
from utils.reading.class_names import read_class_names

REPOSITORY = Path(__file__).parents[2]


def test_readable_labels_are_those_of_imagenet():
    names = read_class_names(str(REPOSITORY / "utils/tools/readable_label.txt"), 1000)
    assert len(set(names)) == 1000
    some = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 207: "golden retriever", 281: "tabby, tabby cat"}
    some |= {134: "crane bird", 517: "crane", 638: "maillot", 639: "maillot, tank suit", 963: "pizza, pizza pie"}
    some |= {657: "missile", 744: "projectile, missile", 999: "toilet tissue, toilet paper, bathroom tissue"}
    assert {number: names[number] for number in some} == some


def test_class_maps(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("1 red deer\n0 fox\n\n2 owl\n")
    assert read_class_names(str(path), 3) == ["fox", "red deer", "owl"]
    assert read_class_names(str(path), 2) == ["fox", "red deer"]
    path.write_text("fox\nred deer\nowl\n")
    assert read_class_names(str(path), 3) == ["fox", "red deer", "owl"]
    with pytest.raises(UserError, match="none is class 3"):
        read_class_names(str(path), 4)
    path.write_text("0 fox\n0 owl\n")
    with pytest.raises(UserError, match="line 2: class 0 has two names"):
        read_class_names(str(path), 1)
    path.write_bytes(b"0 f\xff\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_class_names(str(path), 1)
