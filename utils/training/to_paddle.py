"""Converts a checkpoint of train.py to a PaddlePaddle training state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.names import paddleclas_names, published_names
from models.network import Network
from utils.errors import UserError
from utils.files import written_together, written_whole
from utils.formats.paddle import write_variable
from utils.formats.pickles import write_pickle
from utils.formats.training_states import (
    COUNTER,
    EMA_RATE,
    MASTER_WEIGHTS,
    NAME_TABLE,
    SCHEDULER,
    WARM_UP,
    TrainingState,
    file_of,
)
from utils.training.checkpoint import BEST, EMA_WEIGHTS, WEIGHTS, read_state
from utils.training.from_paddle import MEMORY, POWERS, origin_of
from utils.weights import load_pretrained
from utils.weights.matching import linear_weights


def write_original(checkpoint: Path, model: Network, form: str, output: Path, like: TrainingState | None) -> None:
    """Writes a checkpoint of train.py as a PaddlePaddle training state.

    Args:
        checkpoint: its folder.
        model: the network; it is loaded with the checkpoint's weights.
        form: "fluid", a folder of variables; or "PaddleClas", PREFIX.pdparams, .pdopt, .pdstates and, with an average,
            .pdema.
        output: the folder, or PREFIX.
        like: a PaddlePaddle state of the same network, for the names that only its program knows. None: use the state
            that the training began with.

    Raises:
        UserError: the checkpoint cannot be read, names are unknown, or the files cannot be written.
    """
    saved = read_state(checkpoint)
    training: dict[str, Any] = saved["training"]
    if "parameters" not in training:
        raise UserError(
            f"--input: {checkpoint} was written by an earlier version of train.py: first resume it for one step "
            "with the current version"
        )
    if beside := [key for key in training["parameters"] if key.startswith(("teacher.", "losses."))]:
        raise UserError(
            f"--training_state: {checkpoint} has a teacher or losses that learn ({beside[0]}, ...), but only a "
            "single network can be written as a PaddlePaddle state: leave the flag out to write its weights"
        )
    origin = _origin(training, form, like)
    names = _names(model, form)
    averages = {}
    if (checkpoint / EMA_WEIGHTS).is_file():
        load_pretrained(model, checkpoint / EMA_WEIGHTS, resize=False)
        averages = _arrays(model, names, model.state_dict())
    load_pretrained(model, checkpoint / WEIGHTS, resize=False)
    state = TrainingState(form, str(output), _arrays(model, names, model.state_dict()), averages)
    state.memory = _memory(model, names, training)
    steps = training["step"] + training["shift"]
    if form == "fluid":
        state.counter = steps - 1
        _write_fluid(state, training, origin, output)
        return
    position = saved["position"]
    if position.step_in_epoch:
        raise UserError(
            f"--input: {checkpoint} was saved within an epoch, but PaddleClas can only resume at the end of "
            "one: give an epoch's checkpoint"
        )
    state.epoch = position.epoch
    state.program_names = origin.get("program_names") or {}
    if missing := [name for name in state.tensors if name not in state.program_names]:
        raise UserError(
            f"--training_state=PaddleClas: PaddleClas's names of {missing[0]} and {len(missing) - 1} others are "
            "unknown: give a state that PaddleClas saved for this network with --names_from"
        )
    state.schedule = _schedule(steps, position.epoch, training, origin)
    _write_paddleclas(state, position.best.get(BEST, 0.0), origin, output)


def _origin(training: dict[str, Any], form: str, like: TrainingState | None) -> dict[str, Any]:
    """The names that only PaddlePaddle's program knows."""
    if like is not None:
        if like.form != form:
            raise UserError(f"--names_from: {like.path} is a {like.form} state, not a {form} one")
        return origin_of(like)
    origin = training["origin"] or {}
    return origin if origin.get("form") == form else {}


def _names(model: Network, form: str) -> dict[str, str]:
    """State-dict key -> PaddlePaddle's name."""
    try:
        return paddleclas_names(model) if form == "PaddleClas" else published_names(model)
    except ValueError as error:
        raise UserError(f"--training_state={form}: there are no {form} names for this network ({error})") from None


def _arrays(model: Network, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors by state-dict key as arrays by name, linear weights as [in, out]."""
    transposed = linear_weights(model)
    return {
        names[key]: (tensor.t() if key in transposed and tensor.dim() == 2 else tensor).contiguous().numpy().copy()
        for key, tensor in tensors.items()
        if key in names
    }


def _memory(model: Network, names: Mapping[str, str], training: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The optimizer's state under PaddlePaddle's names."""
    optimizer, keys = training["optimizer"], training["parameters"]
    kinds = MEMORY.get(training["optimizer_kind"])
    if kinds is None:
        raise UserError(
            f"--training_state: PaddlePaddle has no optimizer {training['optimizer_kind']}: leave the flag out to "
            "write the weights"
        )
    values = {keys[number]: values for number, values in optimizer["state"].items()}
    memory = {}
    for theirs, ours in kinds.items():  # SGD without momentum has None for it
        found = {key: kept[ours] for key, kept in values.items() if isinstance(kept.get(ours), Tensor)}
        memory[theirs] = _arrays(model, names, found)
    if "mean_square" in kinds:  # zero in RMSProp that is not centred
        memory["mean_grad"] = {name: np.zeros_like(array) for name, array in memory["mean_square"].items()}
    if "moment1" in kinds:
        betas = {keys[number]: group["betas"] for group in optimizer["param_groups"] for number in group["params"]}
        for place, power in enumerate(POWERS):
            memory[power] = {names[k]: _power(betas[k][place], int(found["step"])) for k, found in values.items()}
    return memory


def _power(beta: float, steps: int) -> np.ndarray:
    """beta^(steps + 1) computed like PaddlePaddle, which multiplies in float32 at every step."""
    return np.multiply.accumulate(np.full(steps + 1, beta, np.float32))[-1:]


# ---------------------------------------------------------------------------------------------------------- fluid


def _write_fluid(state: TrainingState, training: dict[str, Any], origin: dict[str, Any], folder: Path) -> None:
    variables = dict(state.tensors)
    for kind, arrays in state.memory.items():
        variables |= {f"{name}_{kind}_0": array for name, array in arrays.items()}
    variables |= {f"{name}_ema_0": array for name, array in state.averages.items()}
    if origin.get("counted", True):
        variables[COUNTER] = np.array([state.counter], np.int64)
    groups = training["optimizer"]["param_groups"]
    usual = "learning_rate_0" if training["optimizer_kind"] == "Adam" else "learning_rate"
    if name := origin.get("rate_name", usual):
        variables[name] = np.array([max(group["lr"] for group in groups)], np.float32)
    if state.averages:
        step = max(training["ema_step"] - 1, 0)
        variables[EMA_RATE] = np.array([min(training["ema_decay"], (1 + step) / (10 + step))], np.float32)
    with written_whole(folder, "--output") as temporary:
        for name, array in variables.items():
            write_variable(array, temporary / name)


# ----------------------------------------------------------------------------------------------------- PaddleClas


def _schedule(steps: int, epochs: int, training: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    """LR_Scheduler: its position and the next step's rate; with a warm-up, also the schedule after it."""
    warm_up = training["warm_up_steps"]
    if training["by_epoch"]:
        steps, warm_up = epochs, round(warm_up / training["steps_per_epoch"])
    schedule: dict[str, Any] = {"last_epoch": steps, "last_lr": training["rate"]}
    if origin.get("warms_up", warm_up > 0):
        rate = training["rate"] if steps >= warm_up else training["base_rate"]
        schedule[WARM_UP] = {"last_epoch": max(steps - warm_up, 0), "last_lr": rate}
    return schedule


def _write_paddleclas(state: TrainingState, metric: float, origin: dict[str, Any], prefix: Path) -> None:
    masters = set(origin.get("masters", ()))
    table = {name: state.program_names[name] for name in state.tensors}
    memory: dict[str, Any] = {}
    for kind, arrays in state.memory.items():
        for name, array in arrays.items():
            master = "_fp32_master_0" if name in masters else ""
            memory[f"{table[name]}{master}_{kind}_0"] = array
    if masters:
        memory[MASTER_WEIGHTS] = {table[name]: state.tensors[name] for name in state.tensors if name in masters}
    memory[SCHEDULER] = state.schedule
    trained = _stored(state.tensors, origin.get("half", {})) | {NAME_TABLE: table}
    contents: dict[str, Any] = {
        ".pdparams": state.averages | {NAME_TABLE: table} if state.averages else trained,
        ".pdopt": [memory],
        ".pdstates": {"metric": float(metric), "epoch": state.epoch},
    }
    if state.averages:
        contents[".pdema"] = trained
    with written_together(prefix.parent, "--output") as folder:
        for ending, content in contents.items():
            with open(file_of(folder / prefix.name, ending), "wb") as file:
                write_pickle(content, file)


def _stored(tensors: Mapping[str, np.ndarray], half: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Tensors as stored, `half`-precision ones in 16 bits: bfloat16 is the upper half of float32."""
    stored = dict(tensors)
    for name, kind in half.items():
        if name in stored and kind == "f2":
            stored[name] = stored[name].astype(np.float16)
        elif name in stored:
            stored[name] = torch.from_numpy(stored[name]).bfloat16().view(torch.uint16).numpy()
    return stored
