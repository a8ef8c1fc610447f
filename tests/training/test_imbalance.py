"""Rare classes: weights in the loss, the focal loss, epochs drawn by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import tensor
from torch.nn import functional as F
from training import assert_same_checkpoint

from utils.reading.balance import balanced_order
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader
from utils.training.imbalance import read_class_weights, weights_of_counts
from utils.training.loss import Targets, classification_loss, labels_loss

COUNTS = np.array([400, 100, 0, 4])


def test_weights_by_numbers_of_images():
    balanced = weights_of_counts("balanced", COUNTS, 0.0)
    assert np.allclose(balanced, [504 / 3 / 400, 504 / 3 / 100, 1, 504 / 3 / 4])  # scikit-learn's "balanced"
    root = weights_of_counts("sqrt", COUNTS, 0.0)
    assert np.allclose(root[[1, 3]] / root[0], [2, 10]) and np.isclose((root * COUNTS).sum(), COUNTS.sum())
    effective = weights_of_counts("effective", COUNTS, 0.99)
    published = 0.01 / (1 - 0.99 ** np.array([400, 100, 4]))
    assert np.allclose(effective[[0, 1, 3]], published / published.sum() * 3)
    assert np.allclose(weights_of_counts("effective", COUNTS, 0.0), 1)


def test_weighted_and_focal_loss():
    """By their definitions, and so that parts of a batch add up to the whole."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, dtype=torch.float64), tensor([0, 1, 2, 3, 1, 1])
    weights = tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    expected = (-weights[labels] * (1 - p) ** 2 * p.log()).mean()

    def loss(rows, **options):
        return classification_loss(logits[rows], Targets(labels[rows]), class_weights=weights, **options)

    whole = loss(slice(0, 6), focal_gamma=2.0)
    assert torch.allclose(whole, expected)
    assert torch.allclose((loss(slice(0, 2), focal_gamma=2.0) + 2 * loss(slice(2, 6), focal_gamma=2.0)) / 3, whole)
    smooth = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    got = loss(slice(0, 6), smoothing=0.1, focal_gamma=2.0)
    assert torch.allclose(got, (smooth * weights[labels] * (1 - p) ** 2).mean())
    mixed = classification_loss(logits, Targets(labels, labels.flip(0), 0.3), class_weights=weights)
    each = [F.cross_entropy(logits, y, reduction="none") * weights[y] for y in (labels, labels.flip(0))]
    assert torch.allclose(mixed, (0.3 * each[0] + 0.7 * each[1]).mean())
    # Of several labels, Lin et al.'s own.
    several = (torch.rand(6, 4) > 0.5).long()
    right = torch.where(several > 0, logits.sigmoid(), 1 - logits.sigmoid())
    assert torch.allclose(
        labels_loss(logits, Targets(several), focal_gamma=2.0), (-((1 - right) ** 2) * right.log()).mean()
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_of_a_sure_answer_has_a_gradient(gamma):
    logits = tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    classification_loss(logits, Targets(tensor([0, 0])), focal_gamma=gamma).backward()
    assert logits.grad.isfinite().all() and logits.grad[1, 0] < 0


def test_an_epoch_that_is_drawn_by_class():
    labels = np.repeat([0, 1, 3], [400, 100, 4])[np.random.default_rng(0).permutation(504)]
    order = balanced_order(labels, 0.0, 1, 0)
    assert len(order) == 504 and len(np.unique(order)) == 504  # one that comes again has other random numbers
    classes, counts = np.unique(labels[order % 504], return_counts=True)
    assert classes.tolist() == [0, 1, 3] and counts.tolist() == [168, 168, 168]
    rare = np.bincount(order % 504, minlength=504)[labels == 3]
    assert rare.tolist() == [42] * 4
    common = np.bincount(order % 504, minlength=504)[labels == 1]
    assert sorted(set(common)) == [1, 2]
    roots = np.bincount(labels[balanced_order(labels, 0.5, 1, 0) % 504])
    assert np.abs(roots - 504 * np.array([20, 10, 0, 2]) / 32).max() < 1
    assert np.array_equal(order, balanced_order(labels, 0.0, 1, 0))
    assert not np.array_equal(order, balanced_order(labels, 0.0, 1, 1))
    # The fraction of an image that a class is due is made up for over the epochs.
    means = np.mean([np.bincount(labels[balanced_order(labels, 0.5, 1, e) % 504]) for e in range(200)], axis=0)
    assert np.allclose(means, 504 * np.array([20, 10, 0, 2]) / 32, atol=0.12)


def test_processes_share_what_is_drawn():
    labels = np.repeat([0, 1], [28, 4])
    images = ImageList.from_paths([f"{n}.jpg" for n in range(32)], labels)

    def steps(world_size):
        options = {"batch_size": 8 // world_size, "training": True, "balance": 0.0, "world_size": world_size}
        parts = [Loader(images, None, rank=rank, **options)._steps(1, 1) for rank in range(world_size)]
        return [np.concatenate([rows for _, rows in step]).tolist() for step in zip(*parts, strict=True)]

    assert steps(1) == steps(2) and len(steps(1)) == 3


def test_a_run(train_here, tiny_dataset, tmp_path):
    """One that is resumed within an epoch ends with the same weights, whatever it is weighed by."""
    flags = {"balance_classes": "full", "class_weights": "effective", "focal_gamma": 2, "validate": False}
    whole = train_here(tiny_dataset, tmp_path / "whole", num_epochs=2, **flags)
    assert whole.code == 0 and "has weight 1;" in whole.out and "both favour rare classes" in whole.err
    assert train_here(tiny_dataset, tmp_path / "parts", num_epochs=2, max_iter=4, **flags).code == 0
    assert train_here(tiny_dataset, tmp_path / "parts", num_epochs=2, checkpoint="auto", **flags).code == 0
    network = next((tmp_path / "whole").iterdir()).name
    assert_same_checkpoint(tmp_path / "whole" / network / "latest", tmp_path / "parts" / network / "latest")
    first = [
        train_here(tiny_dataset, tmp_path / name, max_iter=1, validate=False, **own).out.split("loss ")[1].split(",")[0]
        for name, own in (("plain", {}), ("drawn", {"balance_classes": "full"}), ("focal", {"focal_gamma": 2}))
    ]
    assert len(set(first)) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"class_weights": "nothing.txt"},
            "--class_weights nothing.txt: no such file or directory; give a file, or one of balanced",
        ),
        (
            {"class_weights": "sqrt", "label_from": "blur", "train_transforms": "blur"},
            "--class_weights needs one label per image",
        ),
        ({"balance_classes": "full", "shuffle": False}, "leave it out, or --shuffle=False"),
        ({"balance_classes": "full", "augment_repeats": 2}, "leave it out, or --augment_repeats"),
        ({"balance_classes": "half"}, "--balance_classes: 'half' is not one of full, sqrt"),
        ({"focal_gamma": -1}, "--focal_gamma: -1 is not allowed"),
    ],
)
def test_refusals(train_here, tiny_dataset, tmp_path, flags, said):
    result = train_here(tiny_dataset, tmp_path, **flags)
    assert said in result.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n2\n", "1 classes have no weight, such as 2"),
        ("1\n2\n3\n4\n", "line 4: there is no class 3 of 3"),
        ("0 1\n0 2\n", "line 2: class 0 appears twice"),
        ("1\n-2\n3", "line 2: '-2' is neither a weight"),
        ("1\nnan\n3", "line 2: 'nan' is neither a weight"),
        ("0\n0\n0\n", "all weights are 0"),
        ("\xff", "not a text file"),
    ],
)
def test_files_of_weights_that_are_refused(tmp_path, text, said):
    (tmp_path / "weights.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(Exception, match=said):
        read_class_weights(str(tmp_path / "weights.txt"), 3)


def test_files_of_weights(tmp_path):
    for text in ("1\n2\n0.5\n", "# of the classes\n2 0.5\n0,1\n\n1 2\n"):
        (tmp_path / "weights.txt").write_text(text)
        assert read_class_weights(str(tmp_path / "weights.txt"), 3).tolist() == [1, 2, 0.5]
