"""Trainings written back for PaddlePaddle: a state in, a checkpoint of ours, the same state out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_states
from training_states import FLUID, PADDLECLAS

from utils.errors import UserError
from utils.formats.paddle import read_variable
from utils.formats.pickles import read_nested
from utils.training.checkpoint import Position, RunFolder
from utils.training.paddle_states import find_original
from utils.training.to_paddle import write_original


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    return training_states.unpack(tmp_path_factory.mktemp("states"))


def checkpoint(step, folder: Path, **position: Any) -> Path:
    """A checkpoint of ours."""
    average = step.ema.model if step.ema else None
    place = Position(4, best={"best_model": 0.25}, **({"epoch": 2} | position))
    with RunFolder(folder) as run:
        assert run.save(["latest"], step.model, place, step.state_dict(), average, {"model": "Tiny", "class_dim": 6})
    return folder / "latest"


def write_back(saved: Path, form: str, output: Path, like: Path | None = None) -> Path:
    example = find_original(like) if like else None
    write_original(saved, training_states.Tiny(), form, output, example)
    return output


def fluid(folder: Path) -> dict[str, Any]:
    return {path.name: read_variable(path.read_bytes())[0] for path in folder.iterdir()}


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """To the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), (where, one.keys() ^ other.keys())
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{number}")
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and np.array_equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("case", FLUID)
def test_fluid(states, tmp_path, case):
    step = training_states.build(*FLUID[case])
    training_states.resume(step, states / case / "1")
    out = write_back(checkpoint(step, tmp_path / "run"), "fluid", tmp_path / "out")
    theirs, ours = fluid(states / case / "1"), fluid(out)
    if case == "rmsprop_average":  # that of the last step, since when the counter has gone on; it is computed anew
        del theirs["scheduled_ema_decay_rate"], ours["scheduled_ema_decay_rate"]
    assert_same(theirs, ours)


@pytest.mark.parametrize("case", [*PADDLECLAS, "half"])
def test_paddleclas(states, tmp_path, case):
    step = training_states.build(*PADDLECLAS.get(case, ("cosine_decay", None, False)))
    training_states.resume(step, states / case / "epoch_2")
    out = write_back(checkpoint(step, tmp_path / "run"), "PaddleClas", tmp_path / "epoch_2")
    for path in (states / case).iterdir():
        theirs, ours = (read_nested(Path(file).read_bytes()) for file in (path, f"{out}{path.suffix}"))
        if case == "half" and path.suffix == ".pdopt":  # without a schedule, it was never trained
            del ours[0]["LR_Scheduler"]
        if case == "half" and path.suffix == ".pdstates":
            assert theirs == ours
        if case == "momentum_average" and path.suffix == ".pdparams":  # there the average is a copy, X_deepcopy_0
            del theirs["StructuredToParameterName@@"], ours["StructuredToParameterName@@"]
        assert_same(theirs, ours, path.suffix)


def test_what_was_trained_here_goes_back(states, tmp_path):
    """After more steps: the place, the powers of Adam's betas and the rates are those of the end."""
    step = training_states.build(*PADDLECLAS["adamw"])
    training_states.resume(step, states / "adamw" / "epoch_2")
    training_states.train(step)
    out = write_back(checkpoint(step, tmp_path / "run", epoch=4), "PaddleClas", tmp_path / "epoch_4")
    again = training_states.build(*PADDLECLAS["adamw"])
    place = training_states.resume(again, out)
    assert (place.epoch, place.step, place.ahead) == (4, 8, 0)
    for one, other in zip(step.model.parameters(), again.model.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())
        for name, values in step.optimizer.state[one].items():
            np.testing.assert_array_equal(values, again.optimizer.state[other][name])
    schedule = read_nested(Path(f"{out}.pdopt").read_bytes())[0]["LR_Scheduler"]
    assert schedule["last_epoch"] == 8 and schedule["LinearWarmup_LR"]["last_epoch"] == 6
    assert schedule["last_lr"] == schedule["LinearWarmup_LR"]["last_lr"] == step.rate(8)


def test_a_training_that_began_here(states, tmp_path):
    """In fluid's form it needs nothing; what a program of PaddleClas calls the parameters, another state tells."""
    step = training_states.build("cosine_decay_warmup", None, False)
    training_states.train(step, first=4)
    saved = checkpoint(step, tmp_path / "run")
    variables = fluid(write_back(saved, "fluid", tmp_path / "out"))
    assert variables["@LR_DECAY_COUNTER@"].tolist() == [3]
    np.testing.assert_array_equal(variables["fc_weights"], step.model.fc.weight.detach().t())
    with pytest.raises(UserError, match="give a state that PaddleClas saved for this network with --names_from"):
        write_back(saved, "PaddleClas", tmp_path / "epoch_2")
    out = write_back(saved, "PaddleClas", tmp_path / "epoch_2", like=states / "momentum_average" / "epoch_2")
    again = training_states.build("cosine_decay_warmup", None, False)
    training_states.resume(again, out)
    np.testing.assert_array_equal(again.model.conv.conv.weight.detach(), step.model.conv.conv.weight.detach())
    with pytest.raises(UserError, match=r"--names_from: .* is a PaddleClas state, not a fluid one"):
        write_back(saved, "fluid", tmp_path / "more", like=states / "adamw" / "epoch_2")


def test_within_an_epoch(states, tmp_path):
    step = training_states.build(*PADDLECLAS["adamw"])
    training_states.resume(step, states / "adamw" / "epoch_2")
    saved = checkpoint(step, tmp_path / "run", step_in_epoch=1)
    with pytest.raises(UserError, match="was saved within an epoch, but PaddleClas can only resume at the end of one"):
        write_back(saved, "PaddleClas", tmp_path / "epoch_2")
