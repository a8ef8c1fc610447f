"""Continues a PaddlePaddle training: loads its state into ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.network import Network
from utils.console import is_main_process, log, warn
from utils.errors import UserError
from utils.formats.training_states import COUNTER, WARM_UP, TrainingState
from utils.processes import broadcast_module
from utils.training.optimizer import set_lr
from utils.training.paddle_states import finished_epochs
from utils.training.step import TrainStep
from utils.weights import Weights, load_weights
from utils.weights.content import tensors_of
from utils.weights.matching import class_counts, fit_names, linear_weights
from utils.weights.misfit import fitting_network

# Class of our optimizer -> PaddlePaddle's name of its state -> ours.
MEMORY = {
    "SGD": {"velocity": "momentum_buffer"},
    "RMSProp": {"momentum": "momentum", "mean_square": "square"},
    "Adam": {"moment1": "exp_avg", "moment2": "exp_avg_sq"},
    "AdamW": {"moment1": "exp_avg", "moment2": "exp_avg_sq"},
}
POWERS = ("beta1_pow_acc", "beta2_pow_acc")  # powers of Adam's betas, for the next step

# State that only one of PaddlePaddle's optimizers has -> its name, and the flags for it.
OPTIMIZERS = {
    "velocity": ("Momentum", "--optimizer=momentum"),
    "mean_square": ("RMSProp", "--optimizer=rmsprop, or the --lr_strategy that it was trained with"),
    "moment1": ("Adam", "--optimizer=adam or adamw, or --lr_strategy=adam_decay"),
}

# Powers below this have lost precision.
SMALLEST_POWER = 1e-37


@dataclass
class Place:
    """Where a training continues.

    Attributes:
        epoch, step_in_epoch: the next step.
        step: steps done.
        ahead: by how many steps the schedule is ahead of them.
    """

    epoch: int
    step_in_epoch: int
    step: int
    ahead: int = 0


def take_up(step: TrainStep, state: TrainingState, steps_per_epoch: int, start_epoch: int | None = None) -> Place:
    """Continues a PaddlePaddle training. (Set up its batch norm before: `average_biased_variance`.)

    Args:
        step: our training step, with the optimizer, the schedule and, if wanted, the average.
        state: the training state, as `utils.training.paddle_states.find_original` reads it.
        steps_per_epoch: of the list here.
        start_epoch: the epoch to continue with; None: the one in the state.

    Returns:
        The next step.

    Raises:
        UserError: the state does not fit, or makes no sense.
    """
    if step.distillation is not None and any(
        True for part in step.distillation.learners().values() for _ in part.parameters()
    ):
        raise UserError(
            f"--checkpoint: {state.path}: it has a teacher or losses that learn, and only a student can be "
            "continued: start from its weights with --pretrained_model"
        )
    names = _restore_networks(step, state)
    place = find_place(state, start_epoch, steps_per_epoch)
    _restore_step(step, state, names, place)
    return place


def _restore_networks(step: TrainStep, state: TrainingState) -> dict[str, str]:
    """Loads the network and its average in one process and shares them with the others.

    Returns:
        State-dict key -> name in the state.

    Raises:
        UserError: the state is for another network or other classes, or lacks the average that is wanted.
    """
    names: dict[str, str] = {}
    pairs = [(step.model, state.tensors)]
    if step.ema is not None:
        if not state.averages:
            raise UserError(
                f"--use_ema: {state.path} was saved without an average: leave the flag out, or start a new run"
            )
        # Variables without an average, such as batch norm statistics in some trainings, keep their value.
        pairs.append((step.ema.model, {**state.tensors, **state.averages}))
    elif state.averages:
        warn(f"{state.path} has averaged parameters, which are ignored: --use_ema=True continues them")
    for model, arrays in pairs:
        names = _load(model, arrays, state)
        broadcast_module(model)
    return names


def _load(model: Network, arrays: dict[str, np.ndarray], state: TrainingState) -> dict[str, str]:
    weights = Weights(f"{state.form} training state", tensors_of(arrays))
    fit = fit_names(model, weights, resize=False)
    if not fit.right:
        if classes := class_counts(model.state_dict(), fit):
            remedy = f"it has {classes[0]} classes, the network {classes[1]}: give --class_dim={classes[0]}"
        else:
            other = fitting_network(model, weights, Path(state.path))
            first = (fit.missing or fit.misshaped or fit.unexpected)[0]
            remedy = f"it belongs to another network ({first} does not fit): " + (
                f"give --model={other}" if other else "give the --model that it was trained with"
            )
        raise UserError(f"--checkpoint: {state.path}: {remedy}")
    if is_main_process():
        load_weights(model, weights, state.path, resize=False)
    return fit.names


def _restore_step(step: TrainStep, state: TrainingState, names: dict[str, str], place: Place) -> None:
    """Restores the optimizer's state and the positions of schedule and average.

    Args:
        step: our training step.
        state: the training state.
        names: state-dict key -> name in the state.
        place: where to continue.

    Raises:
        UserError: the state belongs to another optimizer, or is inconsistent.
    """
    training = step.state_dict()
    training |= {"step": place.step, "shift": place.ahead, "ema_step": place.step + place.ahead}
    training["ema_ramps"] = state.form == "fluid"
    training["origin"] = origin_of(state)
    training["optimizer"] |= {"state": _optimizer_memory(step, state, names, place.step + place.ahead)}
    if step.scaling and "loss_scaling" in state.scaling:
        good_steps = int(state.scaling.get("num_good_steps", 0))
        training["scaler"] |= {"scale": state.scaling["loss_scaling"], "_growth_tracker": good_steps}
    step.load_state_dict(training)
    set_lr(step.optimizer, step.rate(max(place.step - 1, 0)))  # fluid's states have the last step's rate


def origin_of(state: TrainingState) -> dict[str, Any]:
    """The data needed to convert a training back to PaddlePaddle, in plain form for checkpoints."""
    return {
        "form": state.form,
        "program_names": dict(state.program_names),
        "rate_name": state.rate_name,
        "counted": state.counter is not None,
        "warms_up": WARM_UP in state.schedule,
        "half": dict(state.half),
        "masters": list(state.masters),
    }


def _optimizer_memory(
    step: TrainStep, state: TrainingState, names: dict[str, str], steps_done: int
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state in state-dict form: parameter number -> name -> values."""
    kinds = _kinds(step, state)
    transposed = linear_weights(step.model)
    keys = step.parameter_names()
    strange = {name for kept in state.memory.values() for name in kept} - {names[key] for key in keys}
    if strange:
        raise UserError(
            f"--checkpoint: {state.path} has optimizer state for {min(strange)}, so it belongs to another network: "
            "give its --model"
        )
    parameters = dict(step.model.named_parameters())
    memory = step.optimizer.state_dict()["state"]
    left_out = []
    for number, key in enumerate(keys if kinds else ()):
        found = {kind: state.memory[kind][names[key]] for kind in kinds if names[key] in state.memory.get(kind, {})}
        if len(found) < len(kinds):
            left_out.append(names[key])
            continue
        values = {}
        for kind, array in found.items():
            tensor = tensors_of({kind: array})[kind]
            tensor = tensor.t() if key in transposed and tensor.dim() == 2 else tensor
            if tensor.shape != parameters[key].shape:
                raise UserError(
                    f"--checkpoint: {state.path}: {kind} of {names[key]} is {list(array.shape)}, so it belongs "
                    "to another network: give its --model"
                )
            values[kinds[kind]] = tensor.float()
        if "moment1" in kinds:
            powers = [state.memory.get(power, {}).get(names[key]) for power in POWERS]
            values["step"] = torch.tensor(float(_adam_steps(powers, step, state, steps_done)))
        memory[number] = values
    _say_what_starts_anew(state, kinds, left_out, len(keys))
    return memory


def _kinds(step: TrainStep, state: TrainingState) -> dict[str, str]:
    """PaddlePaddle's names of the optimizer's state -> ours.

    Raises:
        UserError: the state belongs to another optimizer.
    """
    ours = type(step.optimizer).__name__
    kinds = MEMORY.get(ours, {})
    if ours == "SGD" and not step.optimizer.defaults["momentum"]:
        kinds = {}
    theirs = next((text for kind, text in OPTIMIZERS.items() if kind in state.memory), None)
    unknown = state.memory.keys() - set(POWERS) - {"mean_grad", *kinds}
    if state.memory and (unknown or not state.memory.keys() & kinds.keys()):
        if theirs is None:
            raise UserError(
                f"--checkpoint: {state.path} was trained with an unsupported optimizer (it has {min(unknown)}): "
                "start from its weights with --pretrained_model"
            )
        raise UserError(
            f"--checkpoint: {state.path} was trained with {theirs[0]}, but --lr_strategy and --optimizer ask for "
            f"{ours}: give {theirs[1]}"
        )
    for name, array in state.memory.get("mean_grad", {}).items():
        if array.any():
            raise UserError(
                f"--checkpoint: {state.path} was trained with centred RMSProp ({name}), which is not supported: "
                "start from its weights with --pretrained_model"
            )
    return kinds


def _say_what_starts_anew(state: TrainingState, kinds: dict[str, str], left_out: list[str], count: int) -> None:
    """Notes in one line which optimizer state is missing."""
    if left_out:
        whose = "the parameters" if len(left_out) == count else f"{len(left_out)} parameters ({left_out[0]}, ...)"
        warn(f"{state.path} has no {' and '.join(kinds)} of {whose}: the optimizer starts them at zero")


def _adam_steps(powers: list[np.ndarray | None], step: TrainStep, state: TrainingState, steps_done: int) -> int:
    """The steps done, from the powers of Adam's betas: after t steps, beta^(t + 1).

    float32 holds powers of 0.9 for 800 steps and powers of 0.999 for 80,000; after that they no longer matter.

    Raises:
        UserError: they are powers of other betas, or not powers.
    """
    betas = step.optimizer.defaults["betas"]
    known_powers = [power for power in powers if power is not None]
    if len(known_powers) < len(powers):
        return steps_done
    values = [float(power.reshape(-1)[0]) if power.size else math.nan for power in known_powers]
    if not all(0 <= value <= beta * (1 + 1e-6) for value, beta in zip(values, betas, strict=True)):
        raise UserError(
            f"--checkpoint: {state.path}: beta1_pow_acc and beta2_pow_acc, {values}, are not powers of {betas}: it "
            "is damaged, or was trained with other --adam_betas"
        )
    steps = [
        round(math.log(value) / math.log(beta)) - 1 if value > SMALLEST_POWER else None
        for value, beta in zip(values, betas, strict=True)
    ]
    if steps[0] is not None and steps[1] is not None and abs(steps[0] - steps[1]) > 1 + steps[0] // 100:
        raise UserError(
            f"--checkpoint: {state.path}: beta1_pow_acc means {steps[0]} steps, beta2_pow_acc {steps[1]}: it is "
            f"damaged, or was trained with other --adam_betas than {betas}"
        )
    known = next((number for number in steps if number is not None), None)
    return max(steps_done, 100_000) if known is None else known


# ------------------------------------------------------------------------------------------------------ the place


def find_place(state: TrainingState, start_epoch: int | None, steps_per_epoch: int) -> Place:
    """Where a training continues: at --start_epoch; else after the epoch in the state or its name; else by its step
    counter. If two of them disagree, a line says which was used.

    Args:
        state: of the training.
        start_epoch: the flag.
        steps_per_epoch: for our list.
    """
    counted = _steps_counted(state, steps_per_epoch)
    told = (start_epoch, "--start_epoch") if start_epoch is not None else finished_epochs(state)
    if told is None:
        if counted is None:
            warn(f"{state.path} does not contain its position: starting at epoch 0; give --start_epoch to change that")
        return _by_counter(state, counted or 0, steps_per_epoch)
    epoch, source = told
    place = Place(epoch, 0, epoch * steps_per_epoch)
    others = finished_epochs(state) if start_epoch is not None else None
    if others and others[0] != epoch:
        warn(f"{state.path}: {source} says epoch {epoch}, {others[1]} epoch {others[0]}: using the former")
    if counted is None or counted == place.step:
        return place
    ahead = counted - place.step
    if state.form == "fluid" and state.averages and 0 < ahead <= epoch:
        place.ahead = ahead
        log(
            f"{state.path}: {COUNTER} says {counted} steps, {source} {epoch} epochs, which are {place.step} steps: "
            "using the epochs. With an average, PaddlePaddle counts one more step per validated epoch: the schedule "
            f"and the average stay {ahead} ahead, as in PaddlePaddle"
        )
    else:
        warn(
            f"{state.path}: its schedule says {counted} steps, {source} {epoch} epochs, which are {place.step} steps "
            "here: using the epochs, for the schedule too"
        )
    return place


def _steps_counted(state: TrainingState, steps_per_epoch: int) -> int | None:
    """The steps done, from the schedule's counter; None if there is none or it counts epochs."""
    if state.counter is None and state.average_steps is not None:
        return state.average_steps
    if state.counter is None:
        powers = state.memory.get(POWERS[0], {})
        return _plain_adam_steps(next(iter(powers.values()))) if powers and state.form == "fluid" else None
    if state.form == "fluid":
        return state.counter + 1
    by_epoch = state.epoch is not None and state.counter == state.epoch and steps_per_epoch > 1
    return None if by_epoch else state.counter


def _plain_adam_steps(power: np.ndarray) -> int | None:
    """The steps of fluid's Adam, whose first beta is 0.9, as long as its power shows them."""
    value = float(power.reshape(-1)[0]) if power.size else 0.0
    return round(math.log(value) / math.log(0.9)) - 1 if SMALLEST_POWER < value < 1 else None


def _by_counter(state: TrainingState, counted: int, steps_per_epoch: int) -> Place:
    """The place from the counter alone. Within an epoch, that many images in our order count as done."""
    epoch, rest = divmod(counted, steps_per_epoch)
    validated = counted // (steps_per_epoch + 1)
    if rest and state.averages and counted == validated * (steps_per_epoch + 1):
        log(f"{state.path}: its {counted} steps are {validated} epochs plus one extra step each, as it has an average")
        return Place(validated, 0, validated * steps_per_epoch, validated)
    return Place(epoch, rest, counted)
