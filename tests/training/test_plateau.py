"""The rate that goes by validation: PaddlePaddle's, and through a run that is resumed."""

from __future__ import annotations

import math
import re

import pytest
from training import assert_same_checkpoint

from utils.training.plateau import Plateau

FIGURES = (0.1, 0.3, 0.29, 0.3, 0.31, 0.305, 0.2, 0.31, 0.5, 0.5, 0.5, 0.49, 0.5001, 0.52, 0.1, 0.1, 0.1, 0.6)


@pytest.mark.parametrize(
    ("options", "falls"),
    [
        # After which of the figures PaddlePaddle 3.3.1's ReduceOnPlateau, from 0.1, changes the rate, and to what.
        ({"factor": 0.5, "patience": 1}, {3: 0.05, 6: 0.025, 10: 0.0125, 15: 0.00625}),
        (
            {"factor": 0.1, "patience": 0, "threshold": 0.05, "cooldown": 2, "min_lr": 0.002},
            {2: 0.01, 5: 0.002},
        ),
        (
            {"factor": 0.5, "patience": 2, "threshold": 0.01, "cooldown": 1, "mode": "min"},
            {3: 0.05, 7: 0.025, 11: 0.0125, 15: 0.00625},
        ),
        (
            {"factor": 0.5, "patience": 1, "threshold": 0.02, "cooldown": 1, "absolute": True},
            {3: 0.05, 6: 0.025, 10: 0.0125, 13: 0.00625, 16: 0.003125},
        ),
    ],
)
def test_the_rates_of_the_original(options, falls):
    plateau, rate = Plateau(0.1, **options), 0.1
    for number, figure in enumerate(FIGURES):
        plateau.update(figure)
        rate = falls.get(number, rate)
        assert math.isclose(plateau.rate, rate, rel_tol=1e-12), number
        again = Plateau(0.1, **options)
        again.load_state_dict(plateau.state_dict())
        plateau = again  # as a run that is resumed after each of them


def test_a_figure_that_is_none_is_no_better():
    plateau = Plateau(0.1, 0.5, patience=0)
    plateau.update(0.5)
    plateau.update(math.nan)
    assert plateau.rate == 0.05 and plateau.best == 0.5


def test_a_run(train_here, tiny_dataset, tmp_path):
    """With a threshold that no accuracy reaches the rate falls after the second validation, and after each later one;
    a resumed run goes on with the rate, and ends with the same weights."""
    flags = {"lr_strategy": "reduce_on_plateau", "decay_rate": 0.5, "plateau_patience": 0, "plateau_threshold": 9}
    whole = train_here(tiny_dataset, tmp_path / "whole", num_epochs=4, **flags)
    assert whole.code == 0
    rates = dict(re.findall(r"\[Pass (\d), .* lr ([\d.e-]+)", whole.out))
    assert rates == {"0": "0.01000", "1": "0.01000", "2": "0.00500", "3": "0.00250"}
    assert train_here(tiny_dataset, tmp_path / "parts", num_epochs=3, **flags).code == 0
    assert train_here(tiny_dataset, tmp_path / "parts", num_epochs=4, checkpoint="auto", **flags).code == 0
    network = next((tmp_path / "whole").iterdir()).name
    assert_same_checkpoint(tmp_path / "whole" / network / "latest", tmp_path / "parts" / network / "latest")
    refused = train_here(tiny_dataset, tmp_path / "none", validate=False, **flags)
    assert "needs validation" in refused.error and refused.code == 2
