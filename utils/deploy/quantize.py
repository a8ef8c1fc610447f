"""Post-training static quantization to int8 of exported ONNX models (Jacob et al., arXiv:1712.05877).

ONNX Runtime's quantizer stores weights as int8 with a scale per output channel, and for each operation the scale and
zero point of its uint8 activations, calibrated on real images. Both ONNX Runtime and OpenVINO run the result.

Activations have one scale for all channels, so that channels with small values use few of the 256 steps. Cross-layer
equalization (Nagel et al., arXiv:1906.04721) therefore evens out the channels' ranges first. A ReLU between two
convolutions allows it: relu(x / s) = relu(x) / s, so the first convolution's output can be divided by s per channel,
and the second one's weights multiplied by s. Without it a MobileNetV1_x0_25 trained on digits loses 3 points of
accuracy; with it, nothing.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from utils.deploy.export import QUANTIZED
from utils.deploy.exported import load_exported
from utils.deploy.network import Description
from utils.deploy.onnx_export import describe_onnx, require
from utils.errors import UserError
from utils.files import written_together
from utils.processes import gather_objects, rank

if TYPE_CHECKING:
    import onnx

# Not the multiplications of gates: rounding them to 8 bits costs more accuracy than the speed is worth.
KEPT_IN_FLOAT = frozenset({"Mul", "Sigmoid", "Softmax", "HardSigmoid", "LayerNormalization", "InstanceNormalization"})

# Largest factor by which a channel is scaled up: a channel that is almost always 0 has no meaningful range.
LARGEST_GAIN = 1000.0


def quantize(model_file: Path, batches: Iterable[Tensor], flag: str = "--save_inference") -> Path:
    """Writes the int8 form of NAME/model.onnx as NAME/model_int8.onnx.

    Several processes share the images out; the main process writes.

    Args:
        model_file: an ONNX model that `utils.deploy.export.save_inference` wrote.
        batches: this process's calibration images, normalized, float32 (N, 3, H, W); a few hundred over all processes
            are enough. They are read twice rather than kept in memory.
        flag: the flag to name in errors.

    Returns:
        The int8 model's file.

    Raises:
        UserError: a package is missing, there are no images, or the result cannot be written.
    """
    require("onnx", "onnxruntime")
    import onnx

    description = load_exported(str(model_file), engine="onnxruntime").description
    external = bool(description.params_name)

    def inputs() -> Iterator[np.ndarray]:
        count = 0
        for batch in batches:
            count += len(batch)
            yield batch.contiguous().numpy()
        if not sum(gather_objects(count)):
            raise UserError("--calibration_dir: no image could be read")

    with tempfile.TemporaryDirectory() as folder:
        equalized = Path(folder) / "equalized.onnx"
        model = onnx.load(model_file)
        equalize(model, channel_ranges(model_file, description, inputs()))
        onnx.save(model, equalized, save_as_external_data=True, location="equalized.data")
        ranges = activation_ranges(equalized, inputs())
        if rank() == 0:
            with written_together(model_file.parent, flag) as target:
                write_quantized(equalized, ranges, target / QUANTIZED, external)
                describe_onnx(target / QUANTIZED, dataclasses.replace(description, precision="int8"), external)
    return model_file.with_name(QUANTIZED)


def activation_ranges(model_file: Path, inputs: Iterator[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Smallest and largest value of each activation over the images of all processes, by the activation's name.

    Args:
        model_file: an ONNX model; temporary files are written next to it.
        inputs: this process's images; may be empty.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        """Feeds the images to ONNX Runtime's calibration."""

        def __init__(self, batches: Iterator[np.ndarray]) -> None:
            self.batches = batches

        def get_next(self) -> Any:  # returns None at the end, which the base class does not declare
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if (first := next(inputs, None)) is not None:
        observed = str(model_file.with_name("observed.onnx"))
        calibrator: Any = quantization.create_calibrator(
            model_file, quantized_operators(), observed, use_external_data_format=True
        )
        calibrator.collect_data(Reader(chain([first], inputs)))
        ranges = {name: data.range_value for name, data in calibrator.compute_data().items()}
    merged: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part in gather_objects(ranges):
        for name, (low, high) in part.items():
            lowest, highest = merged.get(name, (low, high))
            merged[name] = np.minimum(low, lowest), np.maximum(high, highest)
    return merged


def quantized_operators() -> list[str]:
    """ONNX's names of the operators whose inputs become int8."""
    from onnxruntime.quantization.registry import QDQRegistry

    return [name for name in QDQRegistry if name not in KEPT_IN_FLOAT]


def write_quantized(
    model_file: Path, ranges: dict[str, tuple[np.ndarray, np.ndarray]], target: Path, external: bool
) -> None:
    """Writes the int8 form of an ONNX model.

    Args:
        model_file: the model.
        ranges: the result of `activation_ranges`.
        target: the file to write.
        external: whether to write the weights to a separate file.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    quantizer = quantization.QDQQuantizer(
        load_model_with_shape_infer(model_file),
        per_channel=True,
        reduce_range=False,
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=quantization.QuantType.QUInt8,
        tensors_range=TensorsData(quantization.CalibrationMethod.MinMax, dict(ranges)),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=quantized_operators(),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target), external)


class Link(NamedTuple):
    """Two consecutive convolutions with at most a ReLU between them, and the value that connects them."""

    first: onnx.NodeProto
    second: onnx.NodeProto
    value: str


def links(graph: onnx.GraphProto) -> list[Link]:
    """All pairs of convolutions where only the second uses the result of the first."""
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    outputs = {value.name for value in graph.output}
    found = []
    for first in graph.node:
        if first.op_type != "Conv" or any(len(users[name]) != 1 for name in first.input[1:]):
            continue
        value = first.output[0]
        if [node.op_type for node in users[value]] == ["Relu"] and value not in outputs:
            value = users[value][0].output[0]
        if [node.op_type for node in users[value]] == ["Conv"] and value not in outputs:
            second = users[value][0]
            if len(users[second.input[1]]) == 1:
                found.append(Link(first, second, value))
    return found


def channel_ranges(model_file: Path, description: Description, inputs: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Largest absolute value of each channel between linked convolutions, by the name of the value.

    Args:
        model_file, description: of an ONNX model.
        inputs: this process's images; the result covers those of all processes.
    """
    import onnx
    import onnxruntime

    model = onnx.load(model_file, load_external_data=False)
    names = [link.value for link in links(model.graph)]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    if name := description.params_name:
        weights = model_file.with_name(name).read_bytes()
        options.add_external_initializers_from_files_in_memory([name], [weights], [len(weights)])
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    ranges: dict[str, np.ndarray] = {}
    for batch in inputs if names else ():
        for name, value in zip(names, session.run(None, {"images": batch}), strict=True):
            largest = np.abs(np.asarray(value)).max((0, 2, 3))
            ranges[name] = np.maximum(ranges.get(name, 0.0), largest)
    merged: dict[str, np.ndarray] = {}
    for part in gather_objects(ranges):
        for name, largest in part.items():
            merged[name] = np.maximum(merged.get(name, 0.0), largest)
    return merged


def equalize(model: onnx.ModelProto, ranges: dict[str, np.ndarray]) -> None:
    """Evens out the channels' ranges between linked convolutions, without changing the model's output.

    Args:
        model: the model with its weights; changed in place.
        ranges: the result of `channel_ranges`.
    """
    from onnx import numpy_helper

    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {}
    for link in links(model.graph):
        for name in (*link.first.input[1:], *link.second.input[1:]):
            if name not in weights:
                weights[name] = numpy_helper.to_array(initializers[name]).astype(np.float64)
    for link in links(model.graph):
        weight = weights[link.second.input[1]]
        groups = next((attribute.i for attribute in link.second.attribute if attribute.name == "group"), 1)
        largest = ranges[link.value].astype(np.float64)
        if groups == 1:
            # These channels of the second convolution share a scale, so the factor is split between both convolutions.
            others = np.abs(weight).max((0, 2, 3))
            scale = np.sqrt(largest / np.maximum(others, np.finfo(np.float32).tiny))
            shape = (1, -1, 1, 1)
        elif groups == len(largest) == len(weight):
            scale = largest  # depthwise: each channel has its own scale
            shape = (-1, 1, 1, 1)
        else:
            continue
        if not scale.max() > 0:
            continue
        scale = np.maximum(scale / scale.max(), 1 / LARGEST_GAIN)
        weights[link.first.input[1]] /= scale[:, None, None, None]
        for name in link.first.input[2:]:
            weights[name] /= scale
        weight *= scale.reshape(shape)
    for name, weight in weights.items():
        initializers[name].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), name))
