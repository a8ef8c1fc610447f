"""Losses of what layers give, and teachers that learn: values, gradients and steps as PaddlePaddle 3.3.1 has them in
float64 by PaddleClas's definitions (tests/fixtures/paddleclas_distillation.json)."""

from __future__ import annotations

import copy
import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import models
from models.names import paddleclas_names
from utils.errors import FlagError, UserError
from utils.flags import parse
from utils.training.build import build_train_step, check_distillation
from utils.training.checkpoint import TEACHER_WEIGHTS, Position, RunFolder
from utils.training.distill_terms import terms_of_words
from utils.training.distillation import Distillation
from utils.training.feature_losses import AttentionTransfer, MaskedGeneration, ProjectorEnsemble, distance
from utils.training.loss import Targets
from utils.training.optimizer import build_optimizer
from utils.training.running_variance import average_biased_variance
from utils.training.schedule import Schedule
from utils.training.start import check_resumed
from utils.training.step import TrainStep
from utils.weights.notes import read_network_notes

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "paddleclas_distillation.json").read_text())
LOSSES = REFERENCE["losses"]
OF_MAPS = ("distance", "mgd", "pefd", "afd")
RATE = 1 / 32  # as the decay and the momentum, what float32 has no rounding for
SMALL = "PPLCNet_x0_25"
BOTH = ["ce", "teacher_ce", "dml", "distance:layer=blocks5"]


def values(seed: int, *shape: int) -> torch.Tensor:
    """Known values in float64, that gradients are taken of."""
    return torch.tensor(np.random.RandomState(seed).randn(*shape), requires_grad=True)


def summary(gradient: torch.Tensor | None) -> list[float]:
    """Two sums that tell a gradient from others."""
    if gradient is None:
        return [0.0, 0.0]
    flat = gradient.flatten().double()
    return [float(flat @ torch.arange(len(flat)).double().cos()), float(flat.abs().sum())]


def known(loss: nn.Module) -> nn.Module:
    """The loss in float64 with known parameters; linear layers' are drawn as [in, out]."""
    for name, parameter in loss.double().named_parameters():
        turned = name.endswith("linear.weight")
        drawn = (
            0.3 * values(zlib.crc32(name.encode()), *(parameter.shape[::-1] if turned else parameter.shape)).detach()
        )
        parameter.data.copy_(drawn.t() if turned else drawn)
    return loss


def compare(name: str, loss: torch.Tensor, student: list, teacher: list, module: nn.Module | None = None) -> None:
    """The loss, and its gradients, with those of PaddlePaddle."""
    loss.backward()
    expected = LOSSES[name]
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-10)
    for tensors, sums in ((student, expected["student"]), (teacher, expected["teacher"])):
        found = [summary(x.grad) for x in tensors]
        np.testing.assert_allclose(found, sums, rtol=1e-8, atol=1e-11)
    named = dict(module.named_parameters()) if module is not None else {}
    for key, sums in expected["parameters"].items():
        gradient = named[key].grad
        gradient = gradient.t() if key.endswith("linear.weight") else gradient
        np.testing.assert_allclose(summary(gradient), sums, rtol=1e-7, atol=1e-11, err_msg=key)


@pytest.mark.parametrize("name", [name for name in LOSSES if name.startswith(OF_MAPS)])
def test_losses_of_maps_are_those_of_paddleclas(name, monkeypatch):
    student, teacher = values(0, 3, 4, 5, 5), values(1, 3, 4, 5, 5)
    module = None
    if name.startswith("distance"):
        (term,) = terms_of_words([name], 1.0, 0.5)
        loss = distance(student, teacher, **term.options)
    elif name == "afd":
        mine = [values(10, 3, 4, 6, 6), values(11, 3, 5, 3, 3)]
        theirs = [values(12, 3, 4, 6, 6), values(13, 3, 4, 6, 6), values(14, 3, 7, 3, 3)]
        module = known(AttentionTransfer([x.shape for x in mine], [x.shape for x in theirs], dim=8))
        compare(name, module(mine, theirs), mine, theirs, module)
        return
    else:
        student = student if name == "mgd" else values(2, 3, 6, 5, 5)
        kind = ProjectorEnsemble if name == "pefd" else MaskedGeneration
        module = known(kind(student.shape, teacher.shape))
        monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(np.random.RandomState(3).rand(3, 4, 1, 1)))
        loss = module(student, teacher)
    compare(name, loss, [student], [teacher], module)


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith(OF_MAPS)])
def test_what_pulls_at_a_teacher_pulls_at_paddleclas_s(name):
    student, teacher = values(20, 5, 4), values(21, 5, 4)
    targets = Targets(torch.tensor([0, 1, 2, 3, 1]))
    terms = terms_of_words([name], 1.0, 0.5)
    loss = Distillation(nn.Identity(), nn.Identity(), terms).loss(2 * student, 3 * teacher, targets)
    loss.backward()
    student.grad, teacher.grad = student.grad / 2, None if teacher.grad is None else teacher.grad / 3
    assert loss.item() == pytest.approx(LOSSES[name]["loss"], rel=1e-9)
    for tensor, (sums,) in ((student, LOSSES[name]["student"]), (teacher, LOSSES[name]["teacher"])):
        np.testing.assert_allclose(summary(tensor.grad), sums, rtol=1e-6, atol=1e-9)


def known_network(whose: str) -> nn.Module:
    """The network with known weights, by PaddleClas's names."""
    model = models.build(SMALL, class_dim=5, dropout=0.0).double().train()
    for key, name in paddleclas_names(model).items():
        tensor = model.state_dict()[key]
        random = np.random.RandomState(zlib.crc32(f"{whose}.{name}".encode()))
        shape = tuple(tensor.shape if tensor.dim() != 2 else tensor.shape[::-1])
        if name.endswith(("_mean", "_variance")):
            continue
        if len(shape) > 1:
            fan = math.prod(shape[1:]) if len(shape) == 4 else shape[0]
            drawn = random.uniform(-1, 1, shape) * math.sqrt(3 / fan)
        else:
            drawn = random.uniform(-0.1, 0.1, shape) if name.endswith("bias") else random.uniform(0.5, 1.5, shape)
        tensor.copy_(torch.from_numpy(drawn if len(shape) != 2 else drawn.T))
    average_biased_variance(model)
    return model


def known_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.RandomState(1000 + number)
    return torch.from_numpy(random.uniform(-2, 2, (6, 3, 32, 32))), torch.from_numpy(random.randint(0, 5, (6,)))


def learning_step(student: nn.Module, teacher: nn.Module, words: list[str], **options) -> TrainStep:
    distillation = Distillation(student, teacher, terms_of_words(words, 1.0, 0.5), image_size=(32, 32))
    optimizer = build_optimizer(student, "constant", RATE, 1 / 128, 0.875, beside=distillation.learners().values())
    schedule = Schedule("default_decay", lr=RATE, steps_per_epoch=10, num_epochs=1)
    return TrainStep(student, optimizer, schedule, distillation=distillation, **options)


def test_steps_of_two_networks_that_learn_from_each_other():
    student, teacher = known_network("Student"), known_network("Teacher")
    step = learning_step(student, teacher, BOTH)
    found = [step(images, Targets(labels))[0].item() for images, labels in map(known_batch, range(3))]
    expected = REFERENCE["mutual"]
    # PaddlePaddle's hard sigmoid has 0.1666667 for 1/6, which is 95% of the difference.
    assert found == pytest.approx(expected["losses"], rel=1e-5)
    for model, logits in ((student, expected["student"]), (teacher, expected["teacher"])):
        with torch.no_grad():
            found = model.eval()(known_batch(9)[0][:2])
        assert (found - torch.tensor(logits)).abs().max() < 1e-5 * np.abs(logits).max()


@pytest.mark.parametrize("words", [BOTH, ["ce", "teacher_ce", "mgd", "pefd:layer=avg_pool", "afd:dim=8"]])
def test_a_step_taken_up_again(words):
    """Both networks, what losses learn, and the optimizer's memory of them."""
    torch.manual_seed(0)
    networks = [models.build(SMALL, class_dim=5) for _ in range(2)]
    whole, resumed = (learning_step(*copy.deepcopy(networks), words, clip_norm=1.0) for _ in range(2))
    images, targets = known_batch(0)[0].float(), Targets(known_batch(0)[1])
    whole(images, targets)
    for ours, theirs in ((resumed.model, whole.model), (resumed.learning_teacher, whole.learning_teacher)):
        ours.load_state_dict(theirs.state_dict())
    saved = copy.deepcopy(whole.state_dict())
    resumed.load_state_dict(saved)
    for step in (whole, resumed):
        torch.manual_seed(1)
        step(images, targets)
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    names = whole.parameter_names()
    assert (
        len(names)
        == len({*names})
        == len(saved["optimizer"]["param_groups"][0]["params"])
        + len(saved["optimizer"]["param_groups"][1]["params"])
        + sum(len(group["params"]) for group in saved["optimizer"]["param_groups"][2:])
    )
    assert any(name.startswith("teacher.blocks2") for name in names)
    assert any(name.startswith("losses.") for name in names) == (words is not BOTH)


def test_checkpoints_of_other_losses(tmp_path):
    networks = [models.build(SMALL, class_dim=5) for _ in range(2)]
    saved = learning_step(*copy.deepcopy(networks), ["ce", "teacher_ce", "pefd"]).state_dict()
    other = learning_step(*networks, ["ce", "teacher_ce", "pefd:projectors=2"])
    with pytest.raises(ValueError, match="the parameters of its --distill_loss had other shapes"):
        other.load_state_dict(saved)
    notes = {"model": SMALL, "class_dim": 5}
    with RunFolder(tmp_path / SMALL) as folder:
        assert folder.save(["0"], networks[0], Position(8), other.state_dict(), None, notes)
        assert folder.save(
            ["1"], networks[0], Position(8), other.state_dict(), None, notes, ("PPLCNet_x0_35", networks[1])
        )
    args = parse("train", [f"--model={SMALL}", "--class_dim=5", "--use_distill=True", "--teacher_learns=True"])
    with pytest.raises(
        UserError, match=r"--teacher_learns: .*/0 was saved without a teacher that learns: leave the flag"
    ):
        check_resumed(args, tmp_path / SMALL / "0", Position(8), notes)
    check_resumed(args, tmp_path / SMALL / "1", Position(8), notes)
    assert read_network_notes(str(tmp_path / SMALL / "1" / TEACHER_WEIGHTS))["model"] == "PPLCNet_x0_35"


def test_a_teacher_stays_in_the_mode_it_learns_in():
    args = parse(
        "train",
        [f"--model={SMALL}", "--class_dim=5", "--image_shape", "3", "32", "32", "--use_distill=True", "--sync_bn=1",
         f"--teacher_model={SMALL}", "--teacher_learns=True", "--running_variance=biased", "--use_ema=True",
         "--distill_loss", *BOTH],
    )  # fmt: skip
    step = build_train_step(args, models.build(SMALL, class_dim=5), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in step.learning_teacher.state_dict().items()}
    step.model.train()
    loss, logits = step(known_batch(0)[0].float(), Targets(known_batch(0)[1]))
    assert loss.isfinite() and logits.shape == (6, 5)
    after = step.learning_teacher.state_dict()
    assert step.learning_teacher.training and not any(torch.equal(after[name], before[name]) for name in before)
    assert type(step.learning_teacher.conv1.bn).__name__ == "BiasedBatchNorm2d"
    with torch.no_grad():  # nothing is caught of a validation
        step.ema.model(known_batch(0)[0].float())
    assert step.distillation._taps[0]._caught.keys() <= {"blocks5"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ce", "distance:layer=blocks7"], "distance: PPLCNet has no layer 'blocks7': did you mean blocks6?"),
        (["mgd:teacher_layer=blocks2"], "mgd: the maps are 128 x 1 x 1 and 8 x 16 x 16, but only their channels may"),
        (
            ["distance:layer=blocks4:teacher_layer=blocks5"],
            "distance: the layers' outputs are 32 x 4 x 4 and 64 x 2 x 2, but",
        ),
        (["afd:layers=blocks2+fc"], "afd: a layer's output is 5, which is not a feature map"),
        (
            ["pefd:layer=conv1:teacher_layer=avg_pool"],
            "pefd: the features are 8 x 16 x 16 and 128 x 1 x 1, but only",
        ),
    ],
)
def test_layers_that_do_not_go_together(words, message):
    model = models.build(SMALL, class_dim=5)
    with pytest.raises(FlagError, match=re.escape(f"--distill_loss: {message}")):
        Distillation(model, copy.deepcopy(model), terms_of_words(words, 1.0, 0.5), image_size=(32, 32))


def test_a_layer_that_is_written_over():
    model = models.build("ResNet18", class_dim=5)
    with pytest.raises(FlagError, match="the next layer overwrites the output of bn1: give --with_i"):
        Distillation(model, copy.deepcopy(model), terms_of_words(["distance:layer=bn1"], 1, 0), image_size=(32, 32))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--teacher_learns=True", "--distill_loss", "ce", "kl"],
            "--teacher_learns: the teacher cannot learn from ce, kl: add",
        ),
        (["--distill_loss", "ce", "teacher_ce"], "teacher_ce is for a teacher that learns: give --teacher_learns=True"),
        (["--multi_label=1", "--distill_loss=teacher_ce"], "teacher_ce is for single-label images"),
    ],
)
def test_losses_that_do_not_go_with_the_teacher(flags, message):
    with pytest.raises(FlagError, match=message):
        check_distillation(parse("train", ["--use_distill=True", *flags]))
