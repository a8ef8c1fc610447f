"""One seed for a run, and random states that are taken up again."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from utils.training import seed as seed_module
from utils.training.seed import random_state, seed_everything, set_random_state


@pytest.fixture(autouse=True)
def settings_restored(monkeypatch):
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.random(), torch.rand(()).item()


@pytest.mark.parametrize("seed", [3, 2**63 - 2**10])
def test_every_source_is_seeded(seed, monkeypatch):
    """Each process has numbers of its own, and all of them the same seed of the run."""
    assert seed_everything(seed) == seed
    first = draws()
    assert seed_everything(seed) == seed
    assert draws() == first
    monkeypatch.setattr(seed_module, "rank", lambda: 1)
    assert seed_everything(seed) == seed
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_without_a_seed_one_is_drawn_unless_all_is_to_repeat():
    drawn = {seed_everything(None) for _ in range(3)}
    assert len(drawn) == 3 and all(0 <= seed < 2**31 for seed in drawn)
    assert not torch.are_deterministic_algorithms_enabled()
    assert seed_everything(None, deterministic=True) == 0
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic


def test_deterministic_operations_of_a_gpu(monkeypatch):
    """cuBLAS is told by the environment, unless the user told it; cuDNN's fastest algorithms are for other runs."""
    seed_everything(1)
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    seed_everything(1, deterministic=True)
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    seed_everything(1, deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_state_is_taken_up():
    device = torch.device("cpu")
    seed_everything(1)
    torch.rand(5)
    state = random_state(device)
    expected = torch.rand(5)
    torch.rand(5)
    set_random_state(state, device)
    assert torch.equal(torch.rand(5), expected)
