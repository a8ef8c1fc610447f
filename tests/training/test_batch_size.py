"""--batch_size=auto."""

from __future__ import annotations

import re

import pytest
import torch
from training import NETWORK, assert_same_checkpoint

from utils.errors import UserError
from utils.flags import parse
from utils.processes import gather_objects
from utils.system import free_memory
from utils.training import batch_size
from utils.training.batch_size import Probe, search


@pytest.mark.parametrize(
    ("limit", "fits", "speed", "by_speed", "chosen", "why"),
    [
        (1000, 90, lambda n: n, False, 88, "larger batches do not fit"),  # 64 + 16 + 8
        (1000, 100, lambda n: n, True, 64, "larger batches do not fit"),
        (1000, 5, lambda n: n, False, 5, "larger batches do not fit"),
        (1000, 999, lambda n: min(n, 32), True, 32, "larger batches are no faster"),
        (1000, 1000, lambda n: min(n, 32), False, 1000, "an epoch must have at least 10 steps"),
        (3, 1000, lambda n: n, True, 3, "an epoch must have at least 10 steps"),
    ],
)
def test_the_search(limit, fits, speed, by_speed, chosen, why):
    tried = []

    def attempt(size):
        tried.append(size)
        return float(speed(size)) if size <= fits else 0.0

    choice = search(limit, attempt, by_speed)
    assert choice.images == chosen and choice.why.startswith(why), choice
    assert len(tried) == len(set(tried)) <= 12 and max(tried) <= limit


def test_nothing_fits_and_time_is_over(monkeypatch):
    with pytest.raises(UserError, match="not even one image fits"):
        search(100, lambda size: 0.0, False)
    monkeypatch.setattr(batch_size, "SECONDS", -1.0)
    assert search(100, float, True).images == 8


def test_a_probe_that_runs_out_of_memory(monkeypatch):
    """A batch too large for the memory is not tried; an out-of-memory error counts as one, and others are raised."""
    args = parse("train", ["--model=MobileNetV1_x0_25", "--class_dim=4", "--image_shape", "3", "32", "32"])
    probe = Probe(args, torch.device("cpu"))
    assert probe.attempt(2) > 0
    kept = probe._kept_per_image
    assert 1e5 < kept < 1e7 and free_memory() > 1e6
    monkeypatch.setattr(batch_size, "free_memory", lambda: 3 * kept / batch_size.MEMORY_SHARE)
    assert probe.attempt(4) == 0.0 and probe.attempt(3) > 0
    for said, answer in (("CUDA out of memory. Tried to allocate", True), ("shapes do not match", False)):
        monkeypatch.setattr(probe, "_once", lambda images, said=said: (_ for _ in ()).throw(RuntimeError(said)))
        if answer:
            assert probe.attempt(1) == 0.0
        else:
            with pytest.raises(RuntimeError):
                probe.attempt(1)
    assert gather_objects(1) == [1]


def test_a_run(train_here, tiny_dataset, tmp_path, monkeypatch):
    """The run equals one that is given the chosen size, and a resumed run keeps that size."""
    result = train_here(tiny_dataset, tmp_path / "auto", batch_size="auto", max_iter=3, validate=False)
    assert result.code == 0
    size = int(re.search(r"--batch_size=auto: --batch_size=(\d+): ", result.out)[1])
    assert size == 4 and "an epoch must have at least 10 steps" in result.out
    assert train_here(tiny_dataset, tmp_path / "same", batch_size=size, max_iter=5, validate=False).code == 0
    monkeypatch.setattr(batch_size, "STEPS_AT_LEAST", 24)  # it would choose another one
    again = train_here(
        tiny_dataset, tmp_path / "auto", batch_size="auto", max_iter=5, validate=False, checkpoint="auto"
    )
    assert "--batch_size=auto: --batch_size=4, as when the run began" in again.out
    assert_same_checkpoint(*(tmp_path / name / NETWORK / "latest" for name in ("auto", "same")))


def test_refusals(train_here, tiny_dataset, tmp_path, capsys):
    for flags, said in (({"accumulate_steps": 2}, "leave out --accumulate_steps"), ({"same_feed": 2}, "--same_feed=2")):
        result = train_here(tiny_dataset, tmp_path, batch_size="auto", **flags)
        assert said in result.error and result.code == 2
    with pytest.raises(SystemExit):
        parse("eval", ["--batch_size=auto", "--pretrained_model=w"])
    assert "--batch_size=auto is for training: give a number" in capsys.readouterr().err
