"""The learning-rate range test."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from training import NETWORK, losses

from utils.training.rate_test import RateTest


def test_the_rate_that_is_suggested():
    """It is the steepest place before the lowest one, whatever single batches say."""
    rates = np.geomspace(1e-6, 10, 100)
    values = 2.3 - 1.2 / (1 + (1e-2 / rates) ** 2) + 5 * (rates > 0.8) * (rates - 0.8)
    noise = np.random.default_rng(0).normal(0, 0.03, 100)
    found = RateTest(rates.tolist(), (values + noise).tolist())
    assert 4e-3 < found.suggested < 2.5e-2
    assert RateTest(rates.tolist(), np.linspace(2, 3, 100).tolist()).suggested is None


def test_a_test(train_here, tiny_dataset, tmp_path):
    """It goes over more than an epoch, and writes two files and no run."""
    out, path = tmp_path / "out", tmp_path / "test" / "rates.png"
    flags = {"lr_range_test": path, "batch_size": 24, "max_iter": 15}
    result = train_here(tiny_dataset, out, **flags)
    assert result.code == 0 and not out.exists()
    assert "the loss falls fastest at --lr=" in result.out or "never fell" in result.err
    assert path.read_bytes().startswith(b"\x89PNG") and len(list(path.parent.iterdir())) == 2
    rows = list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
    rates = [float(row["lr"]) for row in rows]
    assert rates[0] == 1e-6 and np.allclose(np.diff(np.log10(rates)), 7 / 14, atol=1e-3) and 5 < len(rows) <= 15
    # The first losses are those of a run's first steps, at a rate of almost nothing.
    plain = train_here(tiny_dataset, out, batch_size=24, max_iter=1, validate=False)
    assert losses(plain.out)[0] == pytest.approx(float(rows[0]["loss"]), abs=2e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"lr_range_test": "rates.txt"}, "--lr_range_test=rates.txt: give a file name ending in .png, .pdf, .svg"),
        ({"lr_range_test": "/dev/null/rates.png"}, "--lr_range_test: cannot write"),
        ({"lr_range_test": "rates.png", "checkpoint": "auto"}, "leave out --checkpoint"),
        ({"lr_range_test": "rates.png", "max_iter": 3}, "--max_iter 3 is too few steps"),
        ({"lr_range_test": "rates.png", "seeds": 2}, "--lr_range_test and --seeds: leave out one of them"),
    ],
)
def test_refusals(train_here, tiny_dataset, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    result = train_here(tiny_dataset, tmp_path / "out", **flags)
    assert said in result.error and not (tmp_path / "out" / NETWORK).exists() and not list(tmp_path.iterdir())
