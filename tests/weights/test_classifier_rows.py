"""Rows of a classifier that are kept by class name."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from utils.errors import UserError
from utils.weights import load_pretrained
from utils.weights.notes import CLASS_NAMES
from utils.weights.write import save_weights

OLD = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network with three classes whose names are noted."""
    path = tmp_path_factory.mktemp("weights") / "old.safetensors"
    torch.manual_seed(0)
    save_weights(models.build("MobileNetV1_x0_25", class_dim=3), path, {CLASS_NAMES: OLD})
    return path


def fresh(classes):
    torch.manual_seed(1)
    return models.build("MobileNetV1_x0_25", class_dim=classes)


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        (["ant", "owl", "bee", "cat"], {1: 2, 3: 0}),  # others, more of them
        (["owl", "cat"], {0: 2, 1: 0}),
        (["owl", "dog", "Cat"], {0: 2, 1: 1}),  # the same number of classes; names must match exactly
        (["owl", "owl", None], {}),
    ],
)
def test_rows(weights, new, kept):
    model, before, there = fresh(len(new)), fresh(len(new)), load_file(weights)
    if not kept:
        assert load_pretrained(model, weights, class_names=new).kept is None
        assert torch.equal(model.fc.weight, there["fc.weight"])  # nothing says that they differ
        return
    report = load_pretrained(model, weights, class_names=new)
    assert f"kept the classifier's rows of {len(kept)} of {len(new)} classes, matched by name" in str(report)
    for name in ("weight", "bias"):
        for row in range(len(new)):
            expected = there[f"fc.{name}"][kept[row]] if row in kept else getattr(before.fc, name)[row]
            assert torch.equal(getattr(model.fc, name)[row], expected)
    name, first = next(model.named_parameters())
    assert torch.equal(first, there[name])


def test_where_nothing_is_kept(weights, tmp_path):
    """All names the same, no names the same, an excluded classifier, and weights without noted names."""
    assert load_pretrained(fresh(3), weights, class_names=OLD).kept is None
    with pytest.raises(UserError, match=r"its classifier .* has 3 classes, but the network has 2"):
        load_pretrained(fresh(2), weights, class_names=["ant", "bee"])
    left = load_pretrained(fresh(2), weights, ["fc"], class_names=["owl", "cat"])
    assert left.kept is None and left.left_out == 2
    save_file(load_file(weights), tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="has 3 classes, but the network has 2"):
        load_pretrained(fresh(2), tmp_path / "plain.safetensors", class_names=["owl", "cat"])


def test_training_goes_on_from_them(train_here, data, tmp_path):
    """A run on data with two old classes, in another order, and two new ones keeps the old ones' rows."""
    first = train_here(data, tmp_path / "first", validate=False)
    assert first.code == 0
    weights = next((tmp_path / "first").glob("*/latest/weights.safetensors"))
    names = [line.split()[1] for line in (data / "label_names.txt").read_text().splitlines()]
    number = {names[1]: 0, names[2]: 1, names[0]: 2, names[3]: 3}
    called = {names[2]: "other", names[3]: "another"}
    (data / "label_names.txt").unlink()
    for part in ("train", "val"):
        for old, new in called.items():
            (data / part / old).rename(data / part / new)
        paths = [line.split()[0].split("/") for line in (data / f"{part}_list.txt").read_text().splitlines()]
        lines = [f"{part}/{called.get(name, name)}/{file} {number[name]}\n" for _, name, file in paths]
        (data / f"{part}_list.txt").write_text("".join(lines))
    second = train_here(data, tmp_path / "second", validate=False, pretrained_model=weights, max_iter=1)
    assert second.code == 0 and "kept the classifier's rows of 2 of 4 classes" in second.out
