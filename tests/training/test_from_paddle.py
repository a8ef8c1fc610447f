"""Trainings of PaddlePaddle's go on here as they would there: states that it wrote, and what it made of them."""

from __future__ import annotations

import numpy as np
import pytest
import training_states
from training_states import FLUID, FORMS, PADDLECLAS, SAVED


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    return training_states.unpack(tmp_path_factory.mktemp("states"))


@pytest.fixture(autouse=True)
def known_network(monkeypatch):
    """Combined files have no names: they are those of the network's."""
    monkeypatch.setattr("utils.training.paddle_states.models.build", lambda name, class_dim: training_states.Tiny())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", FLUID)
def test_fluid(states, case, form):
    step = training_states.build(*FLUID[case])
    place = training_states.resume(step, states / form.format(case))
    assert (place.epoch, place.step_in_epoch, place.step) == (2, 0, 4)
    assert place.ahead == (2 if case == "rmsprop_average" else 0)  # it validated twice, with the average
    compare(step, training_states.figures("1.8")[case])


@pytest.mark.parametrize("case", PADDLECLAS)
def test_paddleclas(states, case):
    step = training_states.build(*PADDLECLAS[case])
    place = training_states.resume(step, states / case / "epoch_2")
    assert (place.epoch, place.step_in_epoch, place.step, place.ahead) == (2, 0, 4, 0)
    compare(step, training_states.figures("3.3")[case])


def compare(step, expected):
    rates, losses = training_states.train(step)
    np.testing.assert_allclose(rates, expected["rates"][SAVED:], rtol=1e-6)
    np.testing.assert_allclose(losses, expected["losses"][SAVED:], rtol=2e-6)
    np.testing.assert_allclose(training_states.logits(step.model), expected["logits"], atol=2e-6)
    if step.ema:
        np.testing.assert_allclose(training_states.logits(step.ema.model), expected["averaged"], atol=2e-6)
