"""Damaged and hostile programs of PaddlePaddle, parameters and what is beside them: made of whole ones, by number.

Most damage keeps to the structure, so that it gets past the first check: a field of a message deep within, with all
lengths around it right; a value of JSON, with all brackets in place.
"""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from paddle_programs import PPLCNET, attribute_desc, example_files, message, operation_desc, varint

from utils.formats.inference_model import read_parameters, read_program
from utils.formats.paddle import variable_header
from utils.formats.protobuf import read_varint

NUMBERS = (0, 1, 2, -1, -2, 7, 17, 127, 128, 255, 1 << 15, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 63) - 1, 1 << 63)
TEXTS = (
    "",
    "x",
    "@EMPTY@",
    "\n",
    "../x",
    "/etc/passwd",
    "%1",
    "conv2d",
    "while",
    "a" * 3000,
    "\0",
    "漢字",
    "op_callstack",
)
# Fields that are messages: of ProgramDesc, of Caffe's and of ONNX's models, and by the path to them.
MESSAGES: dict[str, dict[int, str]] = {
    "program": {1: "block", 4: "version", 5: "versions"},
    "block": {3: "variable", 4: "operation"},
    "variable": {2: "type"},
    "type": {3: "lod"},
    "lod": {1: "tensor"},
    "operation": {1: "slot", 2: "slot", 4: "attribute"},
    "versions": {1: "pair"},
    "pair": {2: "version"},
    "caffe": {100: "caffe_layer"},
    "caffe_layer": {7: "caffe_blob"},
    "caffe_blob": {7: "caffe_shape"},
    "onnx": {7: "onnx_graph", 14: "onnx_entry"},
    "onnx_graph": {1: "onnx_node", 5: "onnx_tensor"},
    "onnx_node": {5: "onnx_attribute"},
    "onnx_tensor": {13: "onnx_entry"},
}

Field = tuple[int, int, Any]  # number, wire type, value


# ------------------------------------------------------------------------------------------------------- ProgramDesc


def split_message(content: bytes) -> list[Field]:
    fields = []
    view, offset = memoryview(content), 0
    while offset < len(view):
        tag, offset = read_varint(view, offset)
        if tag & 7 == 0:
            value, offset = read_varint(view, offset)
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            if size is None:
                size, offset = read_varint(view, offset)
            value, offset = bytes(view[offset : offset + size]), offset + size
        fields.append((tag >> 3, tag & 7, value))
    return fields


def join_message(fields: list[Field]) -> bytes:
    parts = []
    for number, wire, value in fields:
        parts.append(varint(number << 3 | wire))
        if isinstance(value, int):
            parts.append(varint(value))
        else:
            parts += [varint(len(value)), value] if wire == 2 else [value]
    return b"".join(parts)


def random_value(rng: random.Random) -> tuple[int, int | bytes]:
    """Wire type and value."""
    kind = rng.randrange(6)
    if kind < 2:
        return 0, rng.choice(NUMBERS)
    if kind == 2:
        return 2, rng.choice(TEXTS).encode()
    if kind == 3:
        return 2, rng.randbytes(rng.randrange(20))
    if kind == 4:
        return 5, struct.pack("<f", rng.choice((0, 1, -1, 1e38, float("inf"), float("nan"))))
    return 2, b"".join(varint(rng.choice(NUMBERS)) for _ in range(rng.choice((1, 4, 20, 5000))))


def mutate_fields(rng: random.Random, fields: list[Field]) -> None:
    """Changes one thing at a level of a message."""
    kind = rng.randrange(8)
    place = rng.randrange(len(fields)) if fields else 0
    if not fields or kind == 0:
        fields.insert(place, (rng.choice((0, 1, 2, 3, 4, 5, 6, 10, 20, 1 << 28)), *random_value(rng)))
        return
    number, wire, value = fields[place]
    if kind == 1:
        del fields[place]
    elif kind == 2:
        fields[place:place] = [fields[place]] * rng.choice((1, 2, 50))
    elif kind == 3:
        other = rng.randrange(len(fields))
        fields[place], fields[other] = fields[other], fields[place]
    elif kind == 4:
        fields[place] = (rng.randrange(1, 22), wire, value)
    elif kind == 5:
        fields[place] = (number, *random_value(rng))
    elif isinstance(value, int):
        fields[place] = (number, wire, rng.choice((*NUMBERS, value + 1, value - 1, value << 1)))
    else:
        same = [other for _, kind_of, other in fields if kind_of == wire and other != value]
        fields[place] = (number, wire, rng.choice(same) if same and rng.random() < 0.5 else damaged(rng, value))


def mutate_message(rng: random.Random, content: bytes, kind: str = "program") -> bytes:
    """Goes down to a message at random, and changes something there; all around it stays whole."""
    fields = split_message(content)
    inner = MESSAGES.get(kind, {})
    places = [place for place, (number, _, value) in enumerate(fields) if number in inner and isinstance(value, bytes)]
    if places and rng.random() < 0.8:
        place = rng.choice(places)
        number, wire, value = fields[place]
        fields[place] = (number, wire, mutate_message(rng, value, inner[number]))
    else:
        mutate_fields(rng, fields)
    return join_message(fields)


# ---------------------------------------------------------------------------------------------------------------- PIR


def json_places(rng: random.Random, value: Any) -> tuple[Any, Any]:
    """A container at random within a value of JSON, and a key or index of it."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.1:
            return value, key
        value = inner


def random_json(rng: random.Random) -> Any:
    return rng.choice(
        (None, True, False, 1.5, -1e308, [], {}, [[]], "", *NUMBERS, *TEXTS, 10**400, [0] * 5000, "\ud800")
    )


def mutate_json(rng: random.Random, program: Any) -> None:
    if not program:  # nothing is left of it
        return
    container, key = json_places(rng, program)
    kind = rng.randrange(7)
    value = container[key]
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        # Few copies of what is large, or making the case takes longer than reading it may.
        container[key:key] = [value] * (1 if isinstance(value, dict | list) else rng.choice((1, 2, 50)))
    elif kind == 2:
        other, other_key = json_places(rng, program)
        other[other_key] = value if not isinstance(value, dict | list) else json.loads(json.dumps(value))
    elif kind == 3 and isinstance(value, int):
        container[key] = rng.choice((value + 1, value - 1, -value, 1 << 62, 0))
    elif kind == 4 and isinstance(value, str):
        container[key] = rng.choice((value[:-1], value + "x", value * 2, value.upper(), "0." + value[2:]))
    elif kind == 5 and isinstance(container, dict):
        container[rng.choice(("#", "%", "I", "O", "A", "AT", "D", "VD", "N", "TT", "regions", "name"))] = random_json(
            rng
        )
    else:
        container[key] = random_json(rng)


# ---------------------------------------------------------------------------------------------------- bytes, and bombs


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bytes changed here and there, whatever they mean."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            new = rng.choice(
                (b"\0", b"\xff", b"\x7f", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xff" * 9 + b"\1", b"[", b"-", b"9")
            )
            changed[place : place + len(new)] = new
        elif kind == 2:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del changed[place : place + rng.randrange(1, 64)]
        else:
            changed[place:place] = changed[place : place + rng.randrange(1, 600)]
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.1 else changed)


def bomb(rng: random.Random) -> bytes:
    """A file of some megabytes, of parts that are small and many."""
    count = rng.choice((100_000, 1_000_000, 3_000_000))
    kind = rng.randrange(12)
    if kind == 0:
        return message((1, b"\x22\0" * count))  # operations
    if kind == 1:
        return message((1, b"\x1a\0" * count))  # variables
    if kind == 2:
        return message((1, message((4, b"\x22\0" * count))))  # attributes
    if kind == 3:
        return message((1, message((3, message((1, "x"), (2, message((1, 7), (3, message((1, b"\x10\1" * count))))))))))
    if kind == 4:
        return message((1, message((4, message((3, "a"), (4, message((1, "a"), (2, 3), (6, b"\1" * count))))))))
    if kind == 5:
        return b"\x0a\0" * count
    part = (b"[", b"[],", b'{"":0},', b"1e9,", b'{"":', b'"\\ud83d\\ude00",')[kind - 6]
    head = b'{"base_code": {"magic": "pir", "version": 4}, "program": {"regions": [{"blocks": [{"ops": ['
    return head + part * min(count, (20 << 20) // len(part)) + rng.choice((b"", b"0]}]}]}}"))


# --------------------------------------------------------------------------------------------------------------- cases


def _shortened_desc(content: bytes, operations: int, names: set[str], output: str) -> bytes:
    """A ProgramDesc of its first operations and the variables `names`, without source lines, that fetches `output`."""
    fetch = operation_desc("fetch", {"X": [output]}, {"Out": ["fetch"]}, attribute_desc("col", 0, (3, 0)))
    (block, *others) = split_message(content)
    kept: list[Field] = []
    for number, wire, value in split_message(block[2]):
        if number == 4 and sum(field[0] == 4 for field in kept) <= operations:  # with the feed before them
            fields = [field for field in split_message(value) if not (field[0] == 4 and b"op_callstack" in field[2])]
            kept.append((number, wire, join_message(fields)))
        elif number == 3 and split_message(value)[0][2].decode() in names | {"feed", "fetch"}:
            kept.append((number, wire, value))
    return join_message([(1, 2, join_message([*kept, (4, 2, fetch)])), *others])


def _shortened_pir(content: bytes, operations: int, names: set[str], output: str) -> bytes:
    """A program in PIR of its first operations and the parameters `names`, that fetches `output`."""
    program = json.loads(content)
    block = program["program"]["regions"][0]["blocks"][0]
    parameters = [entry for entry in block["ops"] if entry["#"] == "p" and entry["A"][3] in names]
    others = [entry for entry in block["ops"] if entry["#"] != "p"]
    others[-1]["I"] = [{"%": int(output.removeprefix("%"))}]
    block["ops"] = [*parameters, *others[: operations + 1], others[-1]]
    return json.dumps(program).encode()


def shortened(content: bytes, parameters: bytes, operations: int) -> tuple[bytes, bytes]:
    """A program of so many first operations, of which the last has one output, and its combined parameters."""
    program = read_program(content)
    kept = program.operations[:operations]
    slots = [slot for operation in kept for slot in (*operation.inputs.values(), *operation.outputs.values())]
    names = {*program.feeds, *(name for slot in slots for name in slot)}
    ((output,),) = kept[-1].outputs.values()
    shorten = _shortened_pir if program.dialect == "pir" else _shortened_desc
    arrays = read_parameters(program, parameters)
    short = b"".join(variable_header(arrays[name]) + arrays[name].tobytes() for name in sorted(names & arrays.keys()))
    return shorten(content, operations, names, output), short


def examples() -> dict[str, tuple[bytes, bytes]]:
    """Small programs with their combined parameters."""
    files = example_files()
    return {
        "fluid": shortened(files["custom_net/model"], files["custom_net/params"], 20),
        "2.6": shortened(*(files[f"{PPLCNET[1]}/inference.{ending}"] for ending in ("pdmodel", "pdiparams")), 18),
        "3.3": shortened(*(files[f"{PPLCNET[0]}/inference.{ending}"] for ending in ("json", "pdiparams")), 18),
    }


def mutated_program(rng: random.Random, content: bytes) -> bytes:
    """A program with a few changes, most of them within its structure."""
    if rng.random() < 0.15:
        return damaged(rng, content)
    if content.startswith(b"{"):
        program = json.loads(content)
        for _ in range(rng.choice((1, 1, 2, 5))):
            mutate_json(rng, program)
        text = json.dumps(program)
        if rng.random() < 0.1:
            text = text.replace(
                str(rng.randrange(10)), rng.choice(("NaN", "-Infinity", "9" * 5000, "1e999", "null")), 1
            )
        return text.encode()
    for _ in range(rng.choice((1, 1, 2, 5))):
        content = mutate_message(rng, content)
    return content


def mutated_parameters(rng: random.Random, content: bytes) -> bytes:
    """A file of parameters with a change in one of its first headers, or anywhere."""
    if rng.random() < 0.3:
        return damaged(rng, content)
    head = bytearray(content[:4096])
    place = rng.choice((0, 4, 12, 16, 20, 22, 24, rng.randrange(200)))
    head[place : place + rng.choice((1, 4, 8))] = rng.choice(
        (b"\1", b"\xff" * 4, b"\xff" * 8, b"\0" * 4, varint(1 << 40))
    )
    return bytes(head) + content[4096:]
