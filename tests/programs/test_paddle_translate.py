"""PaddlePaddle's exported programs as graphs of PyTorch operators: the same outputs in every way to run them."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from paddle_operators import OPTIMIZED, VERSIONS, ShapeCheck, cases
from paddle_programs import EXAMPLES, PPLCNET, example_files, example_program

from utils.deploy.onednn import can_fuse, fuse_convolutions
from utils.errors import FormatError
from utils.formats.inference_model import read_parameters, read_program
from utils.formats.paddle_program import Operation, Program, Variable
from utils.programs.paddle_ops.registry import DESC, PIR
from utils.programs.paddle_translate import Translation, translate

BAR = 1e-5
aten = torch.ops.aten


def difference(result: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference, as a share of the largest number above 1; infinite where shape, type or NaNs differ."""
    array = result.numpy()
    if array.shape != expected.shape or array.dtype != expected.dtype:
        return float("inf")
    if not array.size:
        return 0.0
    if not np.array_equal(np.isnan(array), np.isnan(expected)):
        return float("inf")
    one, other = (np.nan_to_num(values.astype(np.float64)) for values in (array, expected))
    return float(np.abs(one - other).max() / max(1.0, np.abs(other).max()))


# ---------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("version", [*VERSIONS, *OPTIMIZED])
def test_operators_answer_as_paddlepaddle(version):
    wrong = {}
    with torch.inference_mode():
        for case in cases(version):
            module = translate(case.program, case.parameters).module
            results = ShapeCheck(module).run(*case.inputs)
            assert len(results) == len(case.answers) > 0
            errors = [difference(*pair) for pair in zip(results, case.answers, strict=True)]
            if not max(errors) <= 2e-6:
                wrong[case.name] = errors
    assert not wrong


def test_recorded_cases_cover_most_operators():
    kinds = {"pir": set(), "desc": set()}
    for version in VERSIONS:
        for case in cases(version):
            kinds[case.program.dialect].update(operation.kind for operation in case.program.operations)
    for dialect, table in (("pir", PIR), ("desc", DESC)):
        assert len(kinds[dialect] & table.keys()) >= 200


# ----------------------------------------------------------------------------------------------------- programs


def example(name: str) -> tuple[Program, dict[str, np.ndarray], torch.Tensor, list[np.ndarray]]:
    """A complete example: program, parameters, images, and the original's outputs; for PPLCNet also its logits."""
    files = example_files()
    program = read_program(example_program(name))
    own = {path.removeprefix(f"{name}/"): content for path, content in files.items() if path.startswith(f"{name}/")}
    combined = own.get("params") or own.get("inference.pdiparams")
    parameters = read_parameters(program, own if combined is None else combined)
    if name in PPLCNET:
        with np.load(io.BytesIO(files["PPLCNet_x0_25/expected.npz"])) as expected:
            return program, parameters, zoo.images(224), [expected["output"], expected["logits"]]
    with np.load(io.BytesIO(files[f"{name}_expected.npz"])) as expected:
        outputs = [expected[f"out{index}"] for index in range(len(program.fetches))]
        return program, parameters, torch.from_numpy(expected["images"]), outputs


@pytest.mark.parametrize("name", EXAMPLES)
@torch.inference_mode()
def test_examples_answer_as_the_original(name):
    program, parameters, images, expected = example(name)
    translation = translate(program, parameters)
    results = ShapeCheck(translation.module).run(images)
    for result, wanted in zip(results, expected[: len(results)], strict=True):
        assert difference(result, wanted) < BAR
    # Any number of images, each for itself.
    for count in (1, 3):
        some = translation.module(torch.cat([images, images])[:count])
        whole = torch.cat([results[0], results[0]])[:count]
        assert torch.allclose(some[0], whole, atol=1e-6)


@torch.inference_mode()
def test_logits_are_what_softmax_is_applied_to():
    program, parameters, images, (output, logits) = example(PPLCNET[0])
    translation = translate(program, parameters)
    (described,) = translation.outputs
    assert described.activation == "softmax" and described.is_classes and described.shape == (None, 20)
    assert translation.inputs[0].shape == (None, 3, 224, 224)
    assert difference(translation.single(before_activation=True)(images), logits) < BAR
    assert difference(translation.single()(images), output) < BAR


def test_several_outputs_are_described():
    program, parameters, images, expected = example("custom_wide")
    translation = translate(program, parameters)
    assert [output.is_classes for output in translation.outputs] == [True, True, False, False]
    assert [output.activation for output in translation.outputs] == ["softmax", None, None, None]
    with torch.inference_mode():
        assert difference(translation.single(2)(images), expected[2]) == 0


def test_both_dialects_give_the_same_graph():
    graphs = []
    for name in PPLCNET:
        program, parameters, *_ = example(name)
        graphs.append(Counter(str(node.target) for node in translate(program, parameters).module.graph.nodes
                              if node.op == "call_function"))  # fmt: skip
    assert graphs[0] == graphs[1] == graphs[2]
    assert graphs[0]["aten.batch_norm.default"] == 0 and graphs[0]["aten.add.Tensor"] == 0


# ------------------------------------------------------------------------------------- what exists for exports


@torch.inference_mode()
def test_fused_convolutions():
    if not can_fuse(torch.float32):
        pytest.skip("this PyTorch has no fused convolutions")
    program, parameters, images, (_, logits) = example(PPLCNET[0])
    module = translate(program, parameters).single(before_activation=True)
    fuse_convolutions(module, 2)
    assert not module.graph.find_nodes(op="call_function", target=aten.conv2d.default)
    assert difference(module(images), logits) < BAR


@torch.inference_mode()
def test_other_precisions():
    program, parameters, images, (output, _) = example(PPLCNET[1])
    exact = translate(program, parameters, dtype=torch.float64).module(images.double())[0]
    assert exact.dtype == torch.float64 and np.abs(exact.numpy() - output).max() < 1e-6
    half = translate(program, parameters, dtype=torch.bfloat16).module(images.bfloat16())[0]
    assert half.dtype == torch.bfloat16 and np.abs(half.float().numpy() - output).max() < 0.02


@torch.inference_mode()
def test_export_again():
    program, parameters, images, (expected,) = example("custom_net")
    module = translate(program, parameters).single()
    exported = torch.export.export(module, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    assert difference(torch.export.load(file).module()(images), expected) < BAR


# ------------------------------------------------------------------------------------------------ what is refused


Step = tuple[str, dict[Any, Any], dict[str, Any]]

# Slots that are not X and Out.
FIRST = {"conv2d": "Input", "slice": "Input", "strided_slice": "Input"}
RESULT = {"conv2d": "Output", "unfold": "Y"}


def program_of(*steps: Step, shape: tuple[int, ...] = (-1, 4, 8, 8)) -> Program:
    """A ProgramDesc with consecutive operations.

    Args:
        steps: kind, inputs and attributes of each operation. Without X among the inputs it takes the previous result;
            None among them means no input.
        shape: shape of the program's input, x0; the first operation's result is x1.
    """
    variables = {"x0": Variable("x0", shape, "float32"), "w": Variable("w", (4, 4, 3, 3), "float32", True)}
    operations = []
    for number, (kind, inputs, attributes) in enumerate(steps):
        before = {} if "X" in inputs or None in inputs else {FIRST.get(kind, "X"): (f"x{number}",)}
        slots = {slot: names for slot, names in {**before, **inputs}.items() if slot and names}
        operations.append(Operation(kind, slots, {RESULT.get(kind, "Out"): (f"x{number + 1}",)}, attributes))
    last = f"x{len(steps)}"
    return Program("desc", 0, tuple(operations), variables, ("w",), ("x0",), (last,), ("x",), (last,))


WEIGHTS = {"w": np.ones((4, 4, 3, 3), np.float32)}
CONV = {"strides": [1, 1], "paddings": [0, 0], "dilations": [1, 1], "groups": 1}
POOL = {"ksize": [2, 2], "pooling_type": "max", "strides": [2, 2], "paddings": [0, 0]}


def filled(number: int, *shape: int) -> Step:
    return ("fill_constant", {None: ()}, {"shape": list(shape), "dtype": "int64", "str_value": str(number)})


SHAPE: Step = ("shape", {None: (), "Input": ("x0",)}, {})

REFUSED: dict[str, list[Step]] = {
    "stride 0": [("conv2d", {"Filter": ("w",)}, {**CONV, "strides": [0, 1]})],
    "negative stride": [("conv2d", {"Filter": ("w",)}, {**CONV, "strides": [-1, 1]})],
    "dilation 0": [("conv2d", {"Filter": ("w",)}, {**CONV, "dilations": [0, 0]})],
    "negative padding": [("conv2d", {"Filter": ("w",)}, {**CONV, "paddings": [-1, 0]})],
    "huge padding": [("conv2d", {"Filter": ("w",)}, {**CONV, "paddings": [2**30, 2**30]})],
    "groups 0": [("conv2d", {"Filter": ("w",)}, {**CONV, "groups": 0})],
    "other groups": [("conv2d", {"Filter": ("w",)}, {**CONV, "groups": 3})],
    "windows larger than images": [("conv2d", {"Filter": ("w",)}, {**CONV, "dilations": [100, 100]})],
    "no weight": [("conv2d", {}, CONV)],
    "attribute of another type": [("conv2d", {"Filter": ("w",)}, {**CONV, "strides": "two"})],
    "fused activation": [("conv2d", {"Filter": ("w",)}, {**CONV, "fuse_relu": True})],
    "unknown fused activation": [("conv2d", {"Filter": ("w",)}, {**CONV, "fuse_activation": "snake"})],
    "fused hard-swish of another version": [
        ("conv2d", {"Filter": ("w",)}, {**CONV, "fuse_activation": "hard_swish", "fuse_alpha": 6.0})
    ],
    "fused addend that is not there": [("conv2d", {"Filter": ("w",)}, {**CONV, "fuse_residual_connection": True})],
    "fused transpose to bytes": [("fused_transpose", {}, {"axis": [0, 2, 1, 3], "output_data_type": "int8"})],
    "pooling stride 0": [("pool2d", {}, {**POOL, "strides": [0, 2]})],
    "pooling window 0": [("pool2d", {}, {**POOL, "ksize": [0, 0]})],
    "pooling windows that begin far outside": [
        ("pool2d", {}, {**POOL, "ksize": [2**30, 2**30], "paddings": [2**29, 2**29]}),
    ],
    "pooling padding": [("pool2d", {}, {**POOL, "paddings": [2, 2]})],
    "adaptive pooling to too much": [("pool2d", {}, {**POOL, "ksize": [2**20, 2**20], "adaptive": True})],
    "reshape to another size": [("reshape2", {}, {"shape": [0, 5, 7]})],
    "reshape with two -1": [("reshape2", {}, {"shape": [-1, -1]})],
    "reshape to -2": [("reshape2", {}, {"shape": [-2, -4, 8, 8]})],
    "absurd expansion": [("tile", {}, {"repeat_times": [1, 2**20, 2**20, 1]})],
    "absurd constant": [("fill_constant", {None: ()}, {"shape": [2**20, 2**20], "dtype": "float32", "value": 1.0})],
    "too many dimensions": [("reshape2", {}, {"shape": [0, 4, 8, 8] + [1] * 20})],
    "axis out of range": [("softmax", {}, {"axis": 4})],
    "axis out of range of a sum": [("reduce_sum", {}, {"dim": [7]})],
    "permutation": [("transpose2", {}, {"axis": [0, 1, 1, 3]})],
    "index out of range": [filled(9, 1), ("gather", {"X": ("w",), "Index": ("x1",)}, {})],
    "negative index of a table": [
        filled(-1, 1),
        ("reshape2", {"X": ("w",)}, {"shape": [48, 3]}),
        ("lookup_table_v2", {"X": (), "W": ("x2",), "Ids": ("x1",)}, {}),
    ],
    "division by 0": [
        filled(0, 1), SHAPE, ("cast", {}, {"out_dtype": "int64"}),
        ("elementwise_floordiv", {"X": ("x3",), "Y": ("x1",)}, {}),
    ],
    "smallest number by -1": [
        filled(-(2**63), 1), filled(-1, 1), ("elementwise_div", {"X": ("x1",), "Y": ("x2",)}, {}),
    ],
    "absurd resizing": [("nearest_interp_v2", {}, {"interp_method": "nearest", "out_h": 2**30, "out_w": 2**30})],
    "absurd scale": [("bilinear_interp_v2", {}, {"interp_method": "bilinear", "scale": [1e9, 1e9]})],
    "reflection of more than there is": [("pad2d", {}, {"paddings": [9, 0, 0, 0], "mode": "reflect"})],
    "cut off more than there is": [("pad2d", {}, {"paddings": [-9, 0, 0, 0]})],
    "other sections": [("split", {}, {"sections": [1, 2], "axis": 1})],
    "too many first": [("top_k_v2", {}, {"k": 9, "axis": 1})],
    "step 0": [("strided_slice", {}, {"axes": [1], "starts": [0], "ends": [2], "strides": [0]})],
    "windows of size 0": [
        ("unfold", {}, {"kernel_sizes": [0, 1], "strides": [1, 1], "paddings": [0, 0], "dilations": [1, 1]}),
    ],
    "groups of channels": [("group_norm", {}, {"groups": 3})],
    "unknown type": [("cast", {}, {"out_dtype": "complex64"})],
    "number of no type": [("fill_constant", {None: ()}, {"shape": [2], "dtype": 99, "value": 1.0})],
    "list of types": [("fill_constant", {None: ()}, {"shape": [2], "dtype": [5], "value": 1.0})],
}  # fmt: skip


@pytest.mark.parametrize(("version", "paddings", "means"), [
    (1008005, [0, 0], [6.0, 5.0, 8.0, 6.0]),
    (2006002, [0, 0], [6.0, 7.5, 12.0, 13.5]),
    (3003001, [0, 0, 0, 0], [6.0, 7.5, 12.0, 13.5]),
    (2006002, [0, 1, 0, 1], [6.0, 7.5, 12.0, 13.5]),
    (2006002, [2, 0, 2, 0], [1 / 9, 2 / 3, 7 / 9, 5 / 3, 6.0, 5.0, 22 / 9, 8.0, 6.0]),
])  # fmt: skip
def test_windows_beyond_the_padding_are_averaged_as_by_the_version_that_wrote_the_program(version, paddings, means):
    """Recorded with PaddlePaddle 1.8.5, 2.6.2 and 3.3.1."""
    settings = {"ksize": [3, 3], "pooling_type": "avg", "strides": [2, 2], "paddings": paddings}
    step = ("pool2d", {}, {**settings, "ceil_mode": True, "exclusive": False})
    program = replace(program_of(step, shape=(-1, 1, 4, 4)), version=version)
    with torch.inference_mode():
        (result,) = ShapeCheck(translate(program, WEIGHTS).module).run(torch.arange(1.0, 17).reshape(1, 1, 4, 4))
    assert result.flatten().tolist() == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize(
    ("dialect", "scale", "places"),
    [("desc", float(np.float32(1.7)), [9, 9]), ("pir", 1.7, [10, 9]), ("pir", 1.02, [17, 16])],
)
def test_the_nearest_pixel_by_the_precision_of_the_scale(dialect, scale, places):
    """Recorded with PaddlePaddle 2.6.2 and 3.3.1: pixels 17 and 16; of the same size, the image stays as it is."""
    about = {"interp_method": "nearest", "scale": [1.0, scale], "align_corners": False}
    slot, kind = ("", "nearest_interp") if dialect == "pir" else ("X", "nearest_interp_v2")
    operation = Operation(kind, {slot: ("x0",)}, {"Out" if slot else "": ("x1",)}, about)
    program = replace(program_of(shape=(-1, 1, 1, 24)), dialect=dialect, operations=(operation,), fetches=("x1",))
    (result,) = translate(program, WEIGHTS).module(torch.arange(24.0).reshape(1, 1, 1, 24))
    assert result[0, 0, 0, [17, 16]].tolist() == places


def test_means_of_nothing_are_refused():
    settings = {"ksize": [1, 1], "pooling_type": "avg", "strides": [3, 3], "paddings": [0, 0]}
    program = program_of(("pool2d", {}, {**settings, "ceil_mode": True, "exclusive": False}))
    with pytest.raises(FormatError, match=r"^pool2d \(operation 0\): .* windows of \[1, 1\] outside of them$"):
        translate(replace(program, version=2006002), WEIGHTS)


def test_a_weight_that_two_layers_share_is_changed_for_one_of_them():
    program = program_of(
        ("conv2d", {"Filter": ("w",)}, CONV), ("scale", {}, {"scale": 3.0}), ("conv2d", {"Filter": ("w",)}, CONV)
    )
    weights = {"w": np.arange(144, dtype=np.float32).reshape(4, 4, 3, 3) / 144}
    images = torch.rand(2, 4, 8, 8)
    folded, plain = (translate(program, weights, simplified=each).module for each in (True, False))
    assert len(dict(folded.named_buffers())) == 2
    torch.testing.assert_close(folded(images), plain(images), rtol=1e-6, atol=0)
    assert np.array_equal(weights["w"], np.arange(144, dtype=np.float32).reshape(4, 4, 3, 3) / 144)


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line(what):
    with pytest.raises(FormatError) as caught:
        translate(program_of(*REFUSED[what]), WEIGHTS)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert any(operation[0] in message for operation in REFUSED[what])


def test_unknown_operators_are_all_named():
    program = program_of(("relu", {}, {}), ("yolo_box", {}, {}), ("yolo_box", {}, {}), ("my_operator", {}, {}))
    with pytest.raises(FormatError, match=r"unsupported operators: my_operator \(1 time\), yolo_box \(2 times\)$"):
        translate(program, WEIGHTS)


@pytest.mark.parametrize(("kind", "what"), [("while", "control flow"), ("uniform_random", "random numbers")])
def test_other_programs_are_refused_by_name(kind, what):
    with pytest.raises(FormatError, match=rf"{what}.*{kind} \(1 time\)"):
        translate(program_of((kind, {}, {})), WEIGHTS)


def test_open_image_size_is_asked_for():
    program = program_of(("relu", {}, {}), shape=(-1, 3, -1, -1))
    with pytest.raises(FormatError, match="no fixed size"):
        translate(program, WEIGHTS)
    assert translate(program, WEIGHTS, image_size=(32, 24)).outputs[0].shape == (None, 3, 32, 24)


ONE_IMAGE = {
    "a batch of 1 is spelled out": [("reshape2", {}, {"shape": [1, 256]})],
    "a fixed part of the batch": [("slice", {}, {"axes": [0], "starts": [0], "ends": [5]})],
    "the square of the batch": [
        ("reshape2", {}, {"shape": [-1]}),
        ("reshape2", {}, {"shape": [-1, 1]}),
        ("elementwise_add", {"X": ("x1",), "Y": ("x2",)}, {}),
    ],
}


@pytest.mark.parametrize("what", ONE_IMAGE)
def test_what_works_for_one_image_only_takes_one(what):
    translation = translate(program_of(*ONE_IMAGE[what]), WEIGHTS)
    assert translation.inputs[0].shape == (1, 4, 8, 8)
    with torch.inference_mode():
        (result,) = translation.module(torch.ones(1, 4, 8, 8))
    assert tuple(result.shape) == translation.outputs[0].shape


def test_fractions_of_the_batch_are_refused():
    quarter = [
        SHAPE,
        filled(2, 4),
        ("cast", {"X": ("x1",)}, {"out_dtype": "int64"}),
        ("elementwise_floordiv", {"X": ("x3",), "Y": ("x2",)}, {}),
        ("reshape2", {"X": ("x0",), "Shape": ("x4",)}, {}),
    ]
    with pytest.raises(FormatError, match="depends on the number of images"):
        translate(program_of(*quarter), WEIGHTS)


def test_translation_is_typed():
    program, parameters, *_ = example("custom_net")
    assert isinstance(translate(program, parameters), Translation)
