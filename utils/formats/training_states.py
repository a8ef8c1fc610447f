"""Reads PaddlePaddle's training states as data: the network, optimizer, schedule and weight average of a training.

- fluid (save_persistables): a variable X for each tensor of the network; the optimizer's state of each parameter,
  X_velocity_0, X_moment1_0, ...; the averages, X_ema_0; the number of the last step, @LR_DECAY_COUNTER@.
  fluid.save puts the network into PREFIX.pdparams and everything else into PREFIX.pdopt.
- PaddleClas: PREFIX.pdparams, PREFIX.pdopt and PREFIX.pdstates (the epoch). With weight averaging .pdparams has the
  averaged parameters, and .pdema the trained ones. The network's tensors are named by the paths of PaddleClas's
  modules, the optimizer's state by the program's parameter names; a table in the .pdparams maps one to the other. A
  parameter trained in half precision has a float32 copy in the .pdopt (`master_weights`), which is used instead.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import FormatError
from utils.files import read_file
from utils.formats.pickles import read_nested

COUNTER = "@LR_DECAY_COUNTER@"
EMA_RATE = "scheduled_ema_decay_rate"
EMA_COUNTER = "@EMA_STEP_COUNTER@"  # of fluid's own averaging class; the original scripts use the other one
NAME_TABLE = "StructuredToParameterName@@"
SCHEDULER = "LR_Scheduler"
WARM_UP = "LinearWarmup_LR"  # the state of the schedule after a warm-up
HALF_TYPES = ("f2", "u2")  # float16, and bfloat16 as NumPy stores it
MASTER_WEIGHTS = "master_weights"

# Endings of the names of variables that belong to a parameter (averages: also to a batch norm's statistic).
_MEMORY = re.compile(
    r"(?P<owner>.+?)(_fp32_master_\d+)?"
    r"_(?P<kind>velocity|moment1|moment2|moment|momentum|mean_square|mean_grad|inf_norm|beta1_pow_acc|beta2_pow_acc|ema)"
    r"_\d+"
)
# The learning rate of a step, and the counters of mixed precision.
_RATE = re.compile(r"learning_rate(_\d+)?|tmp_\d+")
_SCALING = re.compile(r"(loss_scaling|num_good_steps|num_bad_steps)_\d+")

# A larger number of steps or epochs means damage: this is a million epochs of a million steps.
MOST_STEPS = 10**12
MOST_EPOCHS = 10**6


@dataclass
class TrainingState:
    """A training state; arrays are laid out as in the files, linear weights as [in, out].

    Attributes:
        form: "fluid" or "PaddleClas".
        path: the folder or prefix that it was read from.
        tensors: the network's tensors in training, by name.
        averages: the averaged tensors, by the same names; empty without averaging.
        memory: the optimizer's state, kind -> parameter's name -> values.
        counter: fluid: number of the last step; PaddleClas: the schedule's number of the next step or epoch.
        average_steps: fluid: how often the average was updated, if that is counted.
        epoch: PaddleClas: number of the last epoch, from 1.
        schedule: PaddleClas: the whole of LR_Scheduler.
        scaling: of mixed precision: "loss_scaling", "num_good_steps".
        program_names: PaddleClas: name -> name in the program.
        half: PaddleClas: name -> NumPy's type of the tensors stored in half precision; `tensors` has them in float32.
        masters: PaddleClas: the names among `half` that have a float32 copy.
        rate_name: fluid: the variable of the learning rate.
    """

    form: str
    path: str
    tensors: dict[str, np.ndarray]
    averages: dict[str, np.ndarray] = field(default_factory=dict)
    memory: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    counter: int | None = None
    average_steps: int | None = None
    epoch: int | None = None
    schedule: dict[str, Any] = field(default_factory=dict)
    scaling: dict[str, float] = field(default_factory=dict)
    program_names: dict[str, str] = field(default_factory=dict)
    half: dict[str, str] = field(default_factory=dict)
    masters: list[str] = field(default_factory=list)
    rate_name: str | None = None


def _number(value: Any, what: str, most: int) -> int:
    """A counter in any of its forms."""
    values = np.asarray(value)
    if values.size != 1 or values.dtype.kind not in "iuf":
        raise FormatError(f"{what} is not a number")
    (number,) = values.reshape(-1).tolist()
    if not (0 <= number <= most and number == int(number)):
        raise FormatError(f"{what} is {number}, which is out of range")
    return int(number)


# ---------------------------------------------------------------------------------------------------------- fluid


def fluid_state(arrays: Mapping[str, np.ndarray], path: str) -> TrainingState:
    """Sorts the variables of a fluid training state into tensors, averages, optimizer state and counters.

    Raises:
        FormatError: a counter is out of range.
    """
    state = TrainingState("fluid", path, {})
    for name, array in arrays.items():
        memory, scaling = _MEMORY.fullmatch(name), _SCALING.fullmatch(name)
        if memory and memory["owner"] in arrays:
            kept = state.averages if memory["kind"] == "ema" else state.memory.setdefault(memory["kind"], {})
            kept[memory["owner"]] = array
        elif name == COUNTER:
            state.counter = _number(array, COUNTER, MOST_STEPS)
        elif name == EMA_COUNTER:
            state.average_steps = _number(array, EMA_COUNTER, MOST_STEPS)
        elif _RATE.fullmatch(name) and array.size == 1:
            state.rate_name = name
        elif scaling and array.size == 1:
            state.scaling[scaling[1]] = float(array.reshape(-1)[0])
        elif name != EMA_RATE:
            state.tensors[name] = array
    return state


# ----------------------------------------------------------------------------------------------------- PaddleClas


def read_prefix(prefix: Path) -> TrainingState:
    """Reads PREFIX.pdparams and its companion files, written by PaddleClas or fluid.save.

    Raises:
        FormatError: a file is damaged, or holds something else; the message names it.
        OSError: a file is missing or cannot be read.
    """
    network, memory = _read_dictionary(prefix, ".pdparams"), _read_dictionary(prefix, ".pdopt")
    tensors = _arrays(network)
    if NAME_TABLE not in network and SCHEDULER not in memory and MASTER_WEIGHTS not in memory:
        with _named(prefix, ".pdopt"):
            return fluid_state({**tensors, **_arrays(memory)}, str(prefix))
    state = TrainingState("PaddleClas", str(prefix), tensors)
    trained = network
    if file_of(prefix, ".pdema").is_file():  # it has the trained parameters
        trained = _read_dictionary(prefix, ".pdema")
        state.averages, state.tensors = tensors, _arrays(trained)
    state.program_names = _table(trained) or _table(network)
    for name, value in trained.items():
        if isinstance(value, np.ndarray) and value.dtype.str[1:] in HALF_TYPES:
            state.half[name] = value.dtype.str[1:]
    with _named(prefix, ".pdopt"):
        _read_memory(state, memory)
    if file_of(prefix, ".pdstates").is_file():
        states = _read_dictionary(prefix, ".pdstates")
        with _named(prefix, ".pdstates"):
            state.epoch = _number(states.get("epoch"), "epoch", MOST_EPOCHS)
    return state


def _read_memory(state: TrainingState, content: dict[str, Any]) -> None:
    """Sorts the content of a .pdopt by the parameters' names in the .pdparams."""
    keys = {name: key for key, name in state.program_names.items()}
    strange = []
    for name, array in _arrays(content).items():
        found = _MEMORY.fullmatch(name)
        if found and found["owner"] in keys:
            state.memory.setdefault(found["kind"], {})[keys[found["owner"]]] = array
        else:
            strange.append(name)
    if strange:
        raise FormatError(
            f"{len(strange)} of its tensors ({strange[0]}, ...) belong to no parameter in the .pdparams: the files are "
            "from different networks or runs"
        )
    masters = content.get(MASTER_WEIGHTS, {})
    for name, array in _arrays(masters if isinstance(masters, dict) else {}).items():
        if name not in keys:
            raise FormatError(f"its float32 copy of {name} belongs to no parameter in the .pdparams")
        state.tensors[keys[name]] = array
        state.masters.append(keys[name])
    schedule = content.get(SCHEDULER, {})
    if isinstance(schedule, dict) and schedule:
        state.schedule = schedule
        state.counter = _number(schedule.get("last_epoch"), f"{SCHEDULER}'s last_epoch", MOST_STEPS)


def _table(network: Mapping[str, Any]) -> dict[str, str]:
    """Name -> name in the program. (With averaging the program's names are those of copies, NAME_deepcopy_3.)"""
    table = network.get(NAME_TABLE, {})
    if not isinstance(table, dict):
        return {}
    return {key: re.sub(r"_deepcopy_\d+$", "", name) for key, name in table.items() if isinstance(name, str)}


def _arrays(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a dictionary. bfloat16, which NumPy lacks, is stored as 16-bit integers."""
    arrays = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    return {
        name: (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array
        for name, array in arrays.items()
    }


def file_of(prefix: Path, ending: str) -> Path:
    """PREFIX.ending; the prefix itself may contain dots."""
    return prefix.with_name(prefix.name + ending)


def _read_dictionary(prefix: Path, ending: str) -> dict[str, Any]:
    """A file's dictionary. (PaddleClas's .pdopt is a list with one dictionary.)"""
    with _named(prefix, ending):
        content = read_nested(read_file(file_of(prefix, ending)))
        if isinstance(content, list) and len(content) == 1:
            (content,) = content
        if not isinstance(content, dict):
            raise FormatError(f"it holds a {type(content).__name__}, not a dictionary")
        return content


@contextlib.contextmanager
def _named(prefix: Path, ending: str) -> Iterator[None]:
    """Adds the file's name to the message of a `FormatError`."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{file_of(prefix, ending).name}: {error}") from None
