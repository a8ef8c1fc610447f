"""Exported models of PaddlePaddle: what the original systems wrote, and messages of their format.

tests/fixtures/paddle/programs.tar.xz has, in folders as they were written:

    custom_net            by PaddlePaddle 1.8.5, `model` + `params`; custom_net_expected.npz has images and outputs
    custom_wide           by PaddlePaddle 1.8.5, `__model__` and a file per parameter; four outputs
    PPLCNet_x0_25/json_paddle3.3.1, pdmodel_paddle2.6.2, pdmodel_paddle2.6.2_ppcls2.5
                          by PaddleClas 2.6; expected.npz has `output` and `logits` of the two images of `zoo.images`

The parameters of PPLCNet_x0_25 are a megabyte, made here by the rule of `zoo.weight` as they were for the originals.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path

from zoo import weight

from utils.formats.archives import decompress, tar_members
from utils.formats.paddle import variable_header
from utils.formats.pickles import read_plain_pickle

FIXTURE = Path(__file__).parents[1] / "fixtures" / "paddle" / "programs.tar.xz"

PPLCNET = (
    "PPLCNet_x0_25/json_paddle3.3.1",
    "PPLCNet_x0_25/pdmodel_paddle2.6.2",
    "PPLCNet_x0_25/pdmodel_paddle2.6.2_ppcls2.5",
)
EXAMPLES = ("custom_net", "custom_wide", *PPLCNET)


@functools.cache
def example_files() -> dict[str, bytes]:
    """All files by path."""
    files = {name: bytes(content) for name, content in tar_members(decompress(FIXTURE)).items()}
    rule = json.loads(files["PPLCNet_x0_25/rule.json"])
    arrays = {key: weight(key, shape, role, rule["gain"]) for key, shape, role in rule["params"]}
    for folder in PPLCNET:
        # Paddle 3 gives the names of 2.6, but writes no .info.
        told_by = PPLCNET[1] if "json" in folder else folder
        names = read_plain_pickle(files[f"{told_by}/inference.pdiparams.info"])
        keys = {name: entry["structured_name"].removeprefix("base_model.") for name, entry in names.items()}
        ordered = [arrays[keys[name]] for name in sorted(keys)]
        files[f"{folder}/inference.pdiparams"] = b"".join(variable_header(a) + a.tobytes() for a in ordered)
    return files


def write_example(name: str, folder: Path) -> Path:
    """Writes one of `EXAMPLES` into a folder, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in example_files().items():
        if path.startswith(f"{name}/"):
            (folder / os.path.basename(path)).write_bytes(content)
    return folder


def example_program(name: str) -> bytes:
    """The program of one of `EXAMPLES`."""
    files = example_files()
    names = ("inference.json", "inference.pdmodel", "model", "__model__")
    return next(files[f"{name}/{file}"] for file in names if f"{name}/{file}" in files)


# ------------------------------------------------------------------------------------------------------- ProgramDesc


def varint(value: int) -> bytes:
    """A whole number of a message; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A message of these fields: numbers, texts, or messages."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [varint(number << 3), varint(value)]
        else:
            content = value.encode() if isinstance(value, str) else value
            parts += [varint(number << 3 | 2), varint(len(content)), content]
    return b"".join(parts)


def variable_desc(name: str, shape: Iterable[int] = (2,), dtype: int = 5, kind: int = 7, persistable: int = 0) -> bytes:
    """A VarDesc."""
    tensor = message((1, dtype), *((2, size) for size in shape))
    return message((1, name), (2, message((1, kind), (3, message((1, tensor))))), (3, persistable))


def operation_desc(kind: str, inputs: dict, outputs: dict, *attributes: bytes) -> bytes:
    """An OpDesc; slots are slot -> names, attributes are messages."""
    slots = [
        (number, message((1, slot), *((2, name) for name in names)))
        for number, part in ((1, inputs), (2, outputs))
        for slot, names in part.items()
    ]
    return message(*slots, (3, kind), *((4, attribute) for attribute in attributes))


def attribute_desc(name: str, kind: int, *values: tuple[int, int | str | bytes]) -> bytes:
    """An OpDesc.Attr of the type `kind`, whose value is in the fields `values`."""
    return message((1, name), (2, kind), *values)


def program_desc(*operations: bytes, variables: Iterable[bytes] = (), blocks: Iterable[bytes] = ()) -> bytes:
    """A ProgramDesc that feeds "x", runs operations and fetches "y"."""
    feed = operation_desc("feed", {"X": ["feed"]}, {"Out": ["x"]}, attribute_desc("col", 0, (3, 0)))
    fetch = operation_desc("fetch", {"X": ["y"]}, {"Out": ["fetch"]}, attribute_desc("col", 0, (3, 0)))
    described = (
        variable_desc("feed", kind=9, persistable=1),
        variable_desc("fetch", kind=10, persistable=1),
        variable_desc("x"),
        variable_desc("y"),
        *variables,
    )
    main = message((1, 0), (2, -1), *((3, v) for v in described), *((4, o) for o in (feed, *operations, fetch)))
    return message((1, main), *((1, block) for block in blocks), (4, message((1, 2_006_002))))


# --------------------------------------------------------------------------------------------------------------- PIR


def pir_value(number: int, shape: Iterable[int] = (2,), dtype: str = "0.t_f32") -> dict:
    """What an operation says of a value that it writes."""
    return {"%": number, "TT": {"#": "0.t_dtensor", "D": [{"#": dtype}, list(shape), "NCHW", [], 0]}}


def pir_operation(kind: str, inputs: Iterable[int], outputs: Iterable[dict], **attributes: dict) -> dict:
    """An operation; an attribute is {"#": kind, "D": value}."""
    named = [{"N": name, "AT": attribute} for name, attribute in attributes.items()]
    return {"#": kind, "A": named, "I": [{"%": number} for number in inputs], "O": list(outputs), "OA": []}


def pir_parameter(number: int, name: str, shape: Iterable[int] = (2,), dtype: str = "0.t_f32") -> dict:
    """A parameter."""
    return {"#": "p", "A": [0, 1, 1, name], "O": pir_value(number, shape, dtype), "OA": [1, 0, 1], "DA": [], "QA": []}


def pir_program(*operations: dict, output: int = 1) -> dict:
    """A program whose input is value 1, and whose output is `output`."""
    data = pir_operation("1.data", [], [pir_value(1)], name={"#": "0.a_str", "D": "x"})
    fetched = {"name": {"#": "0.a_str", "D": "fetch_name_0"}, "col": {"#": "0.a_i32", "D": 0}}
    fetch = pir_operation("1.fetch", [output], [pir_value(999)], **fetched)
    block = {"#": "block_0", "args": [], "ops": [data, *operations, fetch]}
    base = {"magic": "pir", "trainable": True, "version": 4}
    return {"base_code": base, "program": {"regions": [{"#": "region_0", "blocks": [block]}]}}
