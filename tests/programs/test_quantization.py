"""Quantized programs of PaddlePaddle, against what PaddlePaddle 1.8.5, 2.6.2 and 3.3.1 answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from utils.errors import FormatError
from utils.formats.inference_model import read_parameters
from utils.formats.paddle import variable_header
from utils.formats.paddle_program import Operation, Program, Variable
from utils.programs.paddle_translate import translate

STEP = 2 / 127
# Beyond both ends of the scale 2, and between steps.
NUMBERS = np.float32([-10, -2.02, -2, -1.99, STEP / 2, 1.5 * STEP, 2.5 * STEP, -STEP / 2, -1.5 * STEP, 1, 2, 2.1, 9])
TO_EVEN = [-128, -128, -127, -126, 0, 2, 2, 0, -2, 64, 127, 127, 127]
AWAY_FROM_ZERO = [-127, -127, -127, -126, 1, 2, 3, -1, -2, 64, 127, 127, 127]
# Slots of the scale and of the result, if they are not InScale and Out.
SCALES = {"quantize_linear": "Scale", "dequantize_linear": "Scale", "fake_channel_wise_dequantize_max_abs": "Scales"}
RESULTS = {"quantize_linear": "Y", "dequantize_linear": "Y"}


def program_of(*steps: tuple[str, dict[str, Any]], **parameters: np.ndarray) -> Program:
    """Consecutive operations on x0, with the parameter `scale`."""
    variables = {"x0": Variable("x0", (-1, 13), "float32")}
    for name, array in parameters.items():
        variables[name] = Variable(name, array.shape, "float32", True)
    operations = []
    for number, (kind, attributes) in enumerate(steps):
        inputs = {"X": (f"x{number}",), SCALES.get(kind, "InScale"): ("scale",)}
        results = {RESULTS.get(kind, "Out"): (f"x{number + 1}",)}
        operations.append(Operation(kind, inputs, results, attributes))
    last = f"x{len(steps)}"
    return Program("desc", 2006002, tuple(operations), variables, tuple(parameters), ("x0",), (last,), ("x",), (last,))


@torch.inference_mode()
def answers(program: Program, **parameters: np.ndarray) -> np.ndarray:
    (result,) = translate(program, parameters).module(torch.from_numpy(NUMBERS[None]))
    return result.numpy()[0]


SCALE = np.float32([2])
MOVING = "fake_quantize_dequantize_moving_average_abs_max"


@pytest.mark.parametrize(("round_type", "steps"), [(0, TO_EVEN), (1, AWAY_FROM_ZERO)])
def test_activations(round_type, steps):
    about = {"bit_length": 8, "round_type": round_type, "is_test": True}
    quantized = answers(program_of(("fake_quantize_range_abs_max", about), scale=SCALE), scale=SCALE)
    assert quantized.tolist() == steps
    both = answers(program_of((MOVING, about), scale=SCALE), scale=SCALE)
    assert both.tolist() == pytest.approx([number * STEP for number in steps], rel=1e-6)


def test_linear_quantization_rounds_to_even():
    program = program_of(("quantize_linear", {}), ("dequantize_linear", {}), scale=SCALE)
    assert answers(program, scale=SCALE).tolist() == pytest.approx([number * STEP for number in TO_EVEN], rel=1e-6)


def test_dequantization_by_channel():
    scales = np.arange(1, 14, dtype=np.float32)
    about = {"quant_bits": [8], "quant_axis": 1}
    result = answers(program_of(("fake_channel_wise_dequantize_max_abs", about), scale=scales), scale=scales)
    assert result.tolist() == pytest.approx((NUMBERS * scales / 127).tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "axis", "scales"),
    [("fake_quantize_dequantize_abs_max", None, [[10], [10]]),
     ("fake_channel_wise_quantize_dequantize_abs_max", 0, [[10], [5]])],
)  # fmt: skip
def test_weights(kind, axis, scales):
    weights = np.stack([NUMBERS, NUMBERS / 2])
    about = {"bit_length": 8, "round_type": 0} | ({} if axis is None else {"quant_axis": axis})
    operation = Operation(kind, {"X": ("w",)}, {"Out": ("x1",), "OutScale": ("s",)}, about)
    variables = {"x0": Variable("x0", (-1, 13), "float32"), "w": Variable("w", (2, 13), "float32", True)}
    program = Program("desc", 2006002, (operation,), variables, ("w",), ("x0",), ("x1",), ("x",), ("x1",))
    (result,) = translate(program, {"w": weights}).module(torch.zeros(1, 13))
    steps = np.float32(scales) / 127
    np.testing.assert_allclose(result.numpy(), np.rint(weights / steps) * steps, rtol=1e-6)


REFUSED = {
    "scale of the batch": ((MOVING, {"is_test": False}), "as in training"),
    "bits": ((MOVING, {"bit_length": 99}), "its bit_length is 99"),
    "rounding": ((MOVING, {"round_type": 7}), "its round_type is 7"),
    "channels": (("quantize_linear", {"quant_axis": 0}), "2 scales along dimension 0"),
    "weights left in steps": (("relu", {"quantization_type": "post_weight_abs_max"}), "quantization_type"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name(what):
    step, message = REFUSED[what]
    scale = np.float32([1, 2]) if what == "channels" else SCALE
    with pytest.raises(FormatError, match=message):
        translate(program_of(step, scale=scale), {"scale": scale})


def test_scales_of_the_images_are_refused():
    operation = Operation("fake_quantize_abs_max", {"X": ("x0",)}, {"Out": ("x1",)}, {})
    variables = {"x0": Variable("x0", (-1, 13), "float32")}
    program = Program("desc", 0, (operation,), variables, (), ("x0",), ("x1",), ("x",), ("x1",))
    with pytest.raises(FormatError, match="its scale is computed from the images"):
        translate(program, {})


def test_files_that_the_program_describes_as_before_quantization():
    """Weights are int8 in the file, and scales have another shape."""
    names = {"a": ((2, 3), "int8", (2, 3)), "a@scale": ((2,), "float32", (1, 2))}
    program = Program("desc", 2006002, (), {name: Variable(name, shape, "float32", True)
                                           for name, (shape, _, _) in names.items()},
                      tuple(names), (), (), (), ())  # fmt: skip
    arrays = {name: np.arange(np.prod(shape)).reshape(shape).astype(dtype) for name, (_, dtype, shape) in names.items()}
    content = b"".join(variable_header(array) + array.tobytes() for array in arrays.values())
    found = read_parameters(program, content)
    assert (found["a"].dtype, found["a"].shape, found["a@scale"].shape) == (np.int8, (2, 3), (2,))
