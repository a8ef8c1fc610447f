"""The losses of distillation, as PaddleClas defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from utils.errors import FlagError
from utils.flags import parse
from utils.training.build import check_distillation
from utils.training.distill_terms import Term, terms_of_words
from utils.training.distillation import Distillation
from utils.training.loss import Targets, label_weights

# Computed with PaddlePaddle 3.3.1 in float64 by PaddleClas's definitions, from the logits and labels of `batch`.
EXPECTED = {
    "kl": 3.6462193678,
    "dml": 1.8001893526,
    "dml:act=sigmoid:sum": 6.7616234648,
    "dml:weight_ratio": 3.0241907741,
    "dist:beta=2:gamma=0.5": 2.4907803386,
    "dkd:temperature=2:alpha=1.5:beta=0.7": 3.2620713451,
    "skd:temperature=1.5:multiplier=2:alpha=0.8": 4.4313742099,
    "wsl": 4.6092531777,
    "soft_ce": 1.9337118290,
}


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a student and of its teacher, a label, and several labels of each image."""
    random = np.random.RandomState(0)
    student, teacher = 2 * random.randn(5, 4), 3 * random.randn(5, 4)
    one, several = random.randint(0, 4, 5), random.randint(0, 2, (5, 4))
    return tuple(torch.from_numpy(values) for values in (student, teacher, one, several))


def distillation(*words: str) -> Distillation:
    weights = label_weights(torch.tensor([0.1, 0.4, 0.5, 0.8]))
    return Distillation(nn.Identity(), nn.Identity(), terms_of_words(words, 1.0, 0.5), 0.0, weights).loss


@pytest.mark.parametrize(("word", "expected"), EXPECTED.items())
def test_losses_are_those_of_paddleclas(word, expected):
    student, teacher, one, several = batch()
    targets = Targets(several if "weight_ratio" in word else one)
    assert distillation(word)(student, teacher, targets).item() == pytest.approx(expected, rel=2e-6)
    outputs = student.float(), teacher.float(), student.float()
    alone = distillation(word)(student.float(), teacher, targets)
    same = distillation(word)(teacher.float(), teacher, targets)
    torch.testing.assert_close(distillation(word)(outputs, teacher, targets), 1.3 * alone + 0.3 * same)


def test_losses_are_summed_by_their_weights():
    student, teacher, one, several = batch()
    parts = [distillation(word)(student, teacher, Targets(one)).item() for word in ("ce:epsilon=0.1", "dkd")]
    both = distillation("ce:epsilon=0.1", "dkd:weight=0.5")(student, teacher, Targets(one))
    assert both.item() == pytest.approx(parts[0] + 0.5 * parts[1])
    mixed = distillation("wsl")(student, teacher, Targets(one, one.flip(0), 0.3)).item()
    first, second = (distillation("wsl")(student, teacher, Targets(labels)).item() for labels in (one, one.flip(0)))
    assert mixed == pytest.approx(0.3 * first + 0.7 * second)
    hard = distillation("multi_label:weight_ratio:sum", "dml")(student, teacher, Targets(several))
    assert hard.item() > distillation("dml")(student, teacher, Targets(several)).item()
    assert terms_of_words(["soft"], 3.0, 0.25) == (Term("ce", 0.75), Term("soft_ce", 0.25, {"temperature": 3.0}))


@pytest.mark.parametrize("word", ["kl", "dml", "dist", "dkd", "skd", "wsl"])
def test_a_student_learns_from_every_loss(word):
    student, teacher, one, _ = batch()
    student.requires_grad_()
    distillation(word)(student, teacher, Targets(one)).backward()
    assert student.grad.isfinite().all() and student.grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--distill_loss=klx"], "--distill_loss: klx: no such loss: did you mean kl"),
        (["--distill_loss=kl:temperatur=2"], "no option 'temperatur'; did you mean temperature"),
        (["--distill_loss=kl:temperature=0"], "temperature: 0 is not allowed"),
        (["--distill_loss=dml:act=tanh"], "'tanh' is not one of softmax, sigmoid"),
        (
            ["--unlabeled_list=a.txt", "--distill_loss", "js", "dkd"],
            "losses without labels, such as js, but .* contains dkd",
        ),
        (["--multi_label=1", "--distill_loss=ce"], "ce is for single-label images; with --multi_label give"),
        (["--distill_loss=multi_label"], "multi_label is for images with several labels: give --multi_label=True"),
    ],
)
def test_bad_losses(flags, message):
    with pytest.raises(FlagError, match=message):
        check_distillation(parse("train", ["--use_distill=True", *flags]))
    with pytest.raises(FlagError, match="--unlabeled_list needs --use_distill=True"):
        check_distillation(parse("train", ["--unlabeled_list=a.txt"]))
