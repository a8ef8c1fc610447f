"""PaddlePaddle programs: original ones in both dialects, and every kind of invalid program."""

from __future__ import annotations

import itertools
import json
import math
import struct
import time

import numpy as np
import pytest
from paddle_programs import (
    EXAMPLES,
    PPLCNET,
    attribute_desc,
    example_files,
    example_program,
    message,
    operation_desc,
    pir_operation,
    pir_parameter,
    pir_program,
    pir_value,
    program_desc,
    variable_desc,
)

from utils.errors import FormatError
from utils.formats.inference_model import read_program
from utils.formats.paddle import program_variables
from utils.formats.paddle_program import Operation, Variable

# ----------------------------------------------------------------------------------------------------- the originals


@pytest.mark.parametrize(
    ("name", "dialect", "version", "operations", "parameters", "feed", "fetches"),
    [
        ("custom_net", "desc", 1008005, 70, 34, ["image"], ["save_infer_model/scale_0.tmp_0"]),
        ("custom_wide", "desc", 1008005, 83, 13, ["image"], [f"save_infer_model/scale_{i}.tmp_0" for i in range(4)]),
        (PPLCNET[0], "pir", 4, 117, 146, ["x"], ["fetch_name_0"]),
        (PPLCNET[1], "desc", 2006002, 110, 146, ["x"], ["save_infer_model/scale_0.tmp_0"]),
        (PPLCNET[2], "desc", 2006002, 110, 146, ["x"], ["save_infer_model/scale_0.tmp_0"]),
    ],
)
def test_programs_of_the_originals(name, dialect, version, operations, parameters, feed, fetches):
    program = read_program(example_program(name))
    assert (program.dialect, program.version) == (dialect, version)
    assert (len(program.operations), len(program.parameters)) == (operations, parameters)
    assert (list(program.feed_labels), list(program.fetch_labels)) == (feed, fetches)
    assert program.variables[program.feeds[0]].dtype == "float32"
    assert not any(operation.kind in ("feed", "fetch", "data") for operation in program.operations)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "json" not in name])
def test_parameters_are_those_that_a_combined_file_has(name):
    content = example_program(name)
    assert list(read_program(content).parameters) == program_variables(content)


def test_what_an_operation_of_programdesc_says():
    program = read_program(example_program(PPLCNET[2]))
    assert program.operations[0] == Operation(
        "conv2d",
        {"Input": ("x",), "Filter": ("conv2d_0.w_0",)},
        {"Output": ("conv2d_0.tmp_0",)},
        {
            "data_format": "NCHW", "dilations": [1, 1], "groups": 1, "padding_algorithm": "EXPLICIT",
            "paddings": [1, 1], "strides": [2, 2],
        },
    )  # fmt: skip
    assert program.variables["conv2d_0.w_0"] == Variable("conv2d_0.w_0", (8, 3, 3, 3), "float32", True)
    assert program.variables["x"] == Variable("x", (-1, 3, 224, 224), "float32")
    assert program.operation_versions["leaky_relu"] == 1
    assert program.operation_versions["roll"] == 2
    assert "relu" not in program.operation_versions


def test_what_an_operation_of_pir_says():
    program = read_program(example_program(PPLCNET[0]))
    assert program.operations[0] == Operation(
        "conv2d",
        {"": ("%147", "conv2d_0.w_0_deepcopy_0")},
        {"": ("%148",)},
        {
            "strides": [2, 2], "paddings": [1, 1], "padding_algorithm": "EXPLICIT", "dilations": [1, 1], "groups": 1,
            "data_format": "NCHW",
        },
    )  # fmt: skip
    assert program.feeds == ("%147",)
    assert program.variables["%148"] == Variable("%148", (-1, 8, 112, 112), "float32")
    assert program.variables["conv2d_0.w_0_deepcopy_0"].persistable
    epsilon = {operation.attributes["epsilon"] for operation in program.operations if operation.kind == "batch_norm_"}
    assert epsilon == {float(np.float32(1e-5))}
    (dropout,) = (operation for operation in program.operations if operation.kind == "dropout")
    assert dropout.inputs[""][1] == ""  # no seed is given


def test_data_types_in_attributes_are_names():
    program = read_program(example_program("custom_wide"))
    kinds = {
        (operation.kind, name): value
        for operation in program.operations
        for name, value in operation.attributes.items()
        if "dtype" in name
    }
    assert kinds["fill_constant", "dtype"] == "float32"
    assert kinds["arg_max", "dtype"] is None  # stored as -1
    assert (kinds["cast", "in_dtype"], kinds["cast", "out_dtype"]) == ("int32", "float32")


def test_program_of_thousands_of_operations_loads_in_a_second():
    """Source lines of the exporting program fill most of a file."""
    trace = attribute_desc("op_callstack", 5, *((8, f'  File "train.py", line {line}, in f') for line in range(40)))
    lists = [attribute_desc(f"attribute_{number}", 3, (6, 1), (6, 2)) for number in range(10)]
    names = ["x", *(f"t{number}" for number in range(1999)), "y"]
    operations = [
        operation_desc("scale", {"X": [before]}, {"Out": [after]}, trace, *lists)
        for before, after in itertools.pairwise(names)
    ]
    content = program_desc(*operations, variables=[variable_desc(name) for name in names[1:-1]])
    start = time.process_time()
    program = read_program(content)
    assert time.process_time() - start < 1  # 0.2 on a machine with nothing else to do
    assert len(program.operations) == 2000 and len(content) > 3_000_000


# ---------------------------------------------------------------------------------------------------- ProgramDesc


def scaled(*attributes: bytes) -> bytes:
    return program_desc(operation_desc("scale", {"X": ["x"]}, {"Out": ["y"]}, *attributes))


@pytest.mark.parametrize(
    ("kind", "fields", "value"),
    [
        (0, [(3, -2)], -2),
        (0, [(3, 2**32 - 2)], -2),  # an int32 is its lower 32 bits
        (2, [(5, "NCHW")], "NCHW"),
        (3, [(6, 1), (6, -1)], [1, -1]),
        (3, [(6, b"\1\2\x80\1")], [1, 2, 128]),  # packed
        (3, [], []),
        (4, [(7, struct.pack("<3f", 1, -2, 0.5))], [1.0, -2.0, 0.5]),
        (5, [(8, "a"), (8, "b")], ["a", "b"]),
        (6, [(10, 1)], True),
        (7, [(11, 1), (11, 0)], [True, False]),
        (9, [(13, -(2**63))], -(2**63)),
        (11, [(15, 2**40), (15, -1)], [2**40, -1]),
        (12, [(16, struct.pack("<d", 0.1))], [0.1]),
        (15, [(19, struct.pack("<d", 0.1))], 0.1),
        (16, [(20, message((1, 2), (3, -7)))], -7),
        (17, [(21, message((1, 1), (2, 1))), (21, message((1, 3), (4, struct.pack("<d", 2.5))))], [True, 2.5]),
    ],
)
def test_attributes_of_programdesc(kind, fields, value):
    (operation,) = read_program(scaled(attribute_desc("a", kind, *fields))).operations
    assert operation.attributes == {"a": value}
    assert type(operation.attributes["a"]) is type(value)


def test_source_lines_are_stepped_over():
    program = read_program(scaled(message((1, "op_callstack"), (2, 5), (8, b"\xff not text"))))
    assert program.operations[0].attributes == {}


def test_slots_without_variables_are_left_out():
    content = program_desc(
        operation_desc("scale", {"X": ["x"], "ScaleTensor": [], "Bias": ["@EMPTY@"]}, {"Out": ["y"]})
    )
    assert read_program(content).operations[0].inputs == {"X": ("x",)}


def test_feeds_and_fetches_are_in_the_order_of_their_columns():
    def column(number: int) -> bytes:
        return attribute_desc("col", 0, (3, number))

    operations = [
        operation_desc("feed", {"X": ["f"]}, {"Out": ["b"]}, column(1)),
        operation_desc("feed", {"X": ["f"]}, {"Out": ["a"]}, column(0)),
        operation_desc("fetch", {"X": ["b"]}, {"Out": ["o"]}, column(1)),
        operation_desc("fetch", {"X": ["a"]}, {"Out": ["o"]}, column(0)),
    ]
    variables = [(3, variable_desc(name)) for name in "ab"]
    program = read_program(message((1, message(*variables, *((4, operation) for operation in operations)))))
    assert program.feeds == program.fetches == ("a", "b")
    assert program.version == 0  # fluid's first


def block_attribute() -> bytes:
    return attribute_desc("sub_block", 8, (12, 1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x0a\0", "no input: it was not exported for inference"),
        (b"\x0a\x7f", "cut short"),
        (message((4, b"")), "not a PaddlePaddle program"),
        (b"", "not a PaddlePaddle program"),
        (message((1, 5)), "not a PaddlePaddle program"),
        (program_desc(), "no operation writes the program's output 'y'"),
        (program_desc(operation_desc("relu", {"X": ["z"]}, {"Out": ["y"]})), "'relu' reads 'z' before anything"),
        (program_desc(operation_desc("", {"X": ["x"]}, {"Out": ["y"]})), "has no kind"),
        (program_desc(variables=[variable_desc("x")]), "two variables 'x'"),
        (program_desc(variables=[variable_desc("w", [1] * 17)]), "more than 16 dimensions"),
        (program_desc(variables=[variable_desc("w", kind=8, persistable=1)]), "parameter 'w' is not a tensor"),
        (program_desc(variables=[variable_desc("w", dtype=99, persistable=1)]), "parameter 'w' is not a tensor"),
        (program_desc(variables=[variable_desc("w" * 2000)]), "more than 1000 characters"),
        (program_desc(variables=[message((1, b"\xff\xfe"))]), "not UTF-8"),
        (program_desc(operation_desc("while", {"X": ["x"]}, {"Out": ["y"]}, block_attribute())), "supported: while"),
        (scaled(attribute_desc("a", 13, (17, "x"))), "'scale': attribute 'a': is given by a variable"),
        (scaled(attribute_desc("a", 99)), "attribute 'a': is of the unknown type 99"),
        (scaled(attribute_desc("a", 0)), "attribute 'a': has no value"),
        (scaled(attribute_desc("dtype", 0, (3, 77))), "'dtype': is the unknown data type 77"),
        (scaled(attribute_desc("a", 16, (20, message((1, 4))))), "scalar of kind 4"),
        (scaled(attribute_desc("a", 1, (4, b"\0\0\0"))), "cut short"),
        (scaled(*[attribute_desc("a", 3, (6, b"\1" * 1_100_000))]), "more than 600000 fields"),
        (message((1, b"\x22\0" * 700_000)), "more than 600000 fields"),
        (scaled(attribute_desc("a", 4, (7, bytes(2_800_000)))), "more than 600000 fields"),
        (scaled(attribute_desc("a", 2, (5, bytes(1_100_000)))), "more than 1 MB"),
        (message((1, bytes(129 << 20))), "more than 128 MB"),
    ],
)
def test_what_is_no_programdesc_is_refused(content, reason):
    with pytest.raises(FormatError, match=reason) as caught:
        read_program(content)
    assert "\n" not in str(caught.value)


def test_control_flow_is_refused_by_name():
    loops = [operation_desc(kind, {}, {"Out": ["y"]}, block_attribute()) for kind in ("while", "conditional_block")]
    with pytest.raises(FormatError, match="control flow, which is not supported: conditional_block, while"):
        read_program(program_desc(*loops, blocks=[message((1, 1), (2, 0))]))


def test_blocks_that_nothing_runs_do_not_matter():
    content = program_desc(operation_desc("relu", {"X": ["x"]}, {"Out": ["y"]}), blocks=[message((1, 1), (2, 0))])
    assert [operation.kind for operation in read_program(content).operations] == ["relu"]


# ------------------------------------------------------------------------------------------------------------- PIR


def encoded(program: dict) -> bytes:
    return json.dumps(program).encode()


def filled(**attributes: dict) -> bytes:
    return encoded(pir_program(pir_operation("1.full", [], [pir_value(2)], **attributes), output=2))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ({"#": "0.a_bool", "D": True}, True),
        ({"#": "0.a_i32", "D": -3}, -3),
        ({"#": "0.a_i64", "D": 2**63 - 1}, 2**63 - 1),
        ({"#": "0.a_f32", "D": 1}, 1.0),
        ({"#": "0.a_f64", "D": 0.1}, 0.1),
        ({"#": "0.a_f64", "VD": "-INF"}, -math.inf),
        ({"#": "0.a_str", "D": "NCHW"}, "NCHW"),
        ({"#": "1.a_intarray", "D": [-1, 3]}, [-1, 3]),
        ({"#": "1.a_dtype", "D": "float32"}, "float32"),
        ({"#": "1.a_dtype", "D": "Undefined(ALL_DTYPE)"}, None),
        ({"#": "1.a_scalar", "D": ["int64", 5]}, 5),
        ({"#": "0.a_array", "D": [{"#": "0.a_i32", "D": 1}, {"#": "0.a_f32", "D": 0.5}]}, [1, 0.5]),
        ({"#": "0.a_array", "D": []}, []),
    ],
)
def test_attributes_of_pir(attribute, value):
    (operation,) = read_program(filled(a=attribute)).operations
    assert operation.attributes == {"a": value}
    assert type(operation.attributes["a"]) is type(value)


def test_parameters_of_pir_are_sorted_by_name():
    parameters = [pir_parameter(number, name) for number, name in ((2, "b_2"), (3, "b_10"), (4, "a"))]
    assert read_program(encoded(pir_program(*parameters))).parameters == ("a", "b_10", "b_2")


def test_what_only_training_needs_is_in_no_file():
    program = json.loads(changed("1/OA", [0, 1, 0]))
    found = read_program(encoded(program))
    assert found.parameters == () and found.operations[0].inputs == {"": ("%1", "")}


def test_values_of_lists_and_of_no_type():
    listed = {"%": 2, "TT": {"#": "0.t_vec", "D": [pir_value(1)["TT"]]}}
    program = read_program(
        encoded(pir_program(pir_operation("0.combine", [1, 0], [listed, {"%": 3, "TT": {"#": "NULL"}}])))
    )
    assert program.operations[0].inputs == {"": ("%1", "")}
    assert program.variables["%2"] == Variable("%2", None, None)


def changed(path: str, value: object) -> bytes:
    """A program with another value at `path`."""
    program = pir_program(pir_parameter(2, "w"), pir_operation("1.add", [1, 2], [pir_value(3)]), output=3)
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    place = program
    for key in ("program", "regions", 0, "blocks", 0, "ops", *parents):
        place = place[key]
    place[last] = value
    return encoded(program)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "damaged"),
        (b'{"a": 1}', "'base_code' should be of type dict"),
        (b'{"base_code": {"magic": "x"}}', "no PaddlePaddle program"),
        (b'{"base_code": {"magic": "pir"}, "program": {"regions": []}}', "0 blocks"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "damaged"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
        (b'{"a": "' + b" " * (25 << 20) + b'"}', "more than 24 MB"),
        (b'{"a": [' + b"[]," * 1_000_000 + b"0]}", "more than 1000000 lists and objects"),
        (b'{"a": [' + b"0," * 2_000_001 + b"0]}", "more than .* 2000000 commas"),
        (changed("1/O/%", 1), "value 1 is written twice"),
        (changed("1/O/%", 0), "value 0 is written twice, or its number is invalid"),
        (changed("1/O/%", True), "'%' should be of type int, not True"),
        (changed("1/O/%", 10**40), "is not a 64-bit integer"),
        (changed("1/A/3", "%1"), "parameters '%1', or that is not a valid name"),
        (changed("1/A/3", "\ud800"), "is not valid UTF-8"),
        (changed("1/A", []), "a parameter has no name"),
        (changed("1/O/TT/D/1", [-1, 2]), "parameter 'w' is not a tensor of a known size"),
        (changed("2/I/0/%", 7), "'add': reads value 7 before anything has written it"),
        (changed("2/I", None), "'I' should be of type list, not None"),
        (changed("2/O/0/TT/D/1", [1] * 17), "more than 16 dimensions"),
        (changed("2/#", "3.my_operator"), "'my_operator': has the dialect custom_op"),
        (changed("2/#", "9.add"), "has an unknown dialect"),
        (changed("2/regions", []), "control flow, which is not supported: add"),
        (changed("2/#", "2.yield"), "control flow, which is not supported: yield"),
        (changed("3/A", []), "'fetch': an output of the program has no name"),
        (changed("0/A", []), "'data': an input of the program has no name"),
        (filled(a={"#": "0.a_pointer", "D": 1}), "'full': attribute 'a': is of the unknown type '0.a_pointer'"),
        (filled(a={"#": "0.a_i32", "D": 1.5}), "1.5 is not a 64-bit integer"),
        (filled(a={"#": "0.a_f32", "D": "1"}), "'1' is not a number"),
        (filled(a={"#": "0.a_f32", "VD": "x"}), "'x' is not a number"),
        (filled(a={"#": "0.a_str", "D": "\ud800"}), "is not valid UTF-8"),
        (filled(a={"#": "1.a_dtype", "D": "float7"}), "data type 'float7' is not supported"),
        (filled(a={"#": "1.a_scalar", "D": ["complex64", 1]}), "scalar of data type complex64"),
    ],
)
def test_what_is_no_pir_is_refused(content, reason):
    with pytest.raises(FormatError, match=reason) as caught:
        read_program(content)
    assert "\n" not in str(caught.value) and str(caught.value).encode()


def test_lists_in_attributes_are_not_nested_deep():
    attribute: dict = {"#": "0.a_i32", "D": 1}
    for _ in range(20):
        attribute = {"#": "0.a_array", "D": [attribute]}
    with pytest.raises(FormatError, match="nested more than 8 deep"):
        read_program(filled(a=attribute))


def test_example_files_are_as_the_originals_wrote_them():
    """Parameters generated by the rule are as long as the original ones."""
    assert {len(example_files()[f"{folder}/inference.pdiparams"]) for folder in PPLCNET} == {1_077_944}
