"""Loss and accuracy, summed over steps."""

from __future__ import annotations

import math

import torch

from utils.evaluation.metrics import Meter, describe, means, total

CPU = torch.device("cpu")
# The classes 2, 0 and 1 are first; 1 is among the first two of each.
LOGITS = torch.tensor([[0.0, 1, 2], [2, 1, 0], [0, 2, 1]])


def test_means_are_by_image_and_accuracies_by_label():
    """An image without a label has a loss, and is neither right nor wrong."""
    meter = Meter(CPU, topk=2)
    meter.add(torch.tensor(3.0), LOGITS, torch.tensor([2, 1, -1]))
    meter.add(torch.tensor(1.0), LOGITS[:1], torch.tensor([0]))
    values = total(meter.take())
    assert values["loss"] == (3 * 3 + 1) / 4
    assert (values["acc1"], values["acck"]) == (1 / 3, 2 / 3)
    assert (values["images"], values["bad"]) == (4, 0)
    assert total(meter.take())["images"] == 0  # it starts again


def test_a_loss_that_is_not_finite_is_counted_and_left_out():
    meter = Meter(CPU)
    for number, loss in enumerate((1.0, math.nan, math.inf, 3.0)):
        meter.add(torch.tensor(loss), LOGITS, torch.tensor([2, 0, 1]), number)
    assert meter.first_bad == 1
    values = means(meter.take())
    assert (values["loss"], values["bad"], values["images"], values["acc1"]) == (2.0, 2, 12, 1.0)
    assert meter.first_bad == -1
    meter.add(torch.tensor(math.nan), LOGITS, torch.tensor([2, 0, 1]), 7)
    assert meter.first_bad == 7 and math.isnan(means(meter.sums)["loss"])


def test_sums_do_not_lose_small_numbers():
    """As they would in float32, after an epoch of ImageNet."""
    meter = Meter(CPU)
    meter.sums += 2.0**24
    meter.add(torch.tensor(1.0), LOGITS[:1], torch.tensor([2]))
    assert (meter.sums[:6] == 2.0**24 + 1).all()


def test_the_fields_of_a_line():
    values = {"loss": 6.931471, "acc1": 0.5, "acck": 1.0}
    assert describe(values, ("acc1", "acc4")) == "loss 6.93147, acc1 0.50000, acc4 1.00000"
    assert describe(values, ("acc1", "acc5"), "test_", accuracy=False) == "test_loss 6.93147"
