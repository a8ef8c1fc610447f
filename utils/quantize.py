"""Post-training static quantization to int8 of exported ONNX models (Jacob et al., arXiv:1712.05877).

ONNX Runtime's quantizer writes weights as int8 with a scale per channel, and around every operation the scale and zero
point of its uint8 activations, found by running real images. ONNX Runtime and OpenVINO both run the result.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import UserError
from utils.export import require, unfinished_onnx
from utils.exported import load_exported

# Gates multiply small differences; they lose more by rounding to 8 bits than they gain in speed.
KEPT_IN_FLOAT = frozenset({"Mul", "Sigmoid", "Softmax", "HardSigmoid", "LayerNormalization", "InstanceNormalization"})


def quantize(model_file: Path, batches: Iterable[Tensor]) -> Path:
    """Writes the int8 form of NAME/model.onnx as NAME/model_int8.onnx.

    Args:
        model_file: an ONNX model that `utils.export.save_inference` wrote.
        batches: images to find the activations' ranges with, normalized, float32 (N, 3, H, W); some hundred will do.

    Returns:
        The int8 model's file.

    Raises:
        UserError: a package is missing, there are no images, or the result cannot be written.
    """
    require("onnx", "onnxruntime")
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import QDQRegistry

    class Reader(quantization.CalibrationDataReader):
        """Feeds the images to ONNX Runtime's calibration."""

        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(batches)
            self.count = 0

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.batches, None)
            if batch is None:
                return None
            self.count += len(batch)
            return {"images": batch.contiguous().numpy()}

    description = load_exported(str(model_file), engine="onnxruntime").description
    quantized = model_file.with_name("model_int8.onnx")
    reader = Reader()
    with unfinished_onnx(quantized, dataclasses.replace(description, precision="int8")) as temporary:
        logging.disable(logging.WARNING)  # advice on preparing a model, which its export has done
        try:
            quantization.quantize_static(
                str(model_file),
                str(temporary),
                reader,
                op_types_to_quantize=[name for name in QDQRegistry if name not in KEPT_IN_FLOAT],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                use_external_data_format=True,
            )
        finally:
            logging.disable(logging.NOTSET)
    if not reader.count:
        raise UserError("--calibration_dir: no image could be read")
    return quantized
