"""A PaddlePaddle program as data: its operations, variables, inputs and outputs.

Both dialects of exported models are read into it: ProgramDesc (`utils.formats.program_desc`), which PaddlePaddle wrote
up to 2.6, and PIR (`utils.formats.pir`), which it has written since 3.0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from utils.errors import FormatError

# VarType.Type in a ProgramDesc, and of the tensors in a file of parameters.
DATA_TYPES = {
    0: "bool",
    1: "int16",
    2: "int32",
    3: "int64",
    4: "float16",
    5: "float32",
    6: "float64",
    20: "uint8",
    21: "int8",
    22: "bfloat16",
    23: "complex64",
    24: "complex128",
}

# Several times as many as the largest network has.
MAX_OPERATIONS = 50_000
MAX_VARIABLES = 200_000
MAX_DIMENSIONS = 16
MAX_NAME = 1_000


@dataclass(frozen=True)
class Variable:
    """What a program says about a value.

    Attributes:
        name: the name that operations use.
        shape: -1 stands for an unknown size, usually the batch; None: it is not a tensor.
        dtype: "float32", "int64", "bool" ...; None: it is not a tensor, or the program does not say.
        persistable: its value is in the file of parameters. An engine that saves weights in its own layout gives
            neither their shape nor their data type.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str | None
    persistable: bool = False


@dataclass(frozen=True)
class Operation:
    """One step of a program.

    Attributes:
        kind: "conv2d", "matmul_v2", "full_int_array" ...; for PIR without the name of its dialect.
        inputs: names of variables by slot; empty slots are left out. PIR has only the slot "", in which the name ""
            stands for a missing operand.
        outputs: the same.
        attributes: bool, int, float, str, None, and lists of them. Data types are written as in `Variable.dtype`.
    """

    kind: str
    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, ...]]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A program for inference.

    Attributes:
        dialect: "desc" or "pir".
        version: of the format. ProgramDesc has PaddlePaddle's version, 1008005 for 1.8.5, or 0; PIR has its own number.
        operations: in the order they run, without those that feed, fetch or hold parameters. Every input is a feed, a
            parameter, or an output of an earlier operation. PIR writes a value once; ProgramDesc may overwrite it.
        variables: by name. PIR's values are named "%12", its parameters have their own names.
        parameters: the variables whose values are in the file of parameters, in its order: sorted.
        feeds: the input variables, in order.
        fetches: the output variables, in order.
        feed_labels: the inputs' names for users.
        fetch_labels: the outputs' names for users.
        operation_versions: how often an operation's meaning had changed when the program was written (op_version_map
            of ProgramDesc, since 2.0; an operation that is not in it has version 0).
    """

    dialect: str
    version: int
    operations: tuple[Operation, ...]
    variables: dict[str, Variable]
    parameters: tuple[str, ...]
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    feed_labels: tuple[str, ...]
    fetch_labels: tuple[str, ...]
    operation_versions: dict[str, int] = field(default_factory=dict)


def checked_name(name: str) -> str:
    """A name that can be shown: not too long, and without lone surrogates."""
    if len(name) > MAX_NAME:
        raise FormatError(f"a name in it has more than {MAX_NAME} characters")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise FormatError(f"the name {name[:40]!a} in it is not text") from None
    return name


def check_program(program: Program) -> None:
    """Checks that a program can run from its first operation to its last.

    Raises:
        FormatError: it has no input or no output, or reads a variable before anything has written it.
    """
    if not program.feeds or not program.fetches:
        missing = "input" if not program.feeds else "output"
        raise FormatError(f"the program has no {missing}: it was not exported for inference")
    for label in (program.feeds, program.fetch_labels):
        if len(set(label)) < len(label):
            raise FormatError("two inputs or two outputs of the program have the same name")
    written = {"", *program.feeds, *program.parameters}
    for operation in program.operations:
        for names in operation.inputs.values():
            for name in names:
                if name not in written:
                    raise FormatError(f"operation {operation.kind!r} reads {name!r} before anything has written it")
        for names in operation.outputs.values():
            written.update(names)
    for name in program.fetches:
        if name not in written:
            raise FormatError(f"no operation writes the program's output {name!r}")
