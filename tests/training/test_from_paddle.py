"""Trainings of PaddlePaddle's go on here as they would there: states that it wrote, and what it made of them."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import training_states
from training_states import FLUID, FORMS, PADDLECLAS, SAVED

from utils.errors import UserError
from utils.formats.paddle import read_variable, write_variable
from utils.formats.pickles import read_nested, write_pickle
from utils.formats.training_states import COUNTER, TrainingState, fluid_state
from utils.training.from_paddle import Place, find_place
from utils.training.paddle_states import find_original


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    return training_states.unpack(tmp_path_factory.mktemp("states"))


@pytest.fixture
def states(unpacked, tmp_path):
    """The states, to be changed."""
    return shutil.copytree(unpacked, tmp_path / "states")


@pytest.fixture(autouse=True)
def known_network(monkeypatch):
    """Combined files have no names: they are those of the network's."""
    monkeypatch.setattr("utils.training.paddle_states.models.build", lambda name, class_dim: training_states.Tiny())


# ------------------------------------------------------------------------------------------------------- it goes on


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", FLUID)
def test_fluid(unpacked, case, form):
    step = training_states.build(*FLUID[case])
    place = training_states.resume(step, unpacked / form.format(case))
    assert (place.epoch, place.step_in_epoch, place.step) == (2, 0, 4)
    # It validated twice with the average, which the schedule there counts, and goes on from.
    assert place.ahead == (2 if case == "rmsprop_average" else 0)
    compare(step, training_states.figures("1.8")[case])


@pytest.mark.parametrize("case", PADDLECLAS)
def test_paddleclas(unpacked, case):
    step = training_states.build(*PADDLECLAS[case])
    place = training_states.resume(step, unpacked / case / "epoch_2")
    assert place == Place(2, 0, 4)
    compare(step, training_states.figures("3.3")[case])


def compare(step, expected):
    rates, losses = training_states.train(step)
    np.testing.assert_allclose(rates, expected["rates"][SAVED:], rtol=1e-6)
    np.testing.assert_allclose(losses, expected["losses"][SAVED:], rtol=2e-6)
    np.testing.assert_allclose(training_states.logits(step.model), expected["logits"], atol=2e-6)
    if step.ema:
        np.testing.assert_allclose(training_states.logits(step.ema.model), expected["averaged"], atol=2e-6)


def test_without_the_memory_it_is_another_training(states, capsys):
    """The figures above would tell: so does a line."""
    for path in (states / "momentum" / "1").glob("*_velocity_0"):
        path.unlink()
    step = training_states.build(*FLUID["momentum"])
    training_states.resume(step, states / "momentum" / "1")
    assert "has no velocity of the parameters: the optimizer starts them at zero" in capsys.readouterr().err
    _, losses = training_states.train(step)
    assert np.abs(np.subtract(losses, training_states.figures("1.8")["momentum"]["losses"][SAVED:])).max() > 1e-4


def test_memory_of_some_parameters(states, capsys):
    (states / "momentum" / "1" / "fc_offset_velocity_0").unlink()
    training_states.resume(training_states.build(*FLUID["momentum"]), states / "momentum" / "1")
    assert "has no velocity of 1 parameters (fc_offset, ...)" in capsys.readouterr().err


def test_half_precision_goes_on_from_its_float32_copies(unpacked):
    step = training_states.build("cosine_decay", None, False)
    training_states.resume(step, unpacked / "half" / "epoch_2")
    memory = read_nested((unpacked / "half" / "epoch_2.pdopt").read_bytes())[0]
    weights = memory["master_weights"]["conv2d_0.w_0"]
    np.testing.assert_array_equal(step.model.conv.conv.weight.detach(), weights)
    momentum = step.optimizer.state[step.model.fc.weight]["momentum_buffer"]
    np.testing.assert_array_equal(momentum.t(), memory["linear_0.w_0_fp32_master_0_velocity_0"])


def test_bfloat16_is_stored_as_integers(states):
    path = states / "momentum_average" / "epoch_2.pdema"
    content = read_nested(path.read_bytes())
    rounded = torch.from_numpy(content["fc.weight"]).bfloat16()
    content["fc.weight"] = rounded.view(torch.uint16).numpy()
    with open(path, "wb") as file:
        write_pickle(content, file)
    step = training_states.build(*PADDLECLAS["momentum_average"])
    training_states.resume(step, states / "momentum_average" / "epoch_2")
    assert torch.equal(step.model.fc.weight.detach(), rounded.float().t())


def test_an_average_that_is_left_behind(unpacked, capsys):
    """PaddleClas's .pdparams has it then, and .pdema what is trained."""
    step = training_states.build("cosine_decay_warmup", None, False)
    training_states.resume(step, unpacked / "momentum_average" / "epoch_2")
    assert "has averaged parameters, which are ignored" in capsys.readouterr().err
    expected = training_states.figures("3.3")["momentum_average"]
    np.testing.assert_allclose(training_states.train(step)[1], expected["losses"][SAVED:], rtol=2e-6)


def test_loss_scaling_goes_on(states):
    for name, value in {"loss_scaling_0": np.float32(512), "num_good_steps_0": np.int32(7)}.items():
        write_variable(np.reshape(value, (1,)), states / "momentum" / "1" / name)
    step = training_states.build(*FLUID["momentum"])
    step.scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=1000)
    training_states.resume(step, states / "momentum" / "1")
    scaler = step.scaler.state_dict()
    assert (scaler["scale"], scaler["_growth_tracker"]) == (512, 7)


# ----------------------------------------------------------------------------------------------- where the run stands


def fluid(name: str, counter: int | None, averages: bool = False) -> TrainingState:
    kept = {"w": np.zeros(1)} if averages else {}
    return TrainingState("fluid", f"output/ResNet50/{name}", {}, kept, counter=counter)


def paddleclas(name: str, epoch: int | None, counter: int | None) -> TrainingState:
    return TrainingState("PaddleClas", f"output/ResNet50/{name}", {}, counter=counter, epoch=epoch)


# In epochs of ten steps.
@pytest.mark.parametrize(
    ("state", "start_epoch", "place", "line"),
    [
        (fluid("4", 49), None, Place(5, 0, 50), ""),
        (fluid("best_model", 49), None, Place(5, 0, 50), ""),
        (fluid("x", 52), None, Place(5, 3, 53), ""),
        (fluid("x", None), None, Place(0, 0, 0), "does not contain its position"),
        (fluid("4", 54, averages=True), None, Place(5, 0, 50, 5), "stay 5 ahead, as in PaddlePaddle"),
        (fluid("x", 54, averages=True), None, Place(5, 0, 50, 5), "one extra step each"),
        (fluid("4", 54), None, Place(5, 0, 50), "its schedule says 55 steps"),
        (fluid("4", 99, averages=True), None, Place(5, 0, 50), "its schedule says 100 steps"),
        (fluid("4", 49), 7, Place(7, 0, 70), "--start_epoch says epoch 7, the folder's name epoch 5"),
        (paddleclas("epoch_5", 5, 50), None, Place(5, 0, 50), ""),
        (paddleclas("latest", 5, 50), None, Place(5, 0, 50), ""),
        (paddleclas("latest", 5, 5), None, Place(5, 0, 50), ""),  # a schedule by epochs
        (paddleclas("epoch_5", None, 50), None, Place(5, 0, 50), ""),
        (paddleclas("latest", None, 50), None, Place(5, 0, 50), ""),
        (paddleclas("4/ppcls", None, 50), None, Place(5, 0, 50), ""),  # as PaddleClas 2.0 named them
        (paddleclas("epoch_3", 5, 50), None, Place(5, 0, 50), ""),
        (paddleclas("epoch_5", 5, 60), None, Place(5, 0, 50), "using the epochs"),
        (paddleclas("epoch_5", 5, 50), 0, Place(0, 0, 0), "--start_epoch says epoch 0, .pdstates epoch 5"),
    ],
    ids=str,
)
def test_where_it_stands(state, start_epoch, place, line, capsys):
    assert find_place(state, start_epoch, 10) == place
    output = capsys.readouterr()
    said = output.out + output.err
    assert line in said if line else not said


def test_adam_without_a_counter_tells_its_steps(unpacked):
    state = find_original(unpacked / "adam" / "1")
    assert state.counter is None
    state.path = "output/best_model"
    assert find_place(state, None, 3) == Place(1, 1, 4)


def test_a_counter_of_averages_alone():
    """That of fluid's own class of averages, beside Adam."""
    state = fluid_state({"@EMA_STEP_COUNTER@": np.array([30])}, "output/x")
    assert find_place(state, None, 10) == Place(3, 0, 30)


# ---------------------------------------------------------------------------------------------------------- bad input


def refused(path: Path, case: str = "momentum", class_dim: int = 6) -> str:
    """The line about a state."""
    settings = (FLUID | PADDLECLAS)[case]
    with pytest.raises(UserError) as error:
        training_states.resume(training_states.build(*settings, class_dim), path)
    line = str(error.value)
    assert "\n" not in line and str(path.parent.name) in line, line
    return line


@pytest.mark.parametrize(("ending", "reason"), [(".pdopt", "--pretrained_model="), (".pdparams", "put it next to")])
def test_a_prefix_without_a_part(states, ending, reason):
    prefix = states / "momentum_average" / "epoch_2"
    os.remove(f"{prefix}{ending}")
    line = refused(prefix, "momentum_average")
    assert f"epoch_2{ending} is missing" in line and reason in line


def test_a_folder_of_prefixes(states):
    assert "give one of them without its suffix, such as" in refused(states / "adamw", "adamw")


def test_a_folder_of_epochs(states):
    shutil.copytree(states / "momentum" / "1", states / "momentum" / "10")
    assert f"holds epochs: give one of them, such as {states / 'momentum' / '10'}" in refused(states / "momentum")


@pytest.mark.parametrize("case", ["momentum", "momentum_average"])
def test_of_other_classes(states, case):
    assert "has 6 classes, the network 9: give --class_dim=6" in refused(path_of(states, case), case, class_dim=9)


def test_of_another_network(states):
    (states / "momentum" / "1" / "conv_weights").rename(states / "momentum" / "1" / "conv7_weights")
    assert "belongs to another network" in refused(states / "momentum" / "1")
    combined = states / "momentum_combined" / "1" / "params"
    combined.write_bytes(combined.read_bytes() + (states / "momentum" / "1" / "fc_offset").read_bytes())
    assert "holds 14 variables without names, which do not match a training of" in refused(combined)


def test_a_combined_file_of_which_nothing_is_known(unpacked):
    with pytest.raises(UserError, match="holds 13 variables without names: put its program next to it"):
        find_original(unpacked / "momentum_combined" / "1" / "params")


def path_of(states: Path, case: str) -> Path:
    return states / case / ("1" if case in FLUID else "epoch_2")


@pytest.mark.parametrize(
    ("saved", "asked", "words"),
    [
        ("adam", "momentum", "with Adam, but --lr_strategy and --optimizer ask for SGD: give --optimizer=adam"),
        (
            "momentum",
            "adam",
            "with Momentum, but --lr_strategy and --optimizer ask for Adam: give --optimizer=momentum",
        ),
        ("rmsprop_average", "momentum", "with RMSProp, but --lr_strategy and --optimizer ask for SGD"),
        ("momentum_average", "adamw", "with Momentum, but --lr_strategy and --optimizer ask for AdamW"),
    ],
)
def test_of_another_optimizer(states, saved, asked, words):
    assert words in refused(path_of(states, saved), asked)


def test_of_an_optimizer_that_is_not_here(states):
    for path in (states / "momentum" / "1").glob("*_velocity_0"):
        path.rename(path.with_name(path.name.replace("velocity", "inf_norm")))
    assert "with an unsupported optimizer (it has inf_norm)" in refused(states / "momentum" / "1")


def test_centred_rmsprop(states):
    name = "fc_offset_mean_grad_0"
    write_variable(np.ones(6, np.float32), states / "rmsprop_average" / "1" / name)
    assert "centred RMSProp" in refused(states / "rmsprop_average" / "1", "rmsprop_average")


def test_no_average_where_one_is_to_be_kept(states):
    assert refused(states / "momentum" / "1", "rmsprop_average").startswith("--use_ema: ")


@pytest.mark.parametrize("value", [np.array([-3]), np.array([2**60]), np.array([1, 2]), np.array([np.nan], np.float32)])
def test_counters_that_cannot_be(states, value):
    write_variable(value, states / "momentum" / "1" / COUNTER)
    assert f"{COUNTER} is " in refused(states / "momentum" / "1")


@pytest.mark.parametrize("value", [-1, 1.5, "two", None, 10**9])
def test_epochs_that_cannot_be(states, value):
    (states / "adamw" / "epoch_2.pdstates").write_bytes(pickle.dumps({"epoch": value}, 2))
    assert "epoch_2.pdstates: epoch is " in refused(states / "adamw" / "epoch_2", "adamw")


@pytest.mark.parametrize(
    ("powers", "reason"),
    [((1.5, 0.9), "not powers of"), ((np.nan, 0.9), "not powers of"), ((0.9**5, 0.999**90), "beta2_pow_acc 89")],
)
def test_powers_that_cannot_be(states, powers, reason):
    for number, power in enumerate(powers, 1):
        write_variable(np.array([power], np.float32), states / "adam" / "1" / f"fc_offset_beta{number}_pow_acc_0")
    assert reason in refused(states / "adam" / "1", "adam")


@pytest.mark.parametrize("ending", [".pdparams", ".pdopt", ".pdema", ".pdstates"])
@pytest.mark.parametrize("damage", ["cut", "empty", "list", "hostile"])
def test_damaged_pickles_are_never_executed(states, tmp_path, ending, damage):
    class Code:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = states / "momentum_average" / f"epoch_2{ending}"
    content = {
        "cut": path.read_bytes()[:-9],
        "empty": b"",
        "list": pickle.dumps([1, 2]),
        "hostile": pickle.dumps(Code()),
    }
    path.write_bytes(content[damage])
    assert f"epoch_2{ending}: " in refused(path.with_suffix(""), "momentum_average")
    assert not (tmp_path / "ran").exists()


def test_files_of_different_networks(states):
    shutil.copy(states / "adamw" / "epoch_2.pdopt", states / "momentum_average" / "epoch_2.pdopt")
    content = read_nested((states / "momentum_average" / "epoch_2.pdopt").read_bytes())
    content[0]["conv2d_9.w_0_velocity_0"] = np.zeros(3, np.float32)
    with open(states / "momentum_average" / "epoch_2.pdopt", "wb") as file:
        write_pickle(content, file)
    assert "epoch_2.pdopt: 1 of its tensors (conv2d_9.w_0_velocity_0" in refused(
        states / "momentum_average" / "epoch_2", "momentum_average"
    )


def test_memory_of_another_shape(states):
    write_variable(np.zeros((4, 7), np.float32), states / "momentum" / "1" / "fc_weights_velocity_0")
    assert "velocity of fc_weights is [4, 7]" in refused(states / "momentum" / "1")


def test_a_damaged_variable(states):
    path = states / "momentum" / "1" / "fc_weights_velocity_0"
    path.write_bytes(path.read_bytes()[:-5])
    assert "1 of its files are damaged, such as fc_weights_velocity_0" in refused(states / "momentum" / "1")


def test_what_is_no_training(states, tmp_path):
    """Weights alone, a checkpoint of ours and nothing at all are for others to tell."""
    folder = states / "momentum" / "1"
    for path in [*folder.glob("*_velocity_0"), folder / COUNTER]:
        path.unlink()
    assert find_original(folder) is None
    assert read_variable((folder / "fc_offset").read_bytes())[0].shape == (6,)
    assert find_original(tmp_path / "nothing") is None
    (tmp_path / "ours" / "latest").mkdir(parents=True)
    (tmp_path / "ours" / "latest" / "manifest.json").write_text("{}")
    assert find_original(tmp_path / "ours") is None
