"""The training loss: labels, smoothing, mixing, side classifiers, a teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.network import main_output
from utils.training.distill_terms import terms_of_words
from utils.training.distillation import Distillation
from utils.training.loss import Targets, classification_loss, jensen_shannon_loss, soft_label_loss


def logits_and_labels() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(5, (6,), generator=generator), torch.randint(5, (6,), generator=generator)


def cross_entropy(logits: torch.Tensor, distribution: torch.Tensor) -> torch.Tensor:
    return -(distribution * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_and_smoothed_labels(smoothing):
    """The cross entropy of the mixed one-hot vectors, which the smoothing leaves 1 - epsilon of."""
    logits, labels, mixed = logits_and_labels()
    one_hot = 0.7 * F.one_hot(labels, 5) + 0.3 * F.one_hot(mixed, 5)
    expected = cross_entropy(logits, (1 - smoothing) * one_hot + smoothing / 5)
    torch.testing.assert_close(classification_loss(logits, Targets(labels, mixed, 0.7), smoothing), expected)
    expected = cross_entropy(logits, (1 - smoothing) * F.one_hot(labels, 5) + smoothing / 5)
    torch.testing.assert_close(classification_loss(logits, Targets(labels), smoothing), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_of_mixed_precision_are_widened(dtype, smoothing):
    """Every logarithm is float32, also where autocast leaves it to the loss, as on GPUs: no autocast here."""
    logits, labels, mixed = logits_and_labels()
    logits = (20 * logits).to(dtype)
    targets = Targets(labels, mixed, 0.7)
    loss = classification_loss(logits, targets, smoothing)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, classification_loss(logits.float(), targets, smoothing), rtol=0, atol=0)


def test_side_classifiers_count_three_tenths():
    logits, labels, _ = logits_and_labels()
    outputs = logits, 2 * logits, -logits
    expected = sum(w * F.cross_entropy(x, labels) for w, x in zip((1, 0.3, 0.3), outputs, strict=True))
    torch.testing.assert_close(classification_loss(outputs, Targets(labels)), expected)
    assert main_output(outputs) is logits and main_output(logits) is logits


def test_distillation_losses():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    p, q = student.softmax(1), teacher.softmax(1)
    m = (p + q) / 2
    js = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
    torch.testing.assert_close(jensen_shannon_loss(student, teacher).double(), js, rtol=1e-5, atol=1e-7)
    assert jensen_shannon_loss(student, student).abs() < 1e-6
    torch.testing.assert_close(jensen_shannon_loss(student, teacher), jensen_shannon_loss(teacher, student))

    soft = -4 * ((teacher / 2).softmax(1) * (student / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_label_loss(student, teacher, 2.0).double(), soft, rtol=1e-5, atol=1e-7)

    # Side classifiers learn from the teacher too, with 0.3 each.
    outputs = student, teacher, 2 * student
    sides = jensen_shannon_loss(student, teacher) + 0.3 * jensen_shannon_loss(2 * student, teacher)
    labels = Targets(torch.tensor([0, 1, 2, 3, 4, 0]))
    js, soft = (
        Distillation(nn.Identity(), nn.Identity(), terms_of_words([word], 2.0, 0.25)).loss for word in ("js", "soft")
    )
    torch.testing.assert_close(js(outputs, teacher, labels), sides)
    hard = classification_loss(outputs, labels)
    sides = sum(w * soft_label_loss(x, teacher, 2.0) for w, x in zip((1, 0.3, 0.3), outputs, strict=True))
    torch.testing.assert_close(soft(outputs, teacher, labels), 0.75 * hard + 0.25 * sides, check_dtype=False)
