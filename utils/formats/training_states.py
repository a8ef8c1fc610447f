"""PaddlePaddle's training states, as data: what an optimizer, a schedule and an average keep beside the network.

- fluid (save_persistables): a variable for each tensor of the network, X; for each parameter what its optimizer
  remembers, X_velocity_0, X_moment1_0, ...; the averages, X_ema_0; the number of the last step, @LR_DECAY_COUNTER@.
  fluid.save puts the network into PREFIX.pdparams and everything else into PREFIX.pdopt.
- PaddleClas: PREFIX.pdparams, PREFIX.pdopt and PREFIX.pdstates (the epoch). With an average .pdparams has the averaged
  parameters, and .pdema those that are trained. Tensors of the network have the paths of PaddleClas's modules, and the
  optimizer's memory is of the names that the program gave to parameters; a table in the .pdparams tells which is which.
  A parameter that is trained in half precision has a copy in float32 in the .pdopt (`master_weights`): that counts.
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
EMA_COUNTER = "@EMA_STEP_COUNTER@"  # of fluid's own class of averages; the original's goes by the other
NAME_TABLE = "StructuredToParameterName@@"
SCHEDULER = "LR_Scheduler"
WARM_UP = "LinearWarmup_LR"  # the state of the schedule that follows a warm-up
HALF_TYPES = ("f2", "u2")  # float16, and bfloat16 as NumPy stores it
MASTER_WEIGHTS = "master_weights"

# Endings of the names of what belongs to a parameter (and, of averages, to a batch-norm's statistic).
_MEMORY = re.compile(
    r"(?P<owner>.+?)(_fp32_master_\d+)?"
    r"_(?P<kind>velocity|moment1|moment2|moment|momentum|mean_square|mean_grad|inf_norm|beta1_pow_acc|beta2_pow_acc|ema)"
    r"_\d+"
)
# The learning rate of a step, and what mixed precision counts.
_RATE = re.compile(r"learning_rate(_\d+)?|tmp_\d+")
_SCALING = re.compile(r"(loss_scaling|num_good_steps|num_bad_steps)_\d+")

# Steps and epochs beyond this are damage: it is a million epochs of a million steps.
MOST_STEPS = 10**12
MOST_EPOCHS = 10**6


@dataclass
class TrainingState:
    """A training state; arrays are as the files have them, linear weights [in, out].

    Attributes:
        form: "fluid" or "PaddleClas".
        path: the folder or prefix that it is from.
        tensors: of the network as it is trained, by name.
        averages: the averaged ones, by the same names; none without an average.
        memory: what the optimizer remembers, kind -> name of the parameter -> values.
        counter: fluid: the number of the last step; PaddleClas: of the step or epoch to come, by the schedule.
        average_steps: fluid: how often the average was updated, if it counts that.
        epoch: PaddleClas: number of the last epoch, from 1.
        schedule: PaddleClas: the whole of LR_Scheduler.
        scaling: of mixed precision: "loss_scaling", "num_good_steps".
        program_names: PaddleClas: name -> that of the program.
        half: PaddleClas: name -> NumPy's type of the tensors that are trained in half precision, as they are stored;
            `tensors` has them in float32.
        masters: PaddleClas: of these, those that have a copy in float32.
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
    """A counter, however it is written."""
    values = np.asarray(value)
    if values.size != 1 or values.dtype.kind not in "iuf":
        raise FormatError(f"{what} is no number")
    (number,) = values.reshape(-1).tolist()
    if not (0 <= number <= most and number == int(number)):
        raise FormatError(f"{what} is {number}, which cannot be")
    return int(number)


# ---------------------------------------------------------------------------------------------------------- fluid


def fluid_state(arrays: Mapping[str, np.ndarray], path: str) -> TrainingState:
    """Sorts the variables of a fluid training by what they are.

    Raises:
        FormatError: a counter cannot be.
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
    """Reads PREFIX.pdparams and what is beside it, of PaddleClas or of fluid.save.

    Raises:
        FormatError: a file is damaged, or holds something else; its name is in the message.
        OSError: there is none, or it cannot be read.
    """
    network, memory = _read_dictionary(prefix, ".pdparams"), _read_dictionary(prefix, ".pdopt")
    tensors = _arrays(network)
    if NAME_TABLE not in network and SCHEDULER not in memory and MASTER_WEIGHTS not in memory:
        with _named(prefix, ".pdopt"):
            return fluid_state({**tensors, **_arrays(memory)}, str(prefix))
    state = TrainingState("PaddleClas", str(prefix), tensors)
    trained = network
    if file_of(prefix, ".pdema").is_file():  # which has the parameters as they are trained
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
    """Sorts what a .pdopt holds, by the parameters' names in the .pdparams."""
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
            f"{len(strange)} of its tensors ({strange[0]}, ...) are of no parameter in the .pdparams: the files are of "
            "different networks, or of different runs"
        )
    masters = content.get(MASTER_WEIGHTS, {})
    for name, array in _arrays(masters if isinstance(masters, dict) else {}).items():
        if name not in keys:
            raise FormatError(f"its float32 copy of {name} is of no parameter in the .pdparams")
        state.tensors[keys[name]] = array
        state.masters.append(keys[name])
    schedule = content.get(SCHEDULER, {})
    if isinstance(schedule, dict) and schedule:
        state.schedule = schedule
        state.counter = _number(schedule.get("last_epoch"), f"{SCHEDULER}'s last_epoch", MOST_STEPS)


def _table(network: Mapping[str, Any]) -> dict[str, str]:
    """Name -> name in the program. (Those of an average are copies, NAME_deepcopy_3.)"""
    table = network.get(NAME_TABLE, {})
    if not isinstance(table, dict):
        return {}
    return {key: re.sub(r"_deepcopy_\d+$", "", name) for key, name in table.items() if isinstance(name, str)}


def _arrays(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a dictionary. Half precision as bfloat16, which NumPy has not, is stored as 16-bit integers."""
    arrays = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    return {
        name: (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array
        for name, array in arrays.items()
    }


def file_of(prefix: Path, ending: str) -> Path:
    """PREFIX.ending; a prefix may have dots of its own."""
    return prefix.with_name(prefix.name + ending)


def _read_dictionary(prefix: Path, ending: str) -> dict[str, Any]:
    """A file's dictionary. (PaddleClas's .pdopt is a list of one.)"""
    with _named(prefix, ending):
        content = read_nested(read_file(file_of(prefix, ending)))
        if isinstance(content, list) and len(content) == 1:
            (content,) = content
        if not isinstance(content, dict):
            raise FormatError(f"it holds a {type(content).__name__}, not a dictionary")
        return content


@contextlib.contextmanager
def _named(prefix: Path, ending: str) -> Iterator[None]:
    """Puts the name of a file before what is wrong with it."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{file_of(prefix, ending).name}: {error}") from None
