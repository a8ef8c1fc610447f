"""A training of PaddlePaddle's goes on: its state, given to what trains the network here."""

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

# Class of our optimizer -> what its memory is called there -> here.
MEMORY = {
    "SGD": {"velocity": "momentum_buffer"},
    "RMSProp": {"momentum": "momentum", "mean_square": "square"},
    "Adam": {"moment1": "exp_avg", "moment2": "exp_avg_sq"},
    "AdamW": {"moment1": "exp_avg", "moment2": "exp_avg_sq"},
}
POWERS = ("beta1_pow_acc", "beta2_pow_acc")  # of Adam's betas, of the step to come

# What an optimizer there remembers that no other does -> its name, and the flags that ask for it.
OPTIMIZERS = {
    "velocity": ("Momentum", "--optimizer=momentum"),
    "mean_square": ("RMSProp", "--optimizer=rmsprop, or the strategy that it was trained with"),
    "moment1": ("Adam", "--optimizer=adam or adamw, or --lr_strategy=adam_decay"),
}

# A power below this has lost its last bits.
SMALLEST_POWER = 1e-37


@dataclass
class Place:
    """Where a training goes on.

    Attributes:
        epoch, step_in_epoch: the step to do next.
        step: steps done.
        ahead: by how many steps the schedule is ahead of them.
    """

    epoch: int
    step_in_epoch: int
    step: int
    ahead: int = 0


def take_up(step: TrainStep, state: TrainingState, steps_per_epoch: int, start_epoch: int | None = None) -> Place:
    """Goes on with a training of PaddlePaddle's. (Its batch-norms are as they are: `average_biased_variance`.)

    Args:
        step: what trains the network, with the optimizer, the schedule and, if it is to be kept, the average of the
            training.
        state: of the training, as `utils.training.paddle_states.find_original` reads it.
        steps_per_epoch: of the list here.
        start_epoch: the epoch to go on with; None: what the state tells.

    Returns:
        The step to do next.

    Raises:
        UserError: the state does not fit, or makes no sense.
    """
    if step.distillation is not None and any(
        True for part in step.distillation.learners().values() for _ in part.parameters()
    ):
        raise UserError(
            f"--checkpoint: {state.path}: of a training of PaddlePaddle's only the student goes on here, and this one "
            "has a teacher or losses that learn: start from its weights by --pretrained_model"
        )
    names = _restore_networks(step, state)
    place = find_place(state, start_epoch, steps_per_epoch)
    _restore_step(step, state, names, place)
    return place


def _restore_networks(step: TrainStep, state: TrainingState) -> dict[str, str]:
    """Gives the network, and its average, their tensors: one process has the others take its own.

    Returns:
        State-dict key -> name in the state.

    Raises:
        UserError: the state is of another network, of other classes, or has no average where one is to be kept.
    """
    names: dict[str, str] = {}
    pairs = [(step.model, state.tensors)]
    if step.ema is not None:
        if not state.averages:
            raise UserError(f"--use_ema: {state.path} was saved without an average: leave the flag out, or start anew")
        # What has no average, as batch-norm statistics in some trainings, is itself.
        pairs.append((step.ema.model, {**state.tensors, **state.averages}))
    elif state.averages:
        warn(f"{state.path} has averaged parameters, which are left behind: --use_ema=True goes on with them")
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
            remedy = f"it is of another network ({first} does not fit): " + (
                f"give --model={other}" if other else "give the --model that it was trained as"
            )
        raise UserError(f"--checkpoint: {state.path}: {remedy}")
    if is_main_process():
        load_weights(model, weights, state.path, resize=False)
    return fit.names


def _restore_step(step: TrainStep, state: TrainingState, names: dict[str, str], place: Place) -> None:
    """Gives the optimizer its memory, and the schedule and the average their place.

    Args:
        step: what trains the network.
        state: of the training.
        names: state-dict key -> name in the state.
        place: where it goes on.

    Raises:
        UserError: the state is of another optimizer, or makes no sense.
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
    set_lr(step.optimizer, step.rate(max(place.step - 1, 0)))  # that of the last step, which fluid's states have


def origin_of(state: TrainingState) -> dict[str, Any]:
    """What is needed to write a training back, and is nowhere else in it: plain data, for checkpoints."""
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
    """What the optimizer remembers, as its state dict has it: number of the parameter -> name -> values."""
    kinds = _kinds(step, state)
    transposed = linear_weights(step.model)
    keys = step.parameter_names()
    strange = {name for kept in state.memory.values() for name in kept} - {names[key] for key in keys}
    if strange:
        raise UserError(f"--checkpoint: {state.path} has an optimizer's memory of {min(strange)}: of another network")
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
                    f"--checkpoint: {state.path}: {kind} of {names[key]} is {list(array.shape)}: of another network"
                )
            values[kinds[kind]] = tensor.float()
        if "moment1" in kinds:
            powers = [state.memory.get(power, {}).get(names[key]) for power in POWERS]
            values["step"] = torch.tensor(float(_adam_steps(powers, step, state, steps_done)))
        memory[number] = values
    _say_what_starts_anew(state, kinds, left_out, len(keys))
    return memory


def _kinds(step: TrainStep, state: TrainingState) -> dict[str, str]:
    """What the optimizer's memory is called there -> here.

    Raises:
        UserError: the state is another optimizer's.
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
                f"--checkpoint: {state.path} was trained by an optimizer that is not here (it has {min(unknown)}): to "
                "start from its weights give them as --pretrained_model"
            )
        raise UserError(
            f"--checkpoint: {state.path} was trained by {theirs[0]}, --lr_strategy and --optimizer ask for {ours}: "
            f"give {theirs[1]}"
        )
    for name, array in state.memory.get("mean_grad", {}).items():
        if array.any():
            raise UserError(f"--checkpoint: {state.path} was trained by centred RMSProp ({name}), which is not here")
    return kinds


def _say_what_starts_anew(state: TrainingState, kinds: dict[str, str], left_out: list[str], count: int) -> None:
    """One line for memory that is not there."""
    if left_out:
        whose = "the parameters" if len(left_out) == count else f"{len(left_out)} parameters ({left_out[0]}, ...)"
        warn(f"{state.path} has no {' and '.join(kinds)} of {whose}: the optimizer's memory of them starts at zero")


def _adam_steps(powers: list[np.ndarray | None], step: TrainStep, state: TrainingState, steps_done: int) -> int:
    """The steps that a parameter has been trained, by the powers of Adam's betas: after t steps beta^(t + 1).

    float32 holds the powers of 0.9 for 800 steps, those of 0.999 for 80,000; afterwards they no longer matter.

    Raises:
        UserError: they are of other betas, or no powers.
    """
    betas = step.optimizer.defaults["betas"]
    known_powers = [power for power in powers if power is not None]
    if len(known_powers) < len(powers):
        return steps_done
    values = [float(power.reshape(-1)[0]) if power.size else math.nan for power in known_powers]
    if not all(0 <= value <= beta * (1 + 1e-6) for value, beta in zip(values, betas, strict=True)):
        raise UserError(
            f"--checkpoint: {state.path}: beta1_pow_acc and beta2_pow_acc, {values}, are no powers of {betas}: it is "
            "damaged, or was trained with other betas"
        )
    steps = [
        round(math.log(value) / math.log(beta)) - 1 if value > SMALLEST_POWER else None
        for value, beta in zip(values, betas, strict=True)
    ]
    if steps[0] is not None and steps[1] is not None and abs(steps[0] - steps[1]) > 1 + steps[0] // 100:
        raise UserError(
            f"--checkpoint: {state.path}: by beta1_pow_acc it has {steps[0]} steps, by beta2_pow_acc {steps[1]}: it is "
            f"damaged, or was trained with other betas than {betas}"
        )
    known = next((number for number in steps if number is not None), None)
    return max(steps_done, 100_000) if known is None else known


# ------------------------------------------------------------------------------------------------------ the place


def find_place(state: TrainingState, start_epoch: int | None, steps_per_epoch: int) -> Place:
    """Where a training goes on: at --start_epoch; else after the epoch that the state or its name tells; else by its
    counter of steps. Where two of them disagree, a line says which was taken.

    Args:
        state: of the training.
        start_epoch: the flag.
        steps_per_epoch: of the list here.
    """
    counted = _steps_counted(state, steps_per_epoch)
    told = (start_epoch, "--start_epoch") if start_epoch is not None else finished_epochs(state)
    if told is None:
        if counted is None:
            warn(f"{state.path} does not tell how far it is: taken is its start, epoch 0; --start_epoch gives another")
        return _by_counter(state, counted or 0, steps_per_epoch)
    epoch, source = told
    place = Place(epoch, 0, epoch * steps_per_epoch)
    others = finished_epochs(state) if start_epoch is not None else None
    if others and others[0] != epoch:
        warn(f"{state.path}: {source} says epoch {epoch}, {others[1]} epoch {others[0]}: taken is the former")
    if counted is None or counted == place.step:
        return place
    ahead = counted - place.step
    if state.form == "fluid" and state.averages and 0 < ahead <= epoch:
        place.ahead = ahead
        log(
            f"{state.path}: by {COUNTER} it has {counted} steps, by {source} {epoch} epochs, which are {place.step}: "
            "taken are the epochs. With an average PaddlePaddle counts one step more for every epoch validated: the "
            f"schedule and the average stay {ahead} ahead, as there"
        )
    else:
        warn(
            f"{state.path}: by its schedule it has {counted} steps, by {source} {epoch} epochs, which are {place.step} "
            f"here: taken are the epochs, for the schedule too"
        )
    return place


def _steps_counted(state: TrainingState, steps_per_epoch: int) -> int | None:
    """The steps done, by the counter of the schedule; None if there is none, or it counts epochs."""
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
    """The steps of fluid's Adam, whose first beta is 0.9, as long as it tells them."""
    value = float(power.reshape(-1)[0]) if power.size else 0.0
    return round(math.log(value) / math.log(0.9)) - 1 if SMALLEST_POWER < value < 1 else None


def _by_counter(state: TrainingState, counted: int, steps_per_epoch: int) -> Place:
    """The place that the counter alone tells. Within an epoch it is that of as many images, of those in order here."""
    epoch, rest = divmod(counted, steps_per_epoch)
    validated = counted // (steps_per_epoch + 1)
    if rest and state.averages and counted == validated * (steps_per_epoch + 1):
        log(f"{state.path}: its {counted} steps are {validated} epochs, and one more for each, as it has an average")
        return Place(validated, 0, validated * steps_per_epoch, validated)
    return Place(epoch, rest, counted)
